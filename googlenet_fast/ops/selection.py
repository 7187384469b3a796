"""Which implementation of an op is fastest on a GPU, for each shape.

A fused kernel can lose against the library's convolution. `auto` prefers what was measured on this
GPU (`measure`, which training runs call; kept in the cache directory), else what the package's
table `fastest.json` says, else the order in which implementations are registered. What is known of
a call in fp16 serves in other dtypes too: an H100 chose alike in bf16, call by call.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from googlenet_fast.ops.records import read_record, write_record
from googlenet_fast.ops.timing import interleaved_medians
from googlenet_fast.ops.trial import Call, Trial

RECORD = "fastest-kernels"
"""Name of the record of what was measured."""

_fastest: dict[tuple[str, Call], str] = {}
_loaded: set[str] = set()
_seen: dict[tuple[str, Call], None] | None = None


def call_of(arguments: Sequence[Any]) -> Call:
    """Describe an op's arguments; the first is its activations, (N, C, H, W)."""
    x, *rest = arguments
    others = [tuple(value.shape) if isinstance(value, Tensor) else value for value in rest]
    return torch.is_grad_enabled(), x.dtype, tuple(x.shape[1:]), *others


def by_speed(op: str, names: Sequence[str], arguments: Sequence[Any]) -> Sequence[str]:
    """Return the names with the fastest first, where one is known to be, else as they are."""
    call = call_of(arguments)
    _load(f"cuda:{arguments[0].device.index or 0}")
    in_fp16 = (call[0], torch.float16, *call[2:])
    fastest = _fastest.get((op, call), _fastest.get((op, in_fp16)))
    if fastest is None or fastest not in names:
        return names
    return [fastest, *(name for name in names if name != fastest)]


@contextmanager
def calls_seen() -> Iterator[dict[tuple[str, Call], None]]:
    """Collect the calls of ops of which there is a choice on a GPU, inside the `with` block."""
    global _seen
    previous, _seen = _seen, {}
    try:
        yield _seen
    finally:
        _seen = previous


def note(op: str, arguments: Sequence[Any]) -> None:
    """Show a call to `calls_seen`."""
    if _seen is not None:
        _seen[op, call_of(arguments)] = None


def measure(
    op: str,
    call: Call,
    names: Sequence[str],
    batch: int,
    device: str,
    medians: Callable[[Mapping[str, Callable[[], Any]], str], dict[str, float]] = (
        interleaved_medians
    ),
) -> dict[str, float]:
    """Return the seconds that implementations of an op take for a call.

    Args:
        op: name of the op, and of its public function.
        call: what `call_of` gives.
        names: implementations; one that fails is left out of the result.
        batch: images.
        device: such as "cuda:0".
        medians: times functions by name on a device.
    """
    trial = Trial.of_call(op, call, batch, device)
    runs: dict[str, Callable[[], Any]] = {}
    for name in names:
        try:
            trial.run(name)
        except Exception:  # out of memory, a compiler's failure: what cannot run is not fastest
            continue
        runs[name] = partial(trial.run, name)
    return medians(runs, device)


def adopt(entries: Iterable[Mapping[str, Any]], device: str) -> None:
    """Have `auto` on a device go by entries, as `entry` makes them; later ones win."""
    _load(device)  # first, or it would win over them
    _take(entries)


def _take(entries: Iterable[Mapping[str, Any]]) -> None:
    for found in entries:
        seconds = found["seconds"]
        _fastest[found["op"], decode(found["call"])] = min(seconds, key=seconds.__getitem__)


def entry(op: str, call: Call, batch: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Describe a measurement in values that JSON has."""
    return {"op": op, "call": encode(call), "batch": batch, "seconds": dict(seconds)}


def measured(device: str) -> list[dict[str, Any]]:
    """Return the entries measured on a device before, without those that are damaged."""
    return [found for found in read_record(RECORD, device) if _is_entry(found)]


def remember(entries: Iterable[dict[str, Any]], device: str) -> None:
    """Add entries to what was measured on a device before, in place of those of the same call."""
    record = {_identity(found): found for found in (*measured(device), *entries)}
    write_record(RECORD, device, list(record.values()))


def _identity(found: Mapping[str, Any]) -> str:
    return json.dumps([found["op"], found["call"], found["batch"]])


def _is_entry(found: Any) -> bool:
    try:
        decode(found["call"])
        seconds = found["seconds"]
        return (
            isinstance(found["op"], str)
            and isinstance(found["batch"], int)
            and all(isinstance(second, float) for second in seconds.values())
            and len(seconds) > 0
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


@torch._dynamo.assume_constant_result
def _load(device: str) -> None:
    """Take in the package's table and what was measured on the device, once per process."""
    if device not in _loaded:
        _loaded.add(device)
        _take(committed())
        if torch.cuda.is_available():
            _take(sorted(measured(device), key=lambda found: found["batch"]))


def committed() -> list[dict[str, Any]]:
    """Return the entries of the package's table."""
    table = resources.files("googlenet_fast.ops") / "fastest.json"
    return json.loads(table.read_text())["entries"]


def encode(value: Any) -> Any:
    """Turn a call into values that JSON has."""
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    return str(value) if isinstance(value, torch.dtype) else value


def decode(value: Any) -> Any:
    """Turn what JSON gives back into a call.

    Raises:
        ValueError: it has what no call has.
    """
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if isinstance(value, str):
        dtype = getattr(torch, value.removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"no dtype {value}")
        return dtype
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise ValueError(f"{value!r} in a call")
