"""The emulated libraries, built once for all worker processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import helpers
from tests.cuda_emulator.build import Build, build_kernels, build_raw, build_samples, missing


@pytest.fixture(scope="session")
def kernels(session_folder: Path) -> Build:
    """Library of the extension's kernels, given the lanes of a warp and the kind of build."""
    return built_once(session_folder / "cuda_emulator", build_kernels)


@pytest.fixture(scope="session")
def raw_kernels(session_folder: Path) -> Build:
    """Module of the kernels without torch, likewise."""
    return built_once(session_folder / "cuda_emulator", build_raw)


@pytest.fixture(scope="session")
def samples(session_folder: Path) -> Build:
    """Library of samples.cu, likewise."""
    return built_once(session_folder / "cuda_emulator", build_samples)


def built_once(folder: Path, build: Callable[[Path, int, str], Path]) -> Build:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)

    def build_locked(lanes: int, kind: str) -> Path:
        with helpers.locked(folder):
            return build(folder, lanes, kind)

    return build_locked


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    with helpers.poisoned_memory():
        yield
