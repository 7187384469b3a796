"""Time functions on a GPU side by side."""

from collections.abc import Callable, Mapping
from math import ceil
from statistics import median
from typing import Any

import torch

ROUNDS = 7
"""Timed rounds, in which every function has its turn."""

HEAD_START = 5e-3
"""Seconds that a GPU is kept busy while the host launches the work to be timed."""

Clock = Callable[[Callable[[], Any]], float]
"""Returns the seconds that a function takes."""


class ColdGpuClock:
    """Time on a GPU, from cold caches.

    The GPU fills memory first, for so long that the host has launched the work by then. Otherwise
    small layers would be timed by how fast the host launches them.
    """

    def __init__(self, device: str = "cuda") -> None:
        self._device = device
        size = torch.cuda.get_device_properties(device).L2_cache_size
        self._other = torch.empty(2 * size, dtype=torch.uint8, device=device)
        self._fills = 100
        with torch.cuda.device(device):
            seconds = min(self._seconds(self._occupy) for _ in range(3))
        self._fills = ceil(self._fills * HEAD_START / seconds)

    def __call__(self, work: Callable[[], Any]) -> float:
        """Return the seconds between two events around the work."""
        with torch.cuda.device(self._device):
            self._occupy()
            return self._seconds(work)

    def _occupy(self) -> None:
        for _ in range(self._fills):
            self._other.zero_()

    def _seconds(self, work: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
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
