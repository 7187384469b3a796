"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers already fill the cores; more threads would only wait for each other. Set before torch
    # is imported, and inherited by the processes that tests start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Reference data too large to commit; tests that need it skip where it is absent."""


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the sample dataset and listings that tests make out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip(f"needs the reference data in {data}")
    return data
