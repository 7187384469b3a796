"""Runs the tests of the op where its CUDA kernels, in the emulator, take the CPU's place."""

from collections.abc import Callable
from pathlib import Path

from tests.sanitizers import run_checks, sanitizing_environment

Build = Callable[[int, str], Path]

HERE = Path(__file__).parent
CHECKS = ["../ops/test_bn_relu_concat.py", "-k", "not float64 and not fake_cuda"]


def test_kernels_equal_the_reference_under_sanitizers(kernels: Build) -> None:
    run_checks(HERE, CHECKS, kernels(32, "sanitized"), sanitizing_environment())


def test_kernels_equal_the_reference_with_warps_of_64_lanes(kernels: Build) -> None:
    arguments = [*CHECKS[:-1], f"{CHECKS[-1]} and not bfloat16 and not compile"]
    run_checks(HERE, arguments, kernels(64, "sanitized"), sanitizing_environment())


def test_kernels_move_no_more_than_they_must(kernels: Build) -> None:
    run_checks(HERE, ["check_bn_traffic.py"], kernels(32, "traced"), {})
