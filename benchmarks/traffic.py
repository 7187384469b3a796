"""What a step moves through memory, counted: `python -m benchmarks.traffic`.

Runs every fused op of the network in Triton's interpreter, counts the bytes its launches touch,
and compares them per stage with eager PyTorch's and with the fused plan's (see `roofline`). Counts
what is saved for the backward pass, too. Writes docs/traffic.md.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from googlenet_fast.kernels import configs, conv1x1, conv_spatial, pool_project, split_k
from googlenet_fast.kernels.launch import INTERPRETED, Launch, observe
from torch import Tensor

from benchmarks.interpreter_traffic import LaunchTraffic, count_traffic
from benchmarks.network import Stage, aux_convolutions, fused_call, has_fused_op, stages
from benchmarks.roofline import HALF, SINGLE, compulsory, eager
from benchmarks.saved_tensors import Saved, saved_rows
from googlenet_fast.errors import run_command

BATCH = 256
"""Images among which weights and their gradients are divided."""

SIDES = (2, 4)
"""Of the small inputs that launches are counted on."""

REPORT = Path(__file__).parents[1] / "docs" / "traffic.md"


class Figures(NamedTuple):
    """What a stage, or several, moves for an image."""

    bytes: float
    launches: int

    @classmethod
    def of(cls, launches: Sequence[float]) -> "Figures":
        """Add up the bytes of launches."""
        return cls(sum(launches), len(launches))


class Row(NamedTuple):
    """A stage as it is done in three ways."""

    name: str
    eager: Figures | None
    """None: not modelled."""
    ours: Figures
    compulsory: Figures


def fused_traffic(stage: Stage, *, training: bool) -> list[float]:
    """Bytes that each launch of a stage's fused op moves, per image, in fp16.

    A launch touches some bytes for each pixel and some for each weight. They are counted on two
    small inputs; those of the real one follow, as bytes are linear in pixels. Sums over pixels are
    split, and each split writes or reads a partial sum of 4 bytes for each weight; the real input
    has more splits, so these are left out of the line and added at their real number.
    """
    small = [_count(stage, side, training) for side in SIDES]
    pixels = [side**2 for side in SIDES]
    moved = []
    for launch, *counted in zip(_launches(stage, training), *small, strict=True):
        assert all(count.launch.kernel is launch.kernel for count in counted)
        first, second = (c.loaded + c.stored - 4 * _partials(c.launch) for c in counted)
        slope = (second - first) / (pixels[1] - pixels[0])
        line = first + slope * (BATCH * stage.side_in**2 - pixels[0])
        moved.append((line + 4 * _partials(launch)) / BATCH)
    return moved


def _count(stage: Stage, side: int, training: bool) -> list[LaunchTraffic]:
    """What launches touch for one image `side` pixels a side, with two splits for more than one."""
    few = partial(_splits_at_real_size, stage, most=2)
    with count_traffic() as counted, mock.patch.object(split_k, "splits", few), wide_tiles():
        call = fused_call(stage, 1, side, torch.float16, training=training, make=torch.zeros)
        call.run(training=training)
    return counted


def _launches(stage: Stage, training: bool) -> list[Launch]:
    """The launches at the stage's real size, which do not run."""
    launches: list[Launch] = []
    with observe(lambda launch, run: launches.append(launch)):
        call = fused_call(stage, BATCH, stage.side_in, torch.float16, training=training)
        call.run(training=training)
    return launches


def _partials(launch: Launch) -> int:
    """Partial sums that a launch writes or reads."""
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
        sizes = (unbounded(size, 16, 0) for size in (pixels, columns, depth))
        return configs.Tile(*sizes, num_stages=1)

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
    """Preset `paper` without LRN and auxiliary heads, stage by stage."""
    return [stage_row(stage, training=training) for stage in stages()]


def stage_row(stage: Stage, *, training: bool) -> Row:
    """A stage; where the library does it, with the fused plan's figures."""
    least = compulsory(stage, training, BATCH)
    ours = fused_traffic(stage, training=training) if has_fused_op(stage) else least
    passes = eager(stage, training, BATCH)
    return Row(stage.name, Figures.of(passes), Figures.of(ours), Figures.of(least))


