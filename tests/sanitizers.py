"""AddressSanitizer and UndefinedBehaviorSanitizer in libraries that Python loads."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

COMPILER = os.environ.get("CXX", "g++")
SANITIZE = ["-g1", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
"""Flags for the compiler and the linker."""


def one_unit(sources: Iterable[Path]) -> list[str]:
    """Arguments that compile sources as one, whose common headers are read but once."""
    included = [argument for source in sources for argument in ("-include", str(source))]
    return [*included, "-c", "-xc++", os.devnull]


def sanitizing_environment() -> dict[str, str]:
    """Variables with which Python can load a sanitized library; Python itself leaks."""
    runtimes = [
        subprocess.run([COMPILER, f"-print-file-name={name}.so"], capture_output=True, text=True)
        for name in ("libasan", "libubsan")
    ]
    return {
        "LD_PRELOAD": ":".join(child.stdout.strip() for child in runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",
    }


def run_checks(
    folder: Path, arguments: list[str], library: Path, environment: dict[str, str]
) -> None:
    """Have pytest run files of a folder with a library as the extension."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys"]
    child = subprocess.run(
        [*pytest, *arguments],
        cwd=folder,
        env={**os.environ, **environment, "GOOGLENET_FAST_EXTENSION": str(library)},
        capture_output=True,
        text=True,
    )
    summary = child.stdout.splitlines()[-1:]
    assert child.returncode == 0, f"{child.stdout}\n{child.stderr}"
    assert "passed" in "".join(summary)
    assert "skipped" not in "".join(summary)
