"""Time functions in turn, with one record format for every benchmark.

`pytest benchmarks/` runs all benchmarks and ends with a table of `measurements` and `remarks`.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

DISTURBED = 0.1
"""Share of one core above which other processes' work marks a measurement as disturbed."""


@dataclass(frozen=True)
class Measurement:
    """Times of one provider on one task."""

    benchmark: str
    """Name of the benchmark and its case (shape, dtype, layout)."""
    provider: str
    """Name of the function that was timed."""
    p20: float
    """20th percentile of the times, in ms."""
    p50: float
    """Median, in ms."""
    p80: float
    """80th percentile, in ms."""
    ratio: float
    """Median over the repeats of baseline time / this provider's time: above 1 is faster."""
    error: float | None
    """Largest relative error against the reference; None if results were not compared."""
    rate: str
    """What a median means for this work, such as images a second; may be empty."""
    disturbance: float
    """Cores that other processes kept busy meanwhile, on average."""

    @property
    def disturbed(self) -> bool:
        """Whether other processes may have slowed it down."""
        return self.disturbance > DISTURBED


measurements: list[Measurement] = []
"""Every measurement of this process, in order."""

remarks: list[str] = []
"""What benchmarks say beside their times."""

quick = False
"""Whether to leave out what takes long: `pytest benchmarks/ --quick`."""


def interleave(
    benchmark: str,
    providers: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 7,
    errors: Mapping[str, float] | None = None,
    clock: Callable[[Callable[[], object]], float] | None = None,
    rate: Callable[[float], str] = lambda seconds: "",
) -> dict[str, Measurement]:
    """Time every provider in turn, `repeats` times, after one untimed round.

    The first provider is the baseline. Ratios are of times in the same round, so a machine that is
    slow for a while affects both sides.

    Args:
        benchmark: its name and case.
        providers: functions to time, by name.
        repeats: timed rounds.
        errors: relative errors by provider.
        clock: returns the seconds that a function takes. Default: `host_seconds`.
        rate: returns what a median, in seconds, means for this work.
    """
    clock = clock or host_seconds
    times: dict[str, list[float]] = {name: [] for name in providers}
    for work in providers.values():
        work()
    others = OtherProcesses()
    for _ in range(repeats):
        for name, work in providers.items():
            times[name].append(1e3 * clock(work))
    disturbance = others.busy_cores()
    baseline = next(iter(times.values()))
    found = {}
    for name, samples in times.items():
        p20, p50, p80 = (statistics.quantiles(samples, n=10)[i] for i in (1, 4, 7))
        ratio = statistics.median(b / s for b, s in zip(baseline, samples, strict=True))
        error = (errors or {}).get(name)
        found[name] = Measurement(
            benchmark, name, p20, p50, p80, ratio, error, rate(p50 / 1e3), disturbance
        )
    measurements.extend(found.values())
    return found


class OtherProcesses:
    """How busy the machine is with what is not this process and its children.

    Time that a virtual machine is not given counts too.
    """

    def __init__(self) -> None:
        self._start = time.monotonic(), self._seconds()

    def busy_cores(self) -> float:
        """Return the cores that they kept busy since the start, on average."""
        now = time.monotonic(), self._seconds()
        return max(0.0, (now[1] - self._start[1]) / (now[0] - self._start[0]))

    @staticmethod
    def _seconds() -> float:
        machine = psutil.cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        guests = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)
        own = 0.0
        process = psutil.Process()
        for each in (process, *process.children(recursive=True)):
            try:
                own += sum(each.cpu_times()[:4])  # its ended children's too
            except psutil.NoSuchProcess:
                continue
        return sum(machine) - idle - guests - own  # guests' time is in the user's


def relative_error(actual: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Return the largest of the tensors' relative errors, in norm."""
    return max(
        ((a.double() - e).norm() / e.norm()).item() for a, e in zip(actual, exact, strict=True)
    )


def host_seconds(work: Callable[[], object]) -> float:
    """Return the seconds from the call until the device is done."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
