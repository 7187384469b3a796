"""Times of functions that run on a GPU, side by side."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch

ROUNDS, REPEATS = 7, 3
"""Rounds in which every function has its turn, and runs in a turn, of which one time is taken."""


def interleaved_medians(runs: Mapping[str, Callable[[], Any]], device: str) -> dict[str, float]:
    """Return the median seconds of each function, whose turns alternate after a warm-up.

    Args:
        runs: functions by name.
        device: such as "cuda:0".
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(ROUNDS + 1):
        for name, run in runs.items():
            seconds = _seconds(run, device) / REPEATS
            if round_ > 0:
                times[name].append(seconds)
    return {name: median(values) for name, values in times.items()}


def _seconds(run: Callable[[], Any], device: str) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(REPEATS):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
