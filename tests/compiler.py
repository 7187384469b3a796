"""Compile and link C++ with ninja, which leaves alone what is up to date."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

COMPILER = shlex.split(os.environ.get("CXX", "g++"))

RULES = """
rule compile
  command = {compiler} $flags -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
rule link
  command = {compiler} -shared $in $flags -o $out
"""

Objects = Mapping[Path, tuple[Path, Sequence[str]]]
"""Object file -> its source, and the compiler's flags for it."""


def has_compiler() -> bool:
    """Whether the C++ compiler is installed."""
    return shutil.which(COMPILER[0]) is not None


def build_library(target: Path, objects: Objects, libraries: Sequence[str] = ()) -> Path:
    """Compile what is missing or older than its sources, two files at a time, and link it all.

    Args:
        target: the library. Several in one folder may share objects.
        objects: what it is made of.
        libraries: flags for the linker.

    Returns:
        The target.
    """
    lines = [RULES.format(compiler=shlex.join(COMPILER))]
    for built, (source, flags) in objects.items():
        lines += [f"build {built}: compile {source}", f"  flags = {_escaped(flags)}"]
    inputs = " ".join(map(str, objects))
    lines += [f"build {target}: link {inputs}", f"  flags = {_escaped(libraries)}", ""]
    rules = target.with_suffix(".ninja")
    rules.write_text("\n".join(lines))
    command = [sys.executable, "-m", "ninja", "-f", rules, "-j2"]
    child = subprocess.run([*map(str, command)], cwd=target.parent, capture_output=True, text=True)
    assert child.returncode == 0, f"{child.stdout}\n{child.stderr}"
    return target


def _escaped(flags: Sequence[str]) -> str:
    """Quote flags for the shell that ninja starts, and for ninja."""
    return shlex.join(flags).replace("$", "$$")
