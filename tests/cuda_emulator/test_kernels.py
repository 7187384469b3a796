"""Runs check_*.py in processes of their own, whose extension is the emulator's."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.cuda_emulator.build import sanitizing_environment

Build = Callable[[int, str], Path]

HERE = Path(__file__).parent


def run_checks(arguments: list[str], library: Path, environment: dict[str, str]) -> None:
    """Have pytest run files of this directory with a library as the extension."""
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys", *arguments],
        cwd=HERE,
        env={**os.environ, **environment, "GOOGLENET_FAST_EXTENSION": str(library)},
        capture_output=True,
        text=True,
    )
    summary = child.stdout.splitlines()[-1:]
    assert child.returncode == 0, f"{child.stdout}\n{child.stderr}"
    assert "passed" in "".join(summary)
    assert "skipped" not in "".join(summary)


def test_kernels_equal_the_reference_under_sanitizers(kernels: Build) -> None:
    run_checks(["check_kernels.py"], kernels(32, "sanitized"), sanitizing_environment())


def test_kernels_equal_the_reference_with_warps_of_64_lanes(kernels: Build) -> None:
    arguments = ["check_kernels.py", "-k", "not bfloat16"]
    run_checks(arguments, kernels(64, "sanitized"), sanitizing_environment())


def test_ops_fit_torch_and_kernels_move_no_more_than_they_must(kernels: Build) -> None:
    run_checks(["check_ops.py", "check_traffic.py"], kernels(32, "traced"), {})
