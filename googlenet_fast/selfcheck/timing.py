"""Time functions on a GPU side by side, as they run in a captured step."""

from collections.abc import Callable, Mapping
from math import ceil
from statistics import median
from typing import Any

import torch

from googlenet_fast.capture import CudaGraphs

ROUNDS = 7
"""Timed rounds, in which every function has its turn."""

CALLS = 4
"""Calls in a graph. All but the first find in the caches what the call before left there, much as a
layer finds what the layer before it wrote."""

LEAST = 2e-3
"""Seconds of a turn at least: the graph is replayed as often as that takes."""

WARM_UP = 3
"""Calls before a function is captured: they compile kernels and search cuDNN's algorithms."""

Timer = Callable[[], float]
"""Runs a function and returns the seconds of one call."""

Clock = Callable[[Callable[[], Any]], Timer]
"""Prepares a function to be timed."""

Replay = Callable[[], None]
Capture = Callable[[Callable[[], Any], str], Replay]
"""Records a function's work on a device, such as "cuda:0", and returns what repeats it."""


def capture(work: Callable[[], Any], device: str) -> Replay:
    """Capture a function in a CUDA graph, after a warm-up.

    Raises:
        RuntimeError: it does what a graph cannot hold, such as waiting for the GPU.
    """

    def calls(count: int) -> None:
        for _ in range(count):
            work()

    graphs = CudaGraphs(torch.device(device))
    with torch.cuda.device(device):
        graphs.run(lambda: calls(WARM_UP))
        return graphs.capture(lambda: calls(CALLS))


def gpu_seconds(work: Callable[[], Any], device: str) -> float:
    """Return the seconds that a GPU takes for what a function launches."""
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) / 1000


class GraphClock:
    """Time on a GPU from graphs of several calls, so that neither launches nor cold caches count.

    Args:
        device: such as "cuda:0".
        record: records the calls of a function.
        seconds: times what a function launches on the device.
    """

    def __init__(
        self,
        device: str,
        record: Capture = capture,
        seconds: Callable[[Callable[[], Any], str], float] = gpu_seconds,
    ) -> None:
        self._device, self._record, self._seconds = device, record, seconds

    def __call__(self, work: Callable[[], Any]) -> Timer:
        """Record a function.

        Raises:
            RuntimeError: it cannot be captured.
        """
        replay = self._record(work, self._device)
        replay()
        once = self._seconds(replay, self._device)
        replays = max(1, ceil(LEAST / once)) if once > 0 else 1

        def turn() -> None:
            for _ in range(replays):
                replay()

        return lambda: self._seconds(turn, self._device) / (replays * CALLS)


def interleaved_medians(
    runs: Mapping[str, Callable[[], Any]], device: str, clock: Clock | None = None
) -> dict[str, float]:
    """Return the median seconds of each function, whose turns alternate after a warm-up.

    A function that a CUDA graph cannot hold is left out: the steps of a run are captured.

    Args:
        runs: functions by name.
        device: such as "cuda:0".
        clock: `GraphClock` by default.

    Raises:
        torch.OutOfMemoryError: graphs of several calls need more memory than there is.
    """
    clock = clock or GraphClock(device)
    timers: dict[str, Timer] = {}
    for name, run in runs.items():
        try:
            timers[name] = clock(run)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            continue
    times: dict[str, list[float]] = {name: [] for name in timers}
    for round_ in range(ROUNDS + 1):
        for name, timer in timers.items():
            seconds = timer()
            if round_ > 0:
                times[name].append(seconds)
    return {name: median(values) for name, values in times.items()}
