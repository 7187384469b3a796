"""Time functions in turn, with one record format for every benchmark.

`pytest benchmarks/ -s` runs all benchmarks and prints their tables. If GOOGLENET_FAST_BENCH_OUT
names a file, each measurement is also appended to it as a line of JSON.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import googlenet_fast


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


def interleave(
    benchmark: str,
    providers: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 7,
    errors: Mapping[str, float] | None = None,
    clock: Callable[[Callable[[], object]], float] | None = None,
) -> dict[str, Measurement]:
    """Time every provider in turn, `repeats` times, after one untimed round.

    The first provider is the baseline. Ratios are of times in the same round, so a machine that is
    slow for a while affects both sides. Prints a table and records it.

    Args:
        benchmark: its name and case.
        providers: functions to time, by name.
        repeats: timed rounds.
        errors: relative errors by provider.
        clock: returns the seconds that a function takes. Default: `host_seconds`.
    """
    clock = clock or host_seconds
    times: dict[str, list[float]] = {name: [] for name in providers}
    for work in providers.values():
        work()
    for _ in range(repeats):
        for name, work in providers.items():
            times[name].append(1e3 * clock(work))
    baseline = next(iter(times.values()))
    measurements = {}
    print(f"\n{benchmark}")
    for name, samples in times.items():
        p20, p50, p80 = (statistics.quantiles(samples, n=10)[i] for i in (1, 4, 7))
        ratio = statistics.median(b / s for b, s in zip(baseline, samples, strict=True))
        measurement = Measurement(benchmark, name, p20, p50, p80, ratio, (errors or {}).get(name))
        measurements[name] = measurement
        print(f"  {name:28} p20 {p20:9.3f}  p50 {p50:9.3f}  p80 {p80:9.3f} ms  x{ratio:.3f}")
        _record(measurement)
    return measurements


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


def _record(measurement: Measurement) -> None:
    output = os.environ.get("GOOGLENET_FAST_BENCH_OUT")
    if output:
        with Path(output).open("a") as file:
            file.write(json.dumps({**asdict(measurement), **_environment()}) + "\n")


def _environment() -> dict[str, str | int]:
    cuda = torch.cuda.is_available()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "version": googlenet_fast.__version__,
        "commit": commit.stdout.strip(),
    }
