"""Compile and link C++ with ninja, which leaves alone what is up to date."""

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.setup_script import setup

COMPILER = shlex.split(os.environ.get("CXX", "g++"))

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
    step = setup().Step
    steps = [
        step(built, [source], [*COMPILER, *flags]) for built, (source, flags) in objects.items()
    ]
    steps.append(step(target, list(objects), [*COMPILER, "-shared"], libraries))
    setup().run_ninja(target.parent, steps, jobs=2)
    return target
