"""How fast the backends of each layer are on a GPU, and what share of its limits they reach."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from googlenet_fast.registry import OPS, Backend, Call, Op, Work
from googlenet_fast.selfcheck.accuracy import (
    Comparison,
    Result,
    auto,
    check,
    dtype_name,
    first_line,
)
from googlenet_fast.selfcheck.autotune import Medians
from googlenet_fast.selfcheck.cases import OpCall, activations, is_tensor, resized
from googlenet_fast.selfcheck.roofline import Peak, peak_of, share
from googlenet_fast.selfcheck.timing import interleaved_medians

BATCH = 32
"""Images of a timing."""
COLUMNS = (
    "GPU", "op", "layer", "", "backend", "error", "us", "GB/s", "TFLOP/s", "of roofline", "note"
)  # fmt: skip
NUMBERS = (5, 6, 7, 8, 9)
"""Columns of numbers."""


@dataclass(frozen=True, kw_only=True)
class LayerTime(Result):
    """One backend of one layer."""

    layer: str
    """Its input and its filters."""
    seconds: float | None
    """Median time for the batch; None if it is not right, or if no CUDA graph can hold it."""
    batch: int
    """Images of the timing: fewer than were asked for where memory is short."""
    work: Work
    share: float | None
    """Of what the GPU's limits allow; None where they are not known."""


def measure_all(
    device: str,
    name: str,
    layers: Iterable[tuple[str, Call]],
    medians: Medians = interleaved_medians,
) -> list[LayerTime]:
    """Check and time every backend of every layer.

    Args:
        device: such as "cuda:0".
        name: the GPU's, by which its limits are found.
        layers: names of ops and calls, whose first argument is the activations.
        medians: times functions by name on a device.
    """
    peak = peak_of(name)
    return [
        time
        for op, call in layers
        for time in _measure_what_fits(OPS[op], call, device, peak, medians)
    ]


def _measure_what_fits(
    op: Op, call: Call, device: str, peak: Peak | None, medians: Medians
) -> list[LayerTime]:
    """Halve the batch until there is memory for it."""
    batch = activations(call)[0][0]
    while batch > 1:
        try:
            return _measure(op, resized(call, batch), device, peak, medians)
        except torch.OutOfMemoryError:
            batch //= 2
    return _measure(op, resized(call, batch), device, peak, medians)


def _measure(
    op: Op, call: Call, device: str, peak: Peak | None, medians: Medians
) -> list[LayerTime]:
    op_call = OpCall.of(op, call, device)
    backends = (*op.on(torch.device(device).type), op.fallback)
    able = [backend for backend in backends if backend.supports(*op_call.arguments) is None]
    found = {backend.name: _check(op_call, backend, device, call) for backend in able}
    right: dict[str, Callable[[], Any]] = {
        backend.name: partial(op_call.run, backend)
        for backend in able
        if found[backend.name].failure is None
    }
    seconds = medians(right, device)
    with torch.set_grad_enabled(op_call.training):
        taken, skipped = auto(op, op_call.arguments)
    (batch, *_), dtype = activations(call)
    work = op.work(call)
    return [
        LayerTime(
            op.name,
            device,
            name,
            auto=name == taken,
            errors={} if comparison.error is None else {dtype_name(dtype): comparison.error},
            failure=comparison.failure,
            skipped=skipped.get(name),
            layer=describe(call),
            seconds=seconds.get(name),
            batch=batch,
            work=work,
            share=share(work, seconds.get(name), peak),
        )
        for name, comparison in found.items()
    ]


def _check(op_call: OpCall, backend: Backend, device: str, call: Call) -> Comparison:
    """Compare on two images, then run once at full size: a kernel may fail there alone."""
    found = check(op_call.op, backend, device, resized(call, 2))
    if found.failure is not None:
        return found
    try:
        op_call.run(backend)
        if op_call.leaves[0].is_cuda:
            torch.cuda.synchronize(op_call.leaves[0].device)  # or it fails in another's time
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers fail in their own ways
        return Comparison(found.error, first_line(error))
    return found


def describe(call: Call) -> str:
    """Name a layer by its input and its filters, such as "64x56x56, 192 of 3x3"."""
    (_, channels, height, width), _ = activations(call)
    weights = [value[0] for value in call[2:] if is_tensor(value) and len(value[0]) == 4]
    filters = "+".join(f"{w[0]} of {w[2]}x{w[3]}" for w in weights)
    return f"{channels}x{height}x{width}" + (f", {filters}" if filters else "")


def row(time: LayerTime) -> list[str]:
    """Return a backend's row in the table of layers, under `COLUMNS`."""
    head = [time.device, time.op, time.layer, "*" if time.auto else "", time.backend]
    if time.failure is not None:
        return [*head, "", "", "", "", "", f"FAILED: {time.failure}"]
    seconds = time.seconds
    if seconds is None:
        return [*head, "", "", "", "", "", "not timed: a CUDA graph cannot hold it"]
    gbps, tflops = time.work.bytes / seconds / 1e9, time.work.operations / seconds / 1e12
    fewer = f"{time.batch} images" if time.batch != BATCH else None
    skipped = f"auto skips it: {time.skipped}" if time.skipped else None
    (error,) = time.errors.values()
    return [
        *head,
        f"{error:.1e}",
        f"{seconds * 1e6:.1f}",
        f"{gbps:.0f}",
        f"{tflops:.1f}",
        "unknown" if time.share is None else f"{time.share:.0%}",
        "; ".join(filter(None, (fewer, skipped))),
    ]
