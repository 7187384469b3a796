"""Prints what every Triton kernel takes of a GPU, in a process whose Triton compiles."""

import os
import subprocess
import sys


def bench_kernel_resources() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "benchmarks.kernel_resources", "--output", "-"]
    subprocess.run(command, env=environment, check=True)
