"""Run the C++ compiler."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

COMPILER = shlex.split(os.environ.get("CXX", "g++"))


def has_compiler() -> bool:
    """Whether the C++ compiler is installed."""
    return shutil.which(COMPILER[0]) is not None


def compile_all(commands: Iterable[Sequence[str]]) -> None:
    """Run the compiler with each list of arguments, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run_compiler, commands))


def run_compiler(arguments: Sequence[str]) -> None:
    """Run the compiler; raise what it prints if it fails."""
    child = subprocess.run([*COMPILER, *arguments], capture_output=True, text=True)
    assert child.returncode == 0, f"{' '.join(arguments)}\n{child.stderr}"
