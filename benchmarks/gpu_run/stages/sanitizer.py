"""Kernels under compute-sanitizer: one small Inception block, forward and backward."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_run.setting import Setting, SkippedError
from benchmarks.gpu_run.small_block import BACKENDS

TOOLS = ("memcheck", "racecheck")


def run(setting: Setting) -> None:
    """Record how many errors each tool finds with each backend."""
    found = shutil.which("compute-sanitizer")
    program = found or "/usr/local/cuda/bin/compute-sanitizer"
    if not setting.dry_run and not Path(program).is_file():
        raise SkippedError("compute-sanitizer is not installed; it comes with the CUDA toolkit")
    for tool in TOOLS:
        for backend in BACKENDS[setting.device]:
            prefix = [] if setting.dry_run else [program, "--tool", tool, "--error-exitcode", "9"]
            setting.attempt(tool, backend, measure=partial(_check, prefix, backend))


def _check(prefix: list[str], backend: str) -> dict[str, Any]:
    command = [*prefix, sys.executable, "-m", "benchmarks.gpu_run.small_block", backend]
    child = subprocess.run(command, capture_output=True, text=True)
    print(child.stdout, child.stderr, sep="\n")
    if child.returncode not in (0, 9):
        raise RuntimeError(f"exit status {child.returncode}: {child.stderr.strip()[-300:]}")
    summary = [line for line in child.stdout.splitlines() if "SUMMARY" in line]
    return {"errors": child.returncode == 9, "summary": summary[-1:] or ["no sanitizer"]}
