"""Time work on the device of a run."""

import time
from collections.abc import Callable
from statistics import median

import torch

REPEATS = 9
"""Timings; the median counts."""


def seconds(work: Callable[[], object], device: str, repeats: int = REPEATS) -> float:
    """Return the median seconds of a function, after one call that is not timed.

    Args:
        work: launches everything on the current stream.
        device: "cuda" or "cpu".
        repeats: timings.
    """
    work()
    return median(_once(work, device) for _ in range(repeats))


def _once(work: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000
