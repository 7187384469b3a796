"""Fixtures shared by all tests."""

import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.http_server import Server

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers already fill the cores; more threads would only wait for each other. Set before torch
    # is imported, and inherited by the processes that tests start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if torch.cuda.is_available():
    # Results are compared in fp32, of which tf32 keeps half the digits.
    torch.backends.cudnn.allow_tf32 = False
else:
    # Triton's interpreter runs the kernels on CPU tensors. Set before triton is imported.
    os.environ["TRITON_INTERPRET"] = "1"

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Reference data too large to commit; tests that need it skip where it is absent."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start slow tests first when several processes share them, so that none is left for last."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked with what this machine lacks; CPU builds of torch come without Triton."""
    if item.get_closest_marker("triton") and find_spec("triton") is None:
        pytest.skip("needs Triton")
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the sample dataset and listings that tests make out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all worker processes of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def device() -> str:
    """Type of device that Triton kernels run on here: CPU tensors are for the interpreter."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def fast_interpreter() -> Iterator[None]:
    """For tests that take Triton's interpreter long."""
    from benchmarks.tools.interpreter_traffic import without_overflow_checks  # imports triton

    with without_overflow_checks():
        yield


@pytest.fixture
def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs an entry point's `main` with arguments and gives its status, stdout and stderr."""
    from googlenet_fast.errors import run_command  # imports torch, which OMP_NUM_THREADS precedes

    def run(main: Callable[[], None], *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["test", *map(str, arguments)])
        status = 0
        try:
            run_command(main)
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip(f"needs the reference data in {data}")
    return data


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of 40 training and 10 validation digits."""
    from googlenet_fast.data import sample_dataset  # after OMP_NUM_THREADS, as above

    digits = sample_dataset()
    folder = tmp_path_factory.mktemp("few digits")
    for split, count in (("train", 4), ("val", 1)):
        lines = (digits / f"{split}_list.txt").read_text().splitlines()
        by_class = [[line for line in lines if line.endswith(f" {c}")] for c in range(10)]
        chosen = [line for members in by_class for line in members[:count]]
        (folder / f"{split}_list.txt").write_text("\n".join(chosen))
    return folder


@pytest.fixture
def server() -> Iterator["Server"]:
    """A web server on this machine."""
    from tests.http_server import serve

    with serve() as running:
        yield running
