"""The search for the fastest implementation of each op, before a long training run on a GPU."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from googlenet_fast.engine.distributed import Process
from googlenet_fast.model import GoogLeNet
from googlenet_fast.ops import dispatch, selection
from googlenet_fast.ops.trial import Call

LONG_RUN = 2000
"""Steps from which on a search, of some seconds to a minute, pays."""

Calls = Iterable[tuple[str, Call]]


def is_search_wanted(mode: Literal["auto", "on", "off"], steps: int, device: torch.device) -> bool:
    """Whether a run of so many steps starts with a search; on a CPU there is no choice."""
    return device.type == "cuda" and (mode == "on" or (mode == "auto" and steps >= LONG_RUN))


def search(
    model: GoogLeNet,
    batch: int,
    image_size: int,
    amp: torch.dtype | None,
    process: Process,
    measure: Callable[..., dict[str, float]] = selection.measure,
) -> list[str]:
    """Measure what was not measured on this GPU before, and have `auto` go by it.

    The main process measures, and all processes take its choices.

    Args:
        model: whose calls are measured.
        batch: images a step in each process.
        image_size: side of an image, in pixels.
        amp: dtype of mixed precision, or None.
        process: this process, on a GPU.
        measure: `selection.measure`.

    Returns:
        A line for each op.
    """
    entries = None
    if process.is_main:
        calls = calls_of(model, batch, image_size, amp, process.device)
        entries = _entries(calls, batch, str(process.device), measure)
    entries = process.broadcast(entries)
    selection.adopt(entries, str(process.device))
    return _summary(entries)


def calls_of(
    model: GoogLeNet, batch: int, image_size: int, amp: torch.dtype | None, device: torch.device
) -> list[tuple[str, Call]]:
    """Return the calls in training and in evaluation, of ops of which there is a choice.

    The network runs on fake tensors: nothing is computed, and no state of it changes.
    """
    with FakeTensorMode(), selection.calls_seen() as seen:
        state = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
        }
        images = torch.empty(batch, 3, image_size, image_size, device=device, dtype=amp)
        was_training = model.training
        for training in (True, False):
            model.train(training)
            with (
                torch.set_grad_enabled(training),
                torch.autocast(device.type, amp, enabled=amp is not None, cache_enabled=False),
            ):
                functional_call(model, state, (images,))
        model.train(was_training)
    return list(seen)


def _entries(
    calls: Calls, batch: int, device: str, measure: Callable[..., dict[str, float]]
) -> list[dict[str, Any]]:
    known = {
        (found["op"], selection.decode(found["call"])): found
        for found in selection.measured(device)
        if found["batch"] == batch
    }
    entries, new = [], []
    for op, call in calls:
        entry = known.get((op, call))
        if entry is None:
            names = [name for name in dispatch.implementations(op, "cuda") if name != "reference"]
            seconds = measure(op, call, names, batch, device)
            if not seconds:
                continue
            entry = selection.entry(op, call, batch, seconds)
            new.append(entry)
        entries.append(entry)
    if new:
        selection.remember(new, device)
    return entries


def _summary(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say, for each op, how many shapes each implementation won."""
    wins: dict[str, Counter[str]] = {}
    for entry in entries:
        seconds = entry["seconds"]
        fastest = min(seconds, key=seconds.__getitem__)
        wins.setdefault(entry["op"], Counter())[fastest] += 1
    return [
        f"fastest {op}: " + ", ".join(f"{name} for {n} shapes" for name, n in count.most_common())
        for op, count in sorted(wins.items())
    ]
