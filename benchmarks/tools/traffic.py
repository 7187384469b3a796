"""Count what a step moves through memory: `python -m benchmarks.tools.traffic`.

Runs every fused op of the network in Triton's interpreter and counts the bytes that its launches
touch. Compares them per stage with the models of eager PyTorch and of the fused plan (`roofline`).
Also counts what is saved for the backward pass. Writes docs/generated/traffic.md.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from benchmarks.network import Stage, aux_convolutions, fused_call, has_fused_op, stages
from benchmarks.tools.interpreter_traffic import LaunchTraffic, count_traffic
from benchmarks.tools.pages import GENERATED, add_output, write
from benchmarks.tools.roofline import HALF, SINGLE, compulsory, eager
from benchmarks.tools.saved_tensors import Saved, saved_rows
from googlenet_fast.errors import run_command
from googlenet_fast.kernels import configs, conv1x1, conv_spatial, pool_project, split_k
from googlenet_fast.kernels.launch import INTERPRETED, Launch, observe

BATCH = 256
"""Images that share the traffic of weights and their gradients."""

SIDES = (2, 4)
"""Height and width of the small inputs that are counted."""

REPORT = GENERATED / "traffic.md"


class Figures(NamedTuple):
    """Traffic of one or several stages, per image."""

    bytes: float
    launches: int

    @classmethod
    def of(cls, launches: Sequence[float]) -> "Figures":
        """Sum the bytes of launches."""
        return cls(sum(launches), len(launches))


class Row(NamedTuple):
    """Traffic of a stage in three variants."""

    name: str
    eager: Figures | None
    """None if it is not modelled."""
    ours: Figures
    compulsory: Figures


def fused_traffic(stage: Stage, *, training: bool) -> list[float]:
    """Return the bytes that each launch of a stage's fused op moves, per image, in fp16.

    Bytes are linear in pixels, so they are counted on two small inputs and extrapolated to the real
    size. Sums over pixels are split, and each split writes or reads a partial sum of 4 bytes per
    weight. The real input has more splits, so these bytes are left out of the extrapolation and
    added for the real number of splits.
    """
    small = [_count(stage, side, training) for side in SIDES]
    pixels = [side**2 for side in SIDES]
    moved = []
    for launch, *counted in zip(launches_of(stage, BATCH, training=training), *small, strict=True):
        assert all(count.launch.kernel is launch.kernel for count in counted)
        first, second = (c.loaded + c.stored - 4 * _partials(c.launch) for c in counted)
        slope = (second - first) / (pixels[1] - pixels[0])
        line = first + slope * (BATCH * stage.side_in**2 - pixels[0])
        moved.append((line + 4 * _partials(launch)) / BATCH)
    return moved


def _count(stage: Stage, side: int, training: bool) -> list[LaunchTraffic]:
    """Count launches for one image of side x side pixels, with at most two splits."""
    few = partial(_splits_at_real_size, stage, most=2)
    with count_traffic() as counted, mock.patch.object(split_k, "splits", few), wide_tiles():
        call = fused_call(stage, 1, side, torch.float16, training=training, make=torch.zeros)
        call.run(training=training)
    return counted


def launches_of(stage: Stage, batch: int, *, training: bool) -> list[Launch]:
    """Return the launches of a stage's fused op at its real size in fp16, without running them."""
    launches: list[Launch] = []
    with observe(lambda launch, run: launches.append(launch)):
        call = fused_call(stage, batch, stage.side_in, torch.float16, training=training)
        call.run(training=training)
    return launches


def _partials(launch: Launch) -> int:
    """Return the number of partial sums that a launch writes or reads."""
    partial = launch.arguments.get("partial")
    return partial.numel() if isinstance(partial, Tensor) else 0


_power_of_two, _splits = configs.power_of_two, split_k.splits
_fits_one_tile = conv1x1.fits_one_tile


