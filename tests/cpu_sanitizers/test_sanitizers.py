"""Run the checks of CPU kernels and registered ops on builds under sanitizers."""

import sys
from pathlib import Path

import pytest
import torch

from tests.compiler import has_compiler
from tests.cpu_sanitizers.build import build
from tests.helpers import locked, run_python
from tests.raw_kernels.build import HERE as RAW
from tests.raw_kernels.build import build_cpu
from tests.raw_kernels.cases import write_cases
from tests.sanitizers import run_checks, run_extension_checks, sanitizing_environment
from tests.setup_script import setup

pytestmark = [pytest.mark.emulator, pytest.mark.slow]

HERE = Path(__file__).parent

OVERRUN = """
import sys
from pathlib import Path
import numpy as np
from tests.raw_kernels.load import load
x = np.zeros((1, 1, 1, 64), np.float32)
wide = np.lib.stride_tricks.as_strided(x, (1, 1, 1, 65))
load(Path(sys.argv[1])).max_pool(wide, np.zeros((1, 1, 1, 65), np.float32))
"""


@pytest.fixture(scope="session")
def library(session_folder: Path) -> Path:
    """The sanitized extension, built once for all worker processes."""
    check_compiler()
    folder = session_folder / "cpu_sanitizers"
    with locked(folder):
        return build(folder)


@pytest.fixture(scope="session")
def raw_kernels() -> Path:
    """The sanitized kernels without torch."""
    check_compiler()
    return build_cpu(sanitized=True)


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    write_cases(folder)
    return folder


def check_compiler() -> None:
    if sys.platform != "linux" or not has_compiler():
        pytest.skip("needs Linux and a C++ compiler")


@pytest.mark.parametrize("isa", setup().INSTRUCTION_SETS)
def test_kernels_under_sanitizers(raw_kernels: Path, cases: Path, isa: str) -> None:
    runs = {"AVX2": ("avx2",), "AVX512": ("avx2", "avx512")}
    everywhere = ("baseline", "amx")  # which is emulated
    if isa not in (*everywhere, *runs.get(torch.backends.cpu.get_cpu_capability(), ())):
        pytest.skip(f"this machine has no {isa}")
    modules = {"RAW_KERNELS": str(raw_kernels), "RAW_KERNELS_CASES": str(cases)}
    environment = {**sanitizing_environment(), **modules, "GOOGLENET_FAST_ISA": isa}
    run_checks(RAW, ["--noconftest", "check_kernels.py"], environment)


@pytest.mark.slow
def test_registered_ops_under_sanitizers(library: Path) -> None:
    vectors = {"AVX2": "avx2", "AVX512": "avx512"}
    isa = vectors.get(torch.backends.cpu.get_cpu_capability(), "baseline")
    environment = {**sanitizing_environment(), "GOOGLENET_FAST_ISA": isa}
    checks = ["-m", "not triton", "../ops/test_registered_ops.py", "../ops/test_fingerprint.py"]
    examples = {"GOOGLENET_FAST_EXAMPLES": "60"}
    run_extension_checks(HERE, checks, library, {**environment, **examples})


def test_an_access_out_of_bounds_is_caught(raw_kernels: Path) -> None:
    program = ("-c", OVERRUN, raw_kernels)
    child = run_python(*program, cwd=HERE.parents[1], environment=sanitizing_environment())
    assert child.returncode != 0
    assert "heap-buffer-overflow" in child.stderr
    assert "max_of_row" in child.stderr
