"""Times of functions that run on a GPU, side by side."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch

ROUNDS = 7
"""Timed rounds, in which every function has its turn."""

Clock = Callable[[Callable[[], Any]], float]
"""Returns the seconds that a function takes."""


class ColdGpuClock:
    """Time on a GPU, whose caches hold nothing of the work when it begins."""

    def __init__(self, device: str = "cuda") -> None:
        self._device = device
        size = torch.cuda.get_device_properties(device).L2_cache_size
        self._other = torch.empty(2 * size, dtype=torch.uint8, device=device)

    def __call__(self, work: Callable[[], Any]) -> float:
        """Return the seconds between two events around the work."""
        with torch.cuda.device(self._device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._other.zero_()
            start.record()
            work()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1000


def interleaved_medians(
    runs: Mapping[str, Callable[[], Any]], device: str, clock: Clock | None = None
) -> dict[str, float]:
    """Return the median seconds of each function, whose turns alternate after a warm-up.

    Args:
        runs: functions by name.
        device: such as "cuda:0".
        clock: `ColdGpuClock` by default.
    """
    clock = clock or ColdGpuClock(device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(ROUNDS + 1):
        for name, run in runs.items():
            seconds = clock(run)
            if round_ > 0:
                times[name].append(seconds)
    return {name: median(values) for name, values in times.items()}
