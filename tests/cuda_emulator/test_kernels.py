"""Runs check_*.py in processes of their own, whose extension is the emulator's."""

from collections.abc import Callable
from pathlib import Path

from tests.sanitizers import run_checks, sanitizing_environment

Build = Callable[[int, str], Path]

HERE = Path(__file__).parent


def test_kernels_equal_the_reference_under_sanitizers(kernels: Build) -> None:
    run_checks(HERE, ["check_kernels.py"], kernels(32, "sanitized"), sanitizing_environment())


def test_kernels_equal_the_reference_with_warps_of_64_lanes(kernels: Build) -> None:
    arguments = ["check_kernels.py", "-k", "not bfloat16"]
    run_checks(HERE, arguments, kernels(64, "sanitized"), sanitizing_environment())


def test_ops_fit_torch_and_kernels_move_no_more_than_they_must(kernels: Build) -> None:
    run_checks(HERE, ["check_ops.py", "check_traffic.py"], kernels(32, "traced"), {})
