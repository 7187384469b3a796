"""Test libraries under AddressSanitizer and UndefinedBehaviorSanitizer."""

import subprocess
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


def run_checks(
    folder: Path, arguments: list[str], library: Path, environment: dict[str, str]
) -> None:
    """Run files of a folder under pytest, in a process whose extension is the given library."""
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys"]
    variables = {**environment, "GOOGLENET_FAST_EXTENSION": str(library)}
    child = run_python(*pytest, *arguments, cwd=folder, environment=variables)
    summary = "".join(child.stdout.splitlines()[-1:])
    assert child.returncode == 0, f"{child.stdout}\n{child.stderr}"
    assert "passed" in summary
    assert "skipped" not in summary
