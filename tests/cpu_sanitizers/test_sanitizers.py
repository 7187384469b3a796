"""Runs check_kernels.py where the extension's CPU part is built under sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cpu_sanitizers.build import build
from tests.sanitizers import COMPILER, run_checks, sanitizing_environment
from tests.setup_script import setup

pytestmark = pytest.mark.emulator

HERE = Path(__file__).parent

OVERRUN = """
import torch
from tests.cpu_sanitizers.check_kernels import pool_into
pool_into(torch.zeros(1, 1, 1, 64), torch.zeros(1, 1, 1, 65), 65)
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sanitized extension; the same for the workers of pytest-xdist."""
    if sys.platform != "linux" or shutil.which(COMPILER) is None:
        pytest.skip("needs Linux and a C++ compiler")
    import fcntl  # Linux has it

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / "cpu_sanitizers"
    folder.mkdir(exist_ok=True)
    with folder.joinpath("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build(folder)


@pytest.mark.parametrize("isa", setup().INSTRUCTION_SETS)
def test_kernels_under_sanitizers(library: Path, isa: str) -> None:
    runs = {"AVX2": ("avx2",), "AVX512": ("avx2", "avx512")}
    everywhere = ("baseline", "amx")  # which is emulated
    if isa not in (*everywhere, *runs.get(torch.backends.cpu.get_cpu_capability(), ())):
        pytest.skip(f"this machine has no {isa}")
    environment = {**sanitizing_environment(), "GOOGLENET_FAST_ISA": isa}
    run_checks(HERE, ["check_kernels.py"], library, environment)


def test_an_access_out_of_bounds_is_caught(library: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", OVERRUN],
        cwd=HERE.parents[1],
        env={
            **os.environ,
            **sanitizing_environment(),
            "GOOGLENET_FAST_EXTENSION": str(library),
        },
        capture_output=True,
        text=True,
    )
    assert child.returncode != 0
    assert "heap-buffer-overflow" in child.stderr
    assert "max_of_rows" in child.stderr
