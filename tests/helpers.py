"""What several test files share."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

TRITON = pytest.param("triton", marks=pytest.mark.triton)
"""Parameter of tests that run every backend: this one needs Triton."""


def run_python(
    *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the interpreter with arguments, in this environment and that of this process."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
    )


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference, as a fraction of the expected tensor's norm."""
    return ((actual - expected).norm() / expected.norm()).item()


def sparse_tensor(size: int, dtype: torch.dtype) -> Tensor:
    """Zeros that take memory only where they are written, so that there may be billions (Linux)."""
    no_reserve = 0x4000  # MAP_NORESERVE, which Python has no name for
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    return torch.frombuffer(mmap.mmap(-1, size * dtype.itemsize, flags), dtype=dtype)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill what torch.empty returns with NaN, so that unwritten memory is not zero by chance."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder, in which one process at a time works."""
    import fcntl  # absent on Windows

    folder.mkdir(parents=True, exist_ok=True)
    with folder.joinpath("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
