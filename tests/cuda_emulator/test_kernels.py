"""Run check_*.py in processes whose extension is the emulator."""

from pathlib import Path

import pytest

from tests.cuda_emulator.build import Build
from tests.sanitizers import run_checks, sanitizing_environment

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


def test_kernels_equal_the_reference_under_sanitizers(kernels: Build) -> None:
    run_checks(HERE, [*CHECKS, "-k", EXCLUDED], kernels(32, "sanitized"), sanitizing_environment())


def test_kernels_equal_the_reference_with_warps_of_64_lanes(kernels: Build) -> None:
    selected = f"{EXCLUDED} and not bfloat16"
    run_checks(HERE, [*CHECKS, "-k", selected], kernels(64, "sanitized"), sanitizing_environment())


def test_registered_ops_under_sanitizers(kernels: Build) -> None:
    environment = {**sanitizing_environment(), "GOOGLENET_FAST_EXAMPLES": "60"}
    checks = ["-m", "not triton", "../ops/test_registered_ops.py"]
    run_checks(HERE, checks, kernels(32, "sanitized"), environment)


def test_ops_work_with_torch_and_kernels_move_the_least_bytes(kernels: Build) -> None:
    checks = ["check_ops.py", "check_traffic.py", "check_bn_traffic.py"]
    run_checks(HERE, checks, kernels(32, "traced"), {})
