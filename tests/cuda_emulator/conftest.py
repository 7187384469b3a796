"""The emulated libraries, built once for all processes that run tests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.cuda_emulator.build import build_kernels, build_samples, why_not

Build = Callable[[int, str], Path]


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where objects and libraries lie; the same for the workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / "cuda_emulator"
    folder.mkdir(exist_ok=True)
    return folder


def built_once(folder: Path, build: Callable[[Path, int, str], Path]) -> Build:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    import fcntl  # Linux has it

    def locked(lanes: int, kind: str) -> Path:
        with folder.joinpath("lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return build(folder, lanes, kind)

    return locked


@pytest.fixture(scope="session")
def kernels(build_folder: Path) -> Build:
    """Library of the extension's kernels, given the lanes of a warp and the kind of build."""
    return built_once(build_folder, build_kernels)


@pytest.fixture(scope="session")
def samples(build_folder: Path) -> Build:
    """Library of samples.cu, likewise."""
    return built_once(build_folder, build_samples)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill what torch.empty returns with NaN, so that nothing passes for being zero by chance."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
