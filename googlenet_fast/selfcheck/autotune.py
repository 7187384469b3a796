"""Which backend of an op is fastest on a GPU, for each layer.

A fused kernel can lose against the library's convolution. `auto` prefers what was measured on this
GPU: training runs measure before they start, and the disk cache keeps it. Else the package's
`speed_table.json` decides, else the order in which backends are listed. What is known of a layer
in fp16 serves in other dtypes too: an H100 chose the same in bf16, call by call.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import resources
from typing import Any, Literal

import torch

from googlenet_fast.registry import OPS, Call, Op, invalidate
from googlenet_fast.selfcheck.cases import OpCall, activations, resized
from googlenet_fast.selfcheck.disk_cache import decode, encode, read_record, write_record
from googlenet_fast.selfcheck.timing import interleaved_medians

RECORD = "fastest-kernels"
"""Name of the record of what was measured."""

LONG_RUN = 2000
"""Steps from which on a search pays; it takes some seconds to a minute."""

Medians = Callable[[Mapping[str, Callable[[], Any]], str], dict[str, float]]
"""Times functions by name on a device: `interleaved_medians`."""

_fastest: dict[tuple[str, Call], str] = {}
_loaded: set[str] = set()


def order(op: str, names: tuple[str, ...], device: str, layer: Call) -> tuple[str, ...]:
    """Return the names, the fastest first where one is known to be, else as they are."""
    _load(device)
    fastest = _fastest.get((op, layer)) or _fastest.get((op, _in_fp16(layer)))
    if fastest not in names:
        return names
    return fastest, *(name for name in names if name != fastest)


def adopt(entries: Iterable[Mapping[str, Any]], device: str) -> None:
    """Use these measurements, as `entry` makes them, for `auto` on a device; later ones win."""
    _load(device)  # first, or it would win over them
    _take(entries)
    invalidate()


def _load(device: str) -> None:
    """Read the package's table and what was measured on the device, once per process."""
    if device not in _loaded:
        _loaded.add(device)
        _take(committed())
        if torch.cuda.is_available():
            _take(sorted(measured(device), key=lambda found: found["batch"]))


def _take(entries: Iterable[Mapping[str, Any]]) -> None:
    for found in entries:
        op, layer = found["op"], decode(found["layer"])
        _fastest[op, layer] = fastest = _fastest_of(found)
        if activations(layer)[1] == torch.float16:
            _fastest[op, _in_fp16(layer)] = fastest


def _in_fp16(value: Any) -> Any:
    """Return a layer with fp16 in place of every dtype."""
    if isinstance(value, tuple):
        return tuple(map(_in_fp16, value))
    return torch.float16 if isinstance(value, torch.dtype) else value


def _fastest_of(found: Mapping[str, Any]) -> str:
    seconds = found["seconds"]
    return min(seconds, key=seconds.__getitem__)


def measure(
    op: Op, call: Call, device: str, medians: Medians = interleaved_medians
) -> dict[str, float]:
    """Return the seconds that each backend takes for a call; nothing where there is no choice.

    A backend that fails is left out.

    Args:
        op: the op.
        call: as `registry.call_of` returns it.
        device: such as "cuda:0".
        medians: times functions by name on a device.
    """
    op_call = OpCall.of(op, call, device)
    backends = op.on(torch.device(device).type)
    able = [backend for backend in backends if backend.supports(*op_call.arguments) is None]
    runs: dict[str, Callable[[], Any]] = {}
    for backend in able if len(able) > 1 else []:
        try:
            op_call.run(backend)
        except Exception:  # out of memory, a compiler's failure: what cannot run is not fastest
            continue
        runs[backend.name] = partial(op_call.run, backend)
    return medians(runs, device) if runs else {}


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
        A line for each op: how many layers each backend won.
    """
    entries = broadcast(None if calls is None else _entries(contested(calls), device, measure))
    adopt(entries, device)
    wins: dict[str, Counter[str]] = {}
    for found in entries:
        wins.setdefault(found["op"], Counter())[_fastest_of(found)] += 1
    return [
        f"fastest {op}: " + ", ".join(f"{name} for {n} shapes" for name, n in count.most_common())
        for op, count in sorted(wins.items())
    ]


def contested(calls: Iterable[tuple[str, Call]]) -> list[tuple[str, Call]]:
    """Return the calls of ops that have several backends on GPUs."""
    return [(op, call) for op, call in calls if len(OPS[op].on("cuda")) > 1]


def _entries(
    calls: Iterable[tuple[str, Call]],
    device: str,
    measure: Callable[[Op, Call, str], dict[str, float]],
) -> list[dict[str, Any]]:
    known = {_identity(found): found for found in measured(device)}
    entries, new = [], []
    for op, call in calls:
        found = known.get(_identity(entry(op, call, {})))
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


def entry(op: str, call: Call, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Describe a measurement of a call in values that JSON has."""
    training, (shape, dtype), *others = call
    layer = training, (shape[1:], dtype), *others
    return {"op": op, "layer": encode(layer), "batch": shape[0], "seconds": dict(seconds)}


def measured(device: str) -> list[dict[str, Any]]:
    """Return the entries measured on a device before, without those that are damaged."""
    return [found for found in read_record(RECORD, device) if _is_entry(found)]


def remember(entries: Iterable[dict[str, Any]], device: str) -> None:
    """Add entries to what was measured on a device before, in place of those of the same call."""
    record = {_identity(found): found for found in (*measured(device), *entries)}
    write_record(RECORD, device, list(record.values()))


def committed() -> list[dict[str, Any]]:
    """Return the entries of the package's table."""
    table = resources.files("googlenet_fast.selfcheck") / "speed_table.json"
    return json.loads(table.read_text())["entries"]


def _identity(found: Mapping[str, Any]) -> str:
    return json.dumps([found["op"], found["layer"], found["batch"]])


def _is_entry(found: Any) -> bool:
    try:
        resized(decode(found["layer"]), 1)
        activations(decode(found["layer"]))
        seconds = found["seconds"]
        return (
            isinstance(found["op"], str)
            and isinstance(found["batch"], int)
            and all(isinstance(second, float) for second in seconds.values())
            and len(seconds) > 0
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return False