def extra_rows() -> list[Row]:
    """What comes on top in training: LRN, convolutions of the auxiliary heads, casts of weights.

    LRN comes as a difference: it also parts bias and ReLU of the third convolution from the pool.
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
    """Ours and the compulsory ones, in training."""
    ours, least = fused_traffic(stage, training=True), compulsory(stage, True, BATCH)
    return Figures.of(ours), Figures.of(least)


def _add(pairs: Sequence[tuple[Figures, Figures]]) -> tuple[Figures, Figures]:
    ours, least = zip(*pairs, strict=True)
    return total(ours), total(least)


def _subtract(a: Figures, b: Figures) -> Figures:
    return Figures(a.bytes - b.bytes, a.launches - b.launches)


def _casts() -> Figures:
    """Under autocast, an op casts its fp32 weights to halves in one launch, forward and backward.

    Eager PyTorch's 159 MB leave its casts, one of each weight and bias, out as well.
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
    """The sum of several stages."""
    figures = list(figures)
    return Figures(sum(f.bytes for f in figures), sum(f.launches for f in figures))


def traffic_table(rows: Sequence[Row]) -> str:
    """A line for each row: MB and launches in three ways, and ours by the compulsory bytes."""
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
    """The rows and their sum."""
    passes = total(row.eager for row in rows if row.eager is not None)
    ours, least = total(row.ours for row in rows), total(row.compulsory for row in rows)
    return [*rows, Row("**all**", passes, ours, least)]


def saved_table(rows: Sequence[Saved]) -> str:
    """A line for each row."""
    lines = ["| block | eager MB | ours MB | ratio |", "|---|--:|--:|--:|"]
    lines += [
        f"| {name} | {plain / 1e6:.2f} | {ours / 1e6:.2f} | {ours / plain:.2f} |"
        for name, plain, ours in rows
    ]
    return "\n".join(lines)


REPORT_TEXT = """# What a step moves through memory

Written by `python -m benchmarks.traffic`; no GPU is needed. Preset `paper` at 224x224 in fp16,
batch {batch}, per image, without LRN and auxiliary heads; optimizer and loss are left out.

- *ours*: distinct bytes that each launch loads plus those it stores, counted while the Triton
  kernels run in Triton's interpreter, on inputs of 2x2 and 4x4 pixels, from which the real size
  follows (bytes are linear in pixels). `conv1` and `head`, which the library does, have the
  compulsory figures.
- *eager*: a model of PyTorch with every operation a pass of its own.
- *compulsory*: a model of the fused plan in which every launch reads each input and writes each
  output once, and ReLU masks are one bit a value.

Both models, `benchmarks/roofline.py`, read and write every tensor of a launch in memory; a GPU's
second-level cache saves some of it in all three.

## Training

{training}

Beyond the compulsory bytes, ours are mostly ReLU masks: they are taken from the outputs, 16 bits a
value, and both gradients of a convolution read them. On top come, not in the sum:

{extra}

LRN here is what it adds. Weights that are fp32 are cast to halves by one launch of an op, forward
and backward; eager PyTorch, whose casts are not in its figures either, has one for each weight and
bias.

## Inference

{inference}

## Saved for the backward pass

Distinct memory that autograd keeps, without parameters. Eager PyTorch keeps int64 indices of the
branch's max pool, four times the size of its input; ours is a byte.

{saved}
"""


def main() -> None:
    """Count and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.traffic",
        description="What a step moves through memory, per stage; takes minutes.",
    )
    parser.add_argument("--output", default=str(REPORT), help="file to write, or - to print")
    output = parser.parse_args().output
    if not INTERPRETED:  # Triton decides as it is imported
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "TRITON_INTERPRET": "1"})
    report = REPORT_TEXT.format(
        batch=BATCH,
        training=traffic_table(with_total(network_rows(training=True))),
        extra=traffic_table(extra_rows()),
        inference=traffic_table(with_total(network_rows(training=False))),
        saved=saved_table(saved_rows()),
    )
    if output == "-":
        print(report)
    else:
        Path(output).write_text(report)


if __name__ == "__main__":
    run_command(main)
