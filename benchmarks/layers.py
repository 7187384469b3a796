"""Time a fused op at the layers of the paper's network, beside the alternatives.

On a GPU in fp16 under autocast, in CUDA graphs; on a CPU in fp32, on a few layers. The baseline
is eager PyTorch in channels_last; torch.compile compiles the same function.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.cpu_peak import measured_peak
from benchmarks.harness import Measurement, host_seconds, interleave, relative_error
from benchmarks.network import Stage, aux_convolutions, fused_call, has_fused_op, stages
from googlenet_fast.registry import OPS, Backend, Call, Work, call_of
from googlenet_fast.selfcheck.cases import OpCall, resized
from googlenet_fast.selfcheck.roofline import peak_of, share
from googlenet_fast.selfcheck.timing import GraphClock

GPU = torch.cuda.is_available()
DEVICE, DTYPE, BATCH, REPEATS = (
    ("cuda", torch.float16, 64, 21) if GPU else ("cpu", torch.float32, 4, 7)
)
COMPILE_MODES = ("default", "max-autotune-no-cudagraphs") if GPU else ("default",)
"""Without CUDA graphs: launch overhead is not compared. On a CPU max-autotune takes minutes per
layer."""

ON_CPU = ("3a", "4c", "5b", "conv1", "conv2", "conv3", "pool1", "lrn1")
"""Layers timed on a CPU."""


def calls(op: str) -> dict[str, Call]:
    """Return the calls of an op in training, by layer of the network."""
    found = {}
    for stage in [*stages("paper", lrn=True), *aux_convolutions()]:
        if has_fused_op(stage) if GPU else stage.name in ON_CPU:
            name, arguments = _meta_call(stage)
            if name == op:
                found[stage.name] = call_of(arguments)
    return found


def _meta_call(stage: Stage) -> tuple[str, list[object]]:
    make = partial(torch.empty, device="meta")
    op, arguments = fused_call(stage, 1, stage.side_in, DTYPE, training=True, make=make)
    return op, arguments


def time_layer(
    op: str, layer: str, call: Call, *, training: bool, compile_modes: Sequence[str] | None = None
) -> dict[str, Measurement]:
    """Time a layer with every provider and return the times.

    Args:
        op: its name.
        layer: its name.
        call: of the op, in training.
        training: time forward and backward; else forward without gradients.
        compile_modes: torch.compile's; default: none if asked to be quick, else `COMPILE_MODES`.
    """
    if compile_modes is None:
        compile_modes = () if harness.quick else COMPILE_MODES
    call = resized((training, *call[1:]), BATCH)
    torch._dynamo.reset()
    op_call = OpCall.of(OPS[op], call, DEVICE)
    runs = providers(op_call, compile_modes)
    exact = op_call.double().run(op_call.op.fallback)
    errors = {name: relative_error(run(), exact) for name, run in runs.items()}
    timers: Mapping[str, Callable[[], Any]] = runs
    clock: Callable[[Callable[[], Any]], float] = host_seconds
    if GPU:
        timers = {name: GraphClock(DEVICE)(run) for name, run in runs.items()}
        clock = _turn
    mode = "forward and backward" if training else "forward"
    title = f"{op} {layer} {mode}, batch {BATCH}"
    rate = partial(reached, op_call.op.work(call))
    return interleave(title, timers, repeats=REPEATS, errors=errors, clock=clock, rate=rate)


def _turn(timer: Callable[[], float]) -> float:
    return timer()


def reached(amount: Work, seconds: float) -> str:
    """Return the rates at which work was done, and their share of the roofline."""
    peak = peak_of(torch.cuda.get_device_name()) if GPU else measured_peak()
    found = [f"{amount.bytes / seconds / 1e9:.1f} GB/s"]
    if amount.operations:
        found.append(f"{amount.operations / seconds / 1e12:.3g} TFLOP/s")
    if peak is not None:
        found.append(f"{share(amount, seconds, peak):.0%} of the roofline")
    return ", ".join(found)


def providers(
    op_call: OpCall, compile_modes: Sequence[str]
) -> dict[str, Callable[[], list[Tensor]]]:
    """Return the functions that compute a call, by name; the baseline first."""
    op = op_call.op
    runs: dict[str, Callable[[], list[Tensor]]] = {"eager": partial(op_call.run, op.fallback)}
    if GPU:
        runs["eager, cudnn.benchmark"] = partial(_searching, runs["eager"])
    for mode in compile_modes:
        compiled = torch.compile(op.reference, mode=mode, fullgraph=True)
        runs[f"compile {mode}"] = partial(op_call.run, Backend(mode, DEVICE, compiled))
    for backend in op.on(DEVICE):
        if (GPU or backend.name != "triton") and backend.supports(*op_call.arguments) is None:
            runs[backend.name] = partial(op_call.run, backend)
    return runs


def _searching(run: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Let cuDNN measure its algorithms in the first run and use the fastest."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        return run()
