"""Which backend of an op is fastest on a GPU, for each layer.

A fused kernel can lose against the library's convolution. `auto` prefers what was measured on this
GPU: training runs measure before they start, and the disk cache keeps it. What was not measured
takes the nearest layer that was, there or in the package's `speed_table.json`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch

from googlenet_fast.registry import OPS, Call, Op, invalidate
from googlenet_fast.selfcheck.cases import OpCall
from googlenet_fast.selfcheck.disk_cache import read_record, write_record
from googlenet_fast.selfcheck.speed_table import (
    SpeedTable,
    committed,
    entry,
    identity,
    is_entry,
    plausible,
)
from googlenet_fast.selfcheck.timing import interleaved_medians

RECORD = "fastest-kernels"
"""Name of the record of what was measured."""

LONG_RUN = 2000
"""Steps from which on a search pays; it takes some seconds to a minute."""

Medians = Callable[[Mapping[str, Callable[[], Any]], str], dict[str, float]]
"""Times functions by name on a device: `interleaved_medians`."""

_tables: dict[str, SpeedTable] = {}
"""What is known, by device."""


def order(
    op: str, names: tuple[str, ...], device: str, layer: Call, batch: int | None
) -> tuple[str, ...]:
    """Return the names, the fastest first where something is known, else as they are."""
    return _table_of(device).order(op, names, layer, batch)


def adopt(entries: Iterable[Mapping[str, Any]], device: str) -> None:
    """Use these measurements, as `entry` makes them, for `auto` on a device; later ones win."""
    _table_of(device).add(entries, own=True)
    invalidate()


def _table_of(device: str) -> SpeedTable:
    """Read the package's table and what was measured on the device, once per process."""
    if device not in _tables:
        table = SpeedTable()
        table.add(committed(), own=False)
        if torch.cuda.is_available():
            table.add(measured(device), own=True)
        _tables[device] = table
    return _tables[device]


def measure(
    op: Op, call: Call, device: str, medians: Medians = interleaved_medians
) -> dict[str, float]:
    """Return the seconds that each backend takes for a call, in the order of the op.

    A backend that fails is left out.

    Args:
        op: the op.
        call: as `registry.call_of` returns it.
        device: such as "cuda:0".
        medians: times functions by name on a device.
    """
    op_call = OpCall.of(op, call, device)
    runs: dict[str, Callable[[], Any]] = {}
    for backend in op.on(torch.device(device).type):
        if backend.on_request or backend.supports(*op_call.arguments) is not None:
            continue
        try:
            op_call.run(backend)
        except Exception:  # out of memory, a compiler's failure: what cannot run is not fastest
            continue
        runs[backend.name] = partial(op_call.run, backend)
    try:
        return medians(runs, device)
    except torch.OutOfMemoryError:  # several calls in a graph keep more than one
        return {}


def is_search_wanted(mode: Literal["auto", "on", "off"], steps: int, device: torch.device) -> bool:
    """Return True if a run of so many steps starts with a search; on a CPU there is no choice."""
    return device.type == "cuda" and (mode == "on" or (mode == "auto" and steps >= LONG_RUN))


def search(
    calls: Iterable[tuple[str, Call]] | None,
    device: str,
    broadcast: Callable[[Any], Any],
    measure: Callable[[Op, Call, str], dict[str, float]] = measure,
) -> list[str]:
    """Measure what was not measured on this GPU before, and have `auto` use it.

    Args:
        calls: names of ops and calls, as `model.calls_of` returns them, in the process that
            measures; None in those that use its results.
        device: this process's, such as "cuda:0".
        broadcast: returns the argument of the measuring process, in every process.
        measure: `autotune.measure`.

    Returns:
        A line for each op: how many layers with a choice each backend won.
    """
    entries = broadcast(None if calls is None else _entries(contested(calls), device, measure))
    adopt(entries, device)
    wins: dict[str, Counter[str]] = {}
    for found in entries:
        if len(found["seconds"]) > 1:
            wins.setdefault(found["op"], Counter())[_fastest_of(found)] += 1
    return [
        f"fastest {op}: " + ", ".join(f"{name} for {n} shapes" for name, n in count.most_common())
        for op, count in sorted(wins.items())
    ]


def contested(calls: Iterable[tuple[str, Call]]) -> list[tuple[str, Call]]:
    """Return the calls of ops that have several backends on GPUs."""
    return [(op, call) for op, call in calls if len(OPS[op].on("cuda")) > 1]


def seconds_of(
    counts: Mapping[tuple[str, Call], int],
    device: str,
    measure: Callable[[Op, Call, str], dict[str, float]] = measure,
) -> float | None:
    """Add up the times of calls, each by its fastest backend; None if one cannot be timed.

    Args:
        counts: how often each call is made, as `model.count_calls` returns it.
        device: such as "cuda:0".
        measure: `autotune.measure`, for what no search has measured: ops with one backend.
    """
    known = {identity(found): found["seconds"] for found in measured(device)}
    searched = dict.fromkeys(contested(counts))
    total = 0.0
    for (op, call), count in counts.items():
        times = known.get(identity(entry(op, call, {}))) if (op, call) in searched else None
        times = times or measure(OPS[op], call, device)
        if not times:
            return None
        total += count * min(times.values())
    return total


def _fastest_of(found: Mapping[str, Any]) -> str:
    seconds = found["seconds"]
    return min(seconds, key=seconds.__getitem__)


def _entries(
    calls: Iterable[tuple[str, Call]],
    device: str,
    measure: Callable[[Op, Call, str], dict[str, float]],
) -> list[dict[str, Any]]:
    known = {identity(found): found for found in measured(device)}
    entries, new = [], []
    for op, call in calls:
        found = known.get(identity(entry(op, call, {})))
        if found is None:
            seconds = measure(OPS[op], call, device)
            if not seconds:
                continue
            found = entry(op, call, seconds)
            new.append(found)
        entries.append(found)
    if new:
        remember(new, device)
    return entries


def measured(device: str) -> list[dict[str, Any]]:
    """Return the entries measured on a device before, without those damaged or implausible."""
    found = [found for found in read_record(RECORD, device) if is_entry(found)]
    return [dict(found) for found in plausible(found)]


def remember(entries: Iterable[dict[str, Any]], device: str) -> None:
    """Add entries to what was measured on a device before, in place of those of the same call."""
    record = {identity(found): found for found in (*measured(device), *entries)}
    write_record(RECORD, device, list(record.values()))
