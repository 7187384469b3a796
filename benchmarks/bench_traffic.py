"""Prints what a step moves through memory, in a process whose Triton interprets."""

import subprocess
import sys


def bench_traffic() -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.traffic", "--output", "-"], check=True)
