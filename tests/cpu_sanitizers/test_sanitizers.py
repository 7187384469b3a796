"""Run the checks of CPU kernels and registered ops on an extension built under sanitizers."""

import sys
from pathlib import Path

import pytest
import torch

from tests.compiler import has_compiler
from tests.cpu_sanitizers.build import build
from tests.helpers import locked, run_python
from tests.sanitizers import run_checks, sanitizing_environment
from tests.setup_script import setup

pytestmark = [pytest.mark.emulator, pytest.mark.slow]

HERE = Path(__file__).parent

OVERRUN = """
import torch
from tests.cpu_sanitizers.check_kernels import pool_into
pool_into(torch.zeros(1, 1, 1, 64), torch.zeros(1, 1, 1, 65), 65)
"""


@pytest.fixture(scope="session")
def library(session_folder: Path) -> Path:
    """The sanitized extension, built once for all worker processes."""
    if sys.platform != "linux" or not has_compiler():
        pytest.skip("needs Linux and a C++ compiler")
    folder = session_folder / "cpu_sanitizers"
    with locked(folder):
        return build(folder)


@pytest.mark.parametrize("isa", setup().INSTRUCTION_SETS)
def test_kernels_under_sanitizers(library: Path, isa: str) -> None:
    runs = {"AVX2": ("avx2",), "AVX512": ("avx2", "avx512")}
    everywhere = ("baseline", "amx")  # which is emulated
    if isa not in (*everywhere, *runs.get(torch.backends.cpu.get_cpu_capability(), ())):
        pytest.skip(f"this machine has no {isa}")
    environment = {**sanitizing_environment(), "GOOGLENET_FAST_ISA": isa}
    run_checks(HERE, ["check_kernels.py"], library, environment)


@pytest.mark.slow
def test_registered_ops_under_sanitizers(library: Path) -> None:
    vectors = {"AVX2": "avx2", "AVX512": "avx512"}
    isa = vectors.get(torch.backends.cpu.get_cpu_capability(), "baseline")
    environment = {**sanitizing_environment(), "GOOGLENET_FAST_ISA": isa}
    checks = ["-m", "not triton", "../ops/test_registered_ops.py", "../ops/test_fingerprint.py"]
    run_checks(HERE, checks, library, {**environment, "GOOGLENET_FAST_EXAMPLES": "60"})


def test_an_access_out_of_bounds_is_caught(library: Path) -> None:
    environment = {**sanitizing_environment(), "GOOGLENET_FAST_EXTENSION": str(library)}
    child = run_python("-c", OVERRUN, cwd=HERE.parents[1], environment=environment)
    assert child.returncode != 0
    assert "heap-buffer-overflow" in child.stderr
    assert "max_of_row" in child.stderr
