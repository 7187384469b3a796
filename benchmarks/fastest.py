"""The table of implementations that `auto` goes by on a GPU where nothing was measured.

    python -m benchmarks.fastest

writes googlenet_fast/ops/fastest.json: for each call of the presets without batch normalisation, at
224x224, the time of the fused Triton kernels and of the library's convolutions, by a rule. A launch
takes the longer of its arithmetic and its memory traffic (`benchmarks.roofline`), and `GAP` more.
The arithmetic reaches a share of the peak: `LIBRARY_SHARE`, `TRITON_SHARE` of the kernel's kind.
"""

import json
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import torch

from benchmarks.network import Block, Convolution, aux_convolutions, fused_call, stages
from benchmarks.roofline import activation, compulsory
from googlenet_fast.ops.selection import call_of, entry
from googlenet_fast.ops.work import Work
from googlenet_fast.peaks import peak_of

TABLE = Path(__file__).parents[1] / "googlenet_fast" / "ops" / "fastest.json"
"""Where the table is."""

GPU, BATCH = "A100", 64
"""The GPU whose limits count, the middle one of those in use, and images a step."""

LIBRARY_SHARE = 0.6
"""Of the arithmetic peak, what cuDNN's fp16 convolutions reach at such sizes."""

TRITON_SHARE = {1: 0.6, 3: 0.3, 5: 0.3}
"""The same for Triton, by the side of the filter: products of matrices are on a par, spatial
convolutions are reported to take two to three times as long (triton-lang/triton, issue 772)."""

GAP = 2e-6
"""Seconds between two launches."""

DTYPES = {torch.float16: 1, torch.bfloat16: 1, torch.float32: 2}
"""Bytes and operations of each dtype, in those of fp16; fp32 multiplies as tf32."""

Launch = tuple[float, float]
"""Multiplications and additions for an image, in shares of the peak that are reached, and bytes."""


def main() -> None:
    """Write the table."""
    TABLE.write_text(table())
    print(TABLE)


def table() -> str:
    """Return the text of the table: an entry a line."""
    lines = [json.dumps(found) for found in _entries()]
    return '{"entries": [\n' + ",\n".join(lines) + "\n]}\n"


def _entries() -> Iterator[dict[str, object]]:
    make = partial(torch.empty, device="meta")
    written = set()
    for preset, training, dtype in product(("paper", "paddleclas"), (True, False), DTYPES):
        for stage in [*stages(preset), *aux_convolutions(preset)]:
            if not isinstance(stage, Block | Convolution) or stage.name == "conv1":
                continue
            side = stage.side
            op, arguments = fused_call(stage, BATCH, side, dtype, training=training, make=make)
            with torch.set_grad_enabled(training):
                call = call_of(arguments)
            if (op, call) not in written:
                written.add((op, call))
                yield entry(op, call, BATCH, _seconds(stage, training, DTYPES[dtype]))


def _seconds(stage: Block | Convolution, training: bool, scale: int) -> dict[str, float]:
    """Seconds of a step's batch by each implementation, to three digits."""
    plans = {"triton": _fused(stage, training), "aten": _library(stage, training)}
    return {
        name: float(f"{sum(_time(*launch, scale) for launch in launches):.3g}")
        for name, launches in plans.items()
    }


def _time(operations: float, traffic: float, scale: int) -> float:
    peak = peak_of(GPU)
    assert peak is not None
    return GAP + BATCH * scale * Work(operations, traffic).seconds(peak)


def _operations(conv: Convolution, share: float) -> float:
    return 2 * conv.side**2 * conv.weight / share


def _convolutions(stage: Block | Convolution) -> list[Convolution]:
    """The convolutions of a stage, siblings as one, in the order of `roofline.compulsory`."""
    if isinstance(stage, Convolution):
        return [stage]
    convs = stage.convolutions()
    return [stage.siblings(), convs["c3"], convs["c5"], convs["pool_project"]]


def _fused(stage: Block | Convolution, training: bool) -> list[Launch]:
    """The launches of the Triton kernels."""
    convs = _convolutions(stage)
    operations = [_operations(conv, TRITON_SHARE[conv.taps]) for conv in convs]
    if training:
        first, *others = operations
        backward = [*others, first] if others else [first]
        pool = [0.0] if others else []
        operations += pool + [cost for cost in backward for _ in range(2)]
    return list(zip(operations, compulsory(stage, training, BATCH), strict=True))


def _library(stage: Block | Convolution, training: bool) -> list[Launch]:
    """The launches of the library's convolutions, and of the passes between them."""
    launches: list[Launch] = []
    for conv in _convolutions(stage):
        cost = _operations(conv, LIBRARY_SHARE)
        launches += [(cost, traffic) for traffic in compulsory(conv, training, BATCH)]
    launches += [(0.0, traffic) for traffic in _passes(stage, training)]
    return launches


def _passes(stage: Block | Convolution, training: bool) -> Iterator[float]:
    """Bytes of bias, ReLU and concatenation, pooling, and of their gradients."""
    x = activation(stage.side, stage.channels)
    if isinstance(stage, Convolution):
        outputs = [stage.outputs] if stage.bias or stage.relu else []
    else:
        w = stage.widths
        reductions = [w.c3_reduce, w.c5_reduce] if stage.bias or stage.reduce_relu else []
        outputs = [w.out_channels, *reductions]
        index = 4 * x if training else 0  # int64
        yield 2 * x + index
        if training:
            siblings = activation(stage.side, stage.siblings().outputs)
            yield from (2 * x + index, 2 * siblings, 3 * x)  # pool, gather the siblings', add
    for channels in outputs:
        y = activation(stage.side, channels)
        yield 2 * y
        if training:
            yield 3 * y


if __name__ == "__main__":
    main()
