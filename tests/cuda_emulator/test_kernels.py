"""Run check_*.py in processes whose extension, or module of raw kernels, is the emulator."""

from pathlib import Path

import pytest

from tests.cuda_emulator.build import Build
from tests.raw_kernels.build import HERE as RAW
from tests.raw_kernels.cases import write_cases
from tests.sanitizers import run_checks, run_extension_checks, sanitizing_environment

pytestmark = [pytest.mark.emulator, pytest.mark.slow]

HERE = Path(__file__).parent
CHECKS = [
    "check_kernels.py",
    "../ops/test_bn_relu_concat.py",
    "../ops/test_bn_relu_pool.py",
    "../ops/test_sgd_step.py",
]
EXCLUDED = "not float64 and not fake_cuda and not compile"
"""The kernels take no float64; fake tensors and compilation are tested without sanitizers."""


def test_raw_kernels_under_sanitizers(raw_kernels: Build, tmp_path: Path) -> None:
    write_cases(tmp_path)
    modules = {
        "RAW_KERNELS": str(raw_kernels(32, "sanitized")),
        "RAW_KERNELS_CASES": str(tmp_path),
    }
    run_checks(RAW, ["--noconftest", "check_kernels.py"], {**sanitizing_environment(), **modules})


def test_kernels_equal_the_reference_under_sanitizers(kernels: Build) -> None:
    checks = [*CHECKS, "-k", EXCLUDED]
    run_extension_checks(HERE, checks, kernels(32, "sanitized"), sanitizing_environment())


def test_kernels_equal_the_reference_with_warps_of_64_lanes(kernels: Build) -> None:
    checks = [*CHECKS, "-k", f"{EXCLUDED} and not bfloat16"]
    run_extension_checks(HERE, checks, kernels(64, "sanitized"), sanitizing_environment())


def test_registered_ops_under_sanitizers(kernels: Build) -> None:
    environment = {**sanitizing_environment(), "GOOGLENET_FAST_EXAMPLES": "60"}
    checks = ["-m", "not triton", "../ops/test_registered_ops.py"]
    run_extension_checks(HERE, checks, kernels(32, "sanitized"), environment)


def test_ops_work_with_torch_and_kernels_move_the_least_bytes(kernels: Build) -> None:
    checks = ["check_ops.py", "check_traffic.py", "check_bn_traffic.py"]
    run_extension_checks(HERE, checks, kernels(32, "traced"), {})
