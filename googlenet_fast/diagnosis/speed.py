"""How fast the fused ops are on a GPU, layer by layer, and what of its limits they reach."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from googlenet_fast.diagnosis.checks import auto
from googlenet_fast.engine.kernel_search import calls_of
from googlenet_fast.model import GoogLeNet
from googlenet_fast.ops import dispatch
from googlenet_fast.ops.timing import interleaved_medians
from googlenet_fast.ops.trial import Call, Trial, signature_of
from googlenet_fast.ops.verification import deviation
from googlenet_fast.ops.work import Work, work
from googlenet_fast.peaks import Peak, peak_of

BATCH = 32
"""Images of a timing."""

Medians = Callable[[Mapping[str, Callable[[], Any]], str], dict[str, float]]


@dataclass(frozen=True)
class Speed:
    """One implementation of one layer, forward and backward, in fp16 under autocast."""

    device: str
    op: str
    layer: str
    """Its input and its filters."""
    implementation: str
    error: float | None
    """Relative error, the largest of the output and the gradients; None if it does not run."""
    failure: str | None
    """How it differs from the reference, or why it does not run; None if all is well."""
    seconds: float | None
    """Median time for `BATCH` images; None if it is not right."""
    work: Work
    share: float | None
    """Of what the GPU's limits allow; None where they are not known."""
    auto: bool
    """Whether `auto` takes it."""
    passed_over: str | None
    """Why `auto` passes it over though it is better; None if it does not."""


def measure_all(
    device: str,
    name: str,
    layers: list[tuple[str, Call]] | None = None,
    batch: int = BATCH,
    medians: Medians = interleaved_medians,
) -> list[Speed]:
    """Check and time every implementation of every layer of the paper's network at 224x224.

    Args:
        device: such as "cuda:0".
        name: the GPU's, which tells its limits.
        layers: ops and calls; by default those of the network.
        batch: images.
        medians: times functions by name on a device.
    """
    peak = peak_of(name)
    return [
        speed
        for op, call in (training_layers() if layers is None else layers)
        for speed in _measure(op, call, device, peak, batch, medians)
    ]


def training_layers() -> list[tuple[str, Call]]:
    """The calls of the paper's network, with its normalisations, in training in fp16."""
    with torch.device("meta"):
        model = GoogLeNet("paper")
    calls = calls_of(model, 1, 224, None, torch.device("cuda", 0))
    return [(op, (True, torch.float16, *call[2:])) for op, call in calls if call[0]]


def _measure(
    op: str, call: Call, device: str, peak: Peak | None, batch: int, medians: Medians
) -> list[Speed]:
    kind = torch.device(device).type
    trial = Trial.of_call(op, call, batch, device)
    can_use = dispatch.can_use(op, kind, trial.arguments)
    able = [name for name, reason in can_use.items() if reason is None]
    found = {name: deviation(op, name, device, signature_of(call, 2)) for name in able}
    right = {name: partial(trial.run, name) for name in able if found[name][1] is None}
    seconds = medians(right, device)
    with torch.set_grad_enabled(trial.training):
        taken, passed_over = auto(op, kind, trial.arguments)
    amount = work(op, call, batch)
    return [
        Speed(
            device,
            op,
            describe(call),
            name,
            *found[name],
            seconds.get(name),
            amount,
            share(amount, seconds.get(name), peak),
            name == taken,
            passed_over.get(name),
        )
        for name in able
    ]


def share(amount: Work, seconds: float | None, peak: Peak | None) -> float | None:
    """What of a roofline a time reaches: 1 is as fast as arithmetic and memory allow."""
    if seconds is None or peak is None:
        return None
    return amount.seconds(peak) / seconds


def describe(call: Call) -> str:
    """Name a layer by its input and its filters, such as "64x56x56, 192 of 3x3"."""
    channels, height, width = call[2]
    weights = [other for other in call[3:] if isinstance(other, tuple) and len(other) == 4]
    filters = "+".join(f"{w[0]} of {w[2]}x{w[3]}" for w in weights)
    return f"{channels}x{height}x{width}" + (f", {filters}" if filters else "")


def line(speed: Speed) -> str:
    """One line of the report."""
    mark = "*" if speed.auto else " "
    head = f"{speed.op:20} {speed.layer:52} {mark} {speed.implementation:10}"
    if speed.failure is not None:
        return f"{head} FAILED: {speed.failure}"
    seconds = speed.seconds
    assert seconds is not None
    gbps, tflops = speed.work.bytes / seconds / 1e9, speed.work.operations / seconds / 1e12
    rates = f"{seconds * 1e6:9.1f} us {gbps:7.0f} GB/s {tflops:6.1f} TFLOP/s"
    limit = "limits unknown" if speed.share is None else f"{speed.share:5.0%} of the roofline"
    passed_over = f"; passed over: {speed.passed_over}" if speed.passed_over else ""
    return f"{head} error {speed.error:.1e} {rates} {limit}{passed_over}"
