"""Time a fused op at the layers of the paper's network, beside the alternatives.

On a GPU in fp16 under autocast, with cold caches; on a CPU in fp32, on a few layers. The baseline
is eager PyTorch in channels_last; torch.compile compiles the same function.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks.cpu_peak import measured_peak
from benchmarks.harness import Measurement, host_seconds, interleave, relative_error
from benchmarks.network import Stage, aux_convolutions, fused_call, has_fused_op, stages
from googlenet_fast import ops
from googlenet_fast.ops import dispatch
from googlenet_fast.ops.selection import call_of
from googlenet_fast.ops.timing import ColdGpuClock
from googlenet_fast.ops.trial import Call, Trial
from googlenet_fast.ops.work import Work, work
from googlenet_fast.peaks import peak_of

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


def time_layer(op: str, layer: str, call: Call, *, training: bool) -> None:
    """Time a layer with every provider and print their rates.

    Args:
        op: its name.
        layer: its name.
        call: of the op, in training.
        training: time forward and backward; else forward without gradients.
    """
    call = (training, *call[1:])
    torch._dynamo.reset()
    trial = Trial.of_call(op, call, BATCH, DEVICE)
    runs = providers(op, trial)
    exact = _double(trial).run("reference")
    errors = {name: relative_error(run(), exact) for name, run in runs.items()}
    clock = ColdGpuClock() if GPU else host_seconds
    mode = "forward and backward" if training else "forward"
    title = f"{op} {layer} {mode}, batch {BATCH}"
    measured = interleave(title, runs, repeats=REPEATS, errors=errors, clock=clock)
    print_reached(measured, work(op, call, BATCH))


def print_reached(measured: Mapping[str, Measurement], amount: Work) -> None:
    """Print each provider's rates and share of the roofline."""
    peak = peak_of(torch.cuda.get_device_name()) if GPU else measured_peak()
    for name, measurement in measured.items():
        seconds = measurement.p50 / 1000
        reached = f"{amount.bytes / seconds / 1e9:.0f} GB/s"
        reached += f", {amount.operations / seconds / 1e12:.2f} TFLOP/s"
        if peak is not None:
            reached += f", {amount.seconds(peak) / seconds:.0%} of the roofline"
        print(f"    {name}: {reached}, error {measurement.error:.1e}")


def providers(op: str, trial: Trial) -> dict[str, Callable[[], list[Tensor]]]:
    """Return the functions that compute a call, by name; the baseline first."""
    function = getattr(ops, op)
    runs: dict[str, Callable[[], list[Tensor]]] = {"eager": partial(trial.run, "reference")}
    if GPU:
        runs["eager, cudnn.benchmark"] = partial(_searching, runs["eager"])
    for mode in COMPILE_MODES:
        compiled = torch.compile(function, mode=mode, fullgraph=True)
        runs[f"compile {mode}"] = partial(trial.run, "reference", compiled)
    for name, reason in dispatch.can_use(op, DEVICE, trial.arguments).items():
        if name != "reference" and reason is None and (GPU or name != "triton"):
            runs[name] = partial(trial.run, name)
    return runs


def _searching(run: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Let cuDNN measure its algorithms in the first run and use the fastest."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        return run()


def _double(trial: Trial) -> Trial:
    arguments = [v.double() if isinstance(v, Tensor) else v for v in trial.arguments]
    return Trial(trial.op, arguments, None, trial.training)
