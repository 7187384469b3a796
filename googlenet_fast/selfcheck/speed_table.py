"""Times of backends by layer, and what they say about layers that were not measured.

A layer takes the nearest measured one: of the same op, mode, channels and weights, whose pixels of
a batch differ by the smallest factor. Measurements of this GPU come before the package's, which are
of an H100, and of the same precision before others: that GPU chose the same in bf16 and fp16, call
by call. Layers of other channels or weights take the order that costs the measured layers of their
op and mode the least time in all.
"""

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from math import isfinite, log, prod
from statistics import median
from typing import Any, NamedTuple

import torch

from googlenet_fast.registry import OPS, Call
from googlenet_fast.selfcheck.cases import activations, is_tensor, resized
from googlenet_fast.selfcheck.disk_cache import decode, encode

OUTLIER = 5.0
"""A time this many times the median of its like, or less than its inverse, is a mistake. The times
in the package's table are within 2.9."""

LIKE, FEWEST = 8.0, 3
"""Like calls do at most this many times as much or as little work; so many make a median."""

BALANCE = 300.0
"""Operations that take a GPU as long as a byte, to add up a call's work: an H100's limits."""

_HALF = (torch.float16, torch.bfloat16)


class _Known(NamedTuple):
    layer: Call
    batch: int
    seconds: Mapping[str, float]
    own: bool


class SpeedTable:
    """What is known about the speed of backends on one GPU."""

    def __init__(self) -> None:
        self._families: dict[Any, dict[str, _Known]] = {}

    def add(self, entries: Iterable[Mapping[str, Any]], own: bool) -> None:
        """Take measurements, without outliers; later ones of the same call win.

        Args:
            entries: as `entry` makes them.
            own: True if they are of this GPU.
        """
        for found in plausible(entries):
            layer = decode(found["layer"])
            family = self._families.setdefault((found["op"], *_family_of(layer)), {})
            family[identity(found)] = _Known(layer, found["batch"], found["seconds"], own)

    def order(
        self, op: str, names: tuple[str, ...], layer: Call, batch: int | None
    ) -> tuple[str, ...]:
        """Return the names, fastest first; those without a time come last, as they are.

        Args:
            op: the op's name.
            names: of its backends.
            layer: as `registry.layer_of` returns it.
            batch: images; None: unknown.
        """
        family = self._families.get((op, *_family_of(layer)), {})
        able = [known for known in family.values() if not known.seconds.keys().isdisjoint(names)]
        if able:
            seconds = min(reversed(able), key=lambda known: _distance(known, layer, batch)).seconds
        else:
            seconds = self._totals(op, names, layer[0]) or self._totals(op, names, not layer[0])
        timed = sorted((name for name in names if name in seconds), key=seconds.__getitem__)
        return *timed, *(name for name in names if name not in seconds)

    def _totals(self, op: str, names: tuple[str, ...], training: bool) -> dict[str, float]:
        """Add up each backend's time, over all layers for which all have one."""
        of_mode = [
            known.seconds
            for (of, mode, *_), family in self._families.items()
            if (of, mode) == (op, training)
            for known in family.values()
        ]
        timed = [name for name in names if any(name in seconds for seconds in of_mode)]
        whole = [seconds for seconds in of_mode if all(name in seconds for name in timed)]
        return {name: sum(seconds[name] for seconds in whole) for name in timed if whole}


def _family_of(layer: Call) -> tuple[Any, ...]:
    """Return what layers share whose times say something about each other."""
    training, ((channels, *_), _), *others = layer
    return training, channels, *_weights_in(others)


def _weights_in(values: Iterable[Any]) -> list[tuple[int, ...]]:
    return [tuple(value[0]) for value in values if is_tensor(value) and len(value[0]) == 4]


def _distance(known: _Known, layer: Call, batch: int | None) -> tuple[Any, ...]:
    _, ((_, *size), dtype), *others = layer
    _, ((_, *own_size), own_dtype), *own_others = known.layer
    images, own_images = (1, 1) if batch is None else (batch, known.batch)
    ratio = images * prod(size) / (own_images * prod(own_size))
    return (
        (dtype in _HALF) != (own_dtype in _HALF),
        not known.own,
        dtype != own_dtype,
        _in_fp16(tuple(others)) != _in_fp16(tuple(own_others)),
        abs(log(ratio)),
        -known.batch,
    )


def _in_fp16(value: Any) -> Any:
    """Return part of a layer with fp16 in place of every dtype."""
    if isinstance(value, tuple):
        return tuple(map(_in_fp16, value))
    return torch.float16 if isinstance(value, torch.dtype) else value


def entry(op: str, call: Call, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Describe a measurement of a call in values that JSON has."""
    training, (shape, dtype), *others = call
    layer = training, (shape[1:], dtype), *others
    return {"op": op, "layer": encode(layer), "batch": shape[0], "seconds": dict(seconds)}


def identity(found: Mapping[str, Any]) -> str:
    """Return what two entries of the same call have in common."""
    return json.dumps([found["op"], found["layer"], found["batch"]])


def is_entry(found: Any) -> bool:
    """Return True for what `entry` returns, False for what a damaged file may hold."""
    try:
        call = resized(decode(found["layer"]), found["batch"])
        seconds = found["seconds"]
        return (
            isinstance(found["op"], str)
            and isinstance(found["batch"], int)
            and isinstance(call[0], bool)
            and _work(found["op"], call) > 0
            and all(isinstance(second, float) for second in seconds.values())
            and all(isfinite(second) and second > 0 for second in seconds.values())
            and len(seconds) > 0
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return False


def plausible(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries without those of which a time is far from that of like calls.

    Like calls are of the same op, mode and sizes of filters, and about as much work. Times are
    compared by the unit of work. Where few are alike, nothing is left out.
    """
    entries = list(entries)
    rates: dict[Any, list[tuple[float, float, str]]] = {}
    likes: list[list[tuple[Any, float, float, str]]] = []
    for found in entries:
        call = resized(decode(found["layer"]), found["batch"])
        work = _work(found["op"], call)
        filters = tuple(weight[2:] for weight in _weights_in(call[2:]))
        own = identity(found)
        likes.append([])
        for name, seconds in found["seconds"].items():
            key = found["op"], call[0], filters, activations(call)[1], name
            rates.setdefault(key, []).append((work, seconds / work, own))
            likes[-1].append((key, work, seconds / work, own))
    return [
        found
        for found, times in zip(entries, likes, strict=True)
        if all(_is_like(rate, work, own, rates[key]) for key, work, rate, own in times)
    ]


def _is_like(rate: float, work: float, own: str, all_rates: list[tuple[float, float, str]]) -> bool:
    others = [
        other
        for of_work, other, of in all_rates
        if of != own and max(work, of_work) <= LIKE * min(work, of_work)
    ]
    if len(others) < FEWEST:
        return True
    return 1 / OUTLIER <= rate / median(others) <= OUTLIER


def _work(op: str, call: Call) -> float:
    if op not in OPS:
        return float(prod(activations(call)[0]))
    work = OPS[op].work(call)
    return work.bytes + work.operations / BALANCE


def committed() -> list[dict[str, Any]]:
    """Return the entries of the package's table."""
    table = resources.files(__package__) / "speed_table.json"
    return json.loads(table.read_text())["entries"]
