"""Test libraries under AddressSanitizer and UndefinedBehaviorSanitizer."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.compiler import COMPILER
from tests.helpers import run_python

SANITIZE = ["-g1", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
"""Flags for the compiler and the linker."""


def sanitizing_environment() -> dict[str, str]:
    """Variables with which Python can load a sanitized library; Python itself leaks."""
    runtimes = [
        subprocess.run([*COMPILER, f"-print-file-name={name}.so"], capture_output=True, text=True)
        for name in ("libasan", "libubsan")
    ]
    return {
        "LD_PRELOAD": ":".join(child.stdout.strip() for child in runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",
    }


def run_checks(folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run files of a folder under pytest, in a process of its own; return its last line."""
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys"]
    child = run_python(*pytest, *arguments, cwd=folder, environment=environment)
    summary = "".join(child.stdout.splitlines()[-1:])
    assert child.returncode == 0, f"{child.stdout}\n{child.stderr}"
    assert "passed" in summary
    return summary


def run_extension_checks(
    folder: Path, arguments: Sequence[str], library: Path, environment: Mapping[str, str]
) -> None:
    """Do the same in a process whose extension is the given library."""
    variables = {**environment, "GOOGLENET_FAST_EXTENSION": str(library)}
    assert "skipped" not in run_checks(folder, arguments, variables)