def _splits_at_real_size(stage: Stage, shape: split_k.WeightShape, *_: object, most: int) -> int:
    with mock.patch.object(configs, "power_of_two", _power_of_two):
        real = _splits(shape, BATCH * stage.side_in**2, torch.device("cpu"))
    return min(real, most)


@contextmanager
def wide_tiles() -> Iterator[None]:
    """Give kernels tiles as large as their matrices, and change nothing else.

    They touch the same bytes in far fewer programs and loop steps, which take the interpreter's
    time.
    """

    def unbounded(size: int, least: int, most: int) -> int:
        return _power_of_two(size, least, 2**20)

    def whole(pixels: int, columns: int, depth: int, x: Tensor) -> configs.Tile:
        m, n, k = (unbounded(size, 16, 0) for size in (pixels, columns, depth))
        return configs.Tile(m, n, k, num_stages=1)

    def fits_one_tile(outputs: int, channels: int) -> bool:
        with mock.patch.object(configs, "power_of_two", _power_of_two):
            return _fits_one_tile(outputs, channels)

    with ExitStack() as stack:
        for module, name, value in (
            (configs, "power_of_two", unbounded),
            (conv1x1, "gemm_tile", whole),
            (conv1x1, "unpool_tile", whole),
            (conv1x1, "fits_one_tile", fits_one_tile),
            (conv_spatial, "gemm_tile", whole),
            (conv_spatial, "masked_tile", whole),
            (pool_project, "gemm_tile", whole),
            (split_k, "BLOCK_E", 2**16),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def network_rows(*, training: bool) -> list[Row]:
    """Return the stages of preset `paper` without LRN and auxiliary heads."""
    return [stage_row(stage, training=training) for stage in stages()]


def stage_row(stage: Stage, *, training: bool) -> Row:
    """Return the row of a stage. Stages without a fused op have the fused plan's figures."""
    least = compulsory(stage, training, BATCH)
    ours = fused_traffic(stage, training=training) if has_fused_op(stage) else least
    passes = eager(stage, training, BATCH)
    return Row(stage.name, Figures.of(passes), Figures.of(ours), Figures.of(least))


def extra_rows() -> list[Row]:
    """Return what is not in the sum: LRN, convolutions of the auxiliary heads, casts of weights.

    LRN is a difference: it also separates bias and ReLU of the third convolution from the pool.
    """
    with_lrn, without = stages(lrn=True), stages()
    added = [_kernel_figures(stage) for stage in with_lrn if stage not in without]
    gone = [_kernel_figures(stage) for stage in without if stage not in with_lrn]
    ours, least = (_subtract(a, g) for a, g in zip(_add(added), _add(gone), strict=True))
    heads = _add([_kernel_figures(stage) for stage in aux_convolutions()])
    passes = [launch for head in aux_convolutions() for launch in eager(head, True, BATCH)]
    casts = _casts()
    return [
        Row("LRN", None, ours, least),
        Row("auxiliary convolutions", Figures.of(passes), *heads),
        Row("casts of fp32 weights", None, casts, casts),
    ]


def _kernel_figures(stage: Stage) -> tuple[Figures, Figures]:
    """Return ours and the compulsory figures, in training."""
    ours, least = fused_traffic(stage, training=True), compulsory(stage, True, BATCH)
    return Figures.of(ours), Figures.of(least)


def _add(pairs: Sequence[tuple[Figures, Figures]]) -> tuple[Figures, Figures]:
    ours, least = zip(*pairs, strict=True)
    return total(ours), total(least)


def _subtract(a: Figures, b: Figures) -> Figures:
    return Figures(a.bytes - b.bytes, a.launches - b.launches)


def _casts() -> Figures:
    """Count the casts of fp32 weights to fp16 under autocast: one launch per op and direction.

    The figures of eager PyTorch leave out its casts too, one per weight and bias.
    """
    calls = [
        fused_call(stage, 1, stage.side_in, torch.float16, training=False)
        for stage in stages()
        if has_fused_op(stage)
    ]
    weights = [[value for value in call.arguments[1:] if _is_weight(value)] for call in calls]
    elements = sum(weight.numel() for found in weights for weight in found)
    return Figures(2 * (SINGLE + HALF) * elements / BATCH, 2 * sum(map(bool, weights)))


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def total(figures: Iterable[Figures]) -> Figures:
    """Return the sum of several figures."""
    figures = list(figures)
    return Figures(sum(f.bytes for f in figures), sum(f.launches for f in figures))


def traffic_table(rows: Sequence[Row]) -> str:
    """Return a line per row: MB and launches of three variants, and ours / compulsory bytes."""
    lines = [
        "| stage | eager MB | launches | ours MB | launches | compulsory MB | launches | ratio |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, passes, ours, least in rows:
        cells = [_cells(passes), _cells(ours), _cells(least), f"{ours.bytes / least.bytes:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(figures: Figures | None) -> str:
    return "| " if figures is None else f"{figures.bytes / 1e6:.2f} | {figures.launches}"


def with_total(rows: Sequence[Row]) -> list[Row]:
    """Return the rows and their sum."""
    passes = total(row.eager for row in rows if row.eager is not None)
    ours, least = total(row.ours for row in rows), total(row.compulsory for row in rows)
    return [*rows, Row("**all**", passes, ours, least)]


def saved_table(rows: Sequence[Saved]) -> str:
    """Return a line per row."""
    lines = ["| block | eager MB | ours MB | ratio |", "|---|--:|--:|--:|"]
    lines += [
        f"| {name} | {plain / 1e6:.2f} | {ours / 1e6:.2f} | {ours / plain:.2f} |"
        for name, plain, ours in rows
    ]
    return "\n".join(lines)


REPORT_TEXT = """# Memory traffic of a step

Written by `python -m benchmarks.tools.traffic`; no GPU is needed. Preset `paper` at 224x224 in
fp16, batch {batch}, per image, without LRN and auxiliary heads. Optimizer and loss are left out.

- *ours*: distinct bytes that each launch loads plus those it stores. They are counted while the
  Triton kernels run in Triton's interpreter, on inputs of 2x2 and 4x4 pixels. Bytes are linear in
  pixels, so the real size follows. `conv1` and `head` use PyTorch's own kernels and have the
  compulsory figures.
- *eager*: a model of PyTorch in which every operation is its own pass.
- *compulsory*: a model of the fused plan in which every launch reads each input once and writes
  each output once, and ReLU masks are one bit per value.

In both models (`benchmarks/tools/roofline.py`) every tensor of a launch is read and written in
memory. A GPU's L2 cache saves some of it in all three. [launches.md](launches.md) has, for each
launch, what goes through L2 and the time that this predicts.

## Training

{training}

Most of our bytes beyond the compulsory ones are ReLU masks: they are read from the outputs, 16 bits
per value, by both gradients of a convolution. Not in the sum:

{extra}

The row for LRN is what LRN adds. An op casts its fp32 weights to fp16 in one launch, forward and
backward. Eager PyTorch has one launch per weight and bias; its figures leave casts out too.

## Inference

{inference}

## Saved for the backward pass

Distinct memory that autograd keeps, without parameters. Eager PyTorch keeps int64 indices of the
branch's max pool, four times the size of its input; our indices have one byte each.

{saved}
"""


def main() -> None:
    """Count and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tools.traffic",
        description="Count the memory traffic of a step, per stage; takes minutes.",
    )
    add_output(parser, REPORT)
    output = parser.parse_args().output
    if not INTERPRETED:  # decided when Triton is imported
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "TRITON_INTERPRET": "1"})
    report = REPORT_TEXT.format(
        batch=BATCH,
        training=traffic_table(with_total(network_rows(training=True))),
        extra=traffic_table(extra_rows()),
        inference=traffic_table(with_total(network_rows(training=False))),
        saved=saved_table(saved_rows()),
    )
    write(report, output)


if __name__ == "__main__":
    run_command(main)
