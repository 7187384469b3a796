"""Time GoogLeNet on a CPU beside every installed peer, by batch and number of threads.

    python -m benchmarks.tools.cpu_performance

writes docs/generated/performance.md, or --page, and its plot.
"""

import argparse
import math
import platform
import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.bench_cpu_model import peak_memory, time_peers, workers
from benchmarks.cpu_peak import measured_peak
from benchmarks.cpu_peers import OURS, export_network, installed_peers
from benchmarks.network import (
    Block,
    Classifier,
    Convolution,
    Stage,
    aux_convolutions,
    fused_call,
    stages,
)
from benchmarks.tools.pages import GENERATED
from googlenet_fast.errors import run_command
from googlenet_fast.extension import instruction_set, tile_points
from googlenet_fast.model import GoogLeNet
from googlenet_fast.registry import OPS, call_of

BATCHES, THREADS = (1, 4, 16, 64), (1, 2)

COMPILED, COMPILED_CASE = "torch.compile channels_last", (2, 16)
"""Threads and batch of torch.compile, which takes a minute or two to compile each case."""

Rows = dict[tuple[str, int, int], dict[str, float]]
"""Images per second of each peer, by mode, threads and batch."""

TEXT = """# GoogLeNet on a CPU

Written by `python -m benchmarks.tools.cpu_performance{arguments}`.
`pip install -r benchmarks/requirements-cpu-peers.txt` installs the peers. Figures are images per
second in fp32 at 224x224, medians of {repeats} interleaved repeats, with torch {torch} on
{machine}. Each peer runs in its own process with the given number of
threads. A pause before each step lets the threads of the previous peer go to sleep.

All compute the same function from the same weights: preset `paper` without LRN and dropout, in
training with both auxiliary heads and SGD with momentum. Losses and logits agree to 1e-4. PyTorch
and PaddlePaddle train it as plain layers; PaddlePaddle's inference is its predictor with oneDNN.
The others read its ONNX or ncnn conversion, in fp32. {ours} runs as its commands
do: freed memory stays with the process, in huge pages.

A dash is a case that was not timed: {compiled} is timed once per mode, others
only if a step was expected to take at most {limit} s. *Ratio* is {ours} / the fastest
peer.

![images per second by batch]({page}.png)

{tables}

## Bounds

The convolutions of an image are {direct[0]:.1f} GFLOP in training and {direct[1]:.1f} in inference.
{as_run} {fast[0]:.1f} and {fast[1]:.1f} GFLOP.
Per image, the fused ops read and write {bytes[0]:.0f} MB in training and {bytes[1]:.0f} MB in
inference. The update and the classifiers add {update:.0f} MB per training step.

The times below are per image at batch 16, at the rates of large fp32 GEMMs and of copies, measured
after the peers. *Both* follows from the sum of *as run* and *memory*, because the data of a GEMM
passes through memory before and after it. {rest}
*Reached* is the share of *both* that {ours} reaches, and *ratio* is *both* / the fastest
peer.

{bounds}

## Memory

Growth of the process over two training steps at batch 64, after the network was built:
{memory}.
"""


AS_RUN, REST = (
    (
        "AMX computes each as three bf16 GEMMs (six in 1x1 convolutions, none in the 7x7 one). 16"
        " of them take\nthe time of one fp32 GEMM, so this takes the time of",
        "The splitting of fp32 values is not included.",
    )
    if instruction_set() == "amx"
    else (
        "With Winograd, whole tiles included, they are",
        "Winograd's transforms are not included.",
    )
)
"""How convolutions are computed, and what the bounds leave out."""


def measure(folder: Path, repeats: int, limit: float) -> Rows:
    """Time all cases. Peers too slow at the previous batch are left out at larger ones."""
    rows: Rows = {}
    for mode in ("training", "inference"):
        for threads in THREADS:
            speeds: dict[str, float] = {}
            with workers(installed_peers(training=mode == "training"), folder, threads) as started:
                for batch in BATCHES:
                    chosen = {
                        peer: worker
                        for peer, worker in started.items()
                        if (peer != COMPILED or (threads, batch) == COMPILED_CASE)
                        and (peer == OURS or batch / speeds.get(peer, torch.inf) < limit)
                    }
                    if len(chosen) == 1:
                        continue  # all others are too slow
                    times = time_peers(chosen, mode, batch, repeats)
                    found = {peer: 1000 * batch / m.p50 for peer, m in times.items()}
                    speeds.update(found)
                    rows[mode, threads, batch] = found
    return rows


def tables(rows: Rows) -> Iterator[str]:
    """Yield the lines of a table per mode, with a row per peer."""
    for mode in ("training", "inference"):
        cases = [case for case in rows if case[0] == mode]
        yield f"## {mode.capitalize()}\n"
        yield "| threads, batch | " + " | ".join(f"{t}, {b}" for _, t, b in cases) + " |"
        yield "|---|" + "--:|" * len(cases)
        for peer in installed_peers(training=mode == "training"):
            cells = [f"{rows[c][peer]:.1f}" if peer in rows[c] else "-" for c in cases]
            yield f"| {peer} | " + " | ".join(cells) + " |"
        ratios = [
            rows[c][OURS] / max(speed for peer, speed in rows[c].items() if peer != OURS)
            for c in cases
        ]
        yield "| ratio | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |\n"


def fused_stages(*, training: bool) -> list[Stage]:
    """Return the stages with a fused op: all but the classifier."""
    found = [*stages("paper"), *(aux_convolutions() if training else [])]
    return [stage for stage in found if not isinstance(stage, Classifier)]


def operations(*, training: bool, taken: bool) -> float:
    """Return multiplications and additions of all convolutions, per image.

    Args:
        training: forward and backward; else forward.
        taken: of the algorithms used, as fp32 operations that take the same time; else of direct
            convolutions.
    """
    total = 0.0
    for stage in fused_stages(training=training):
        convs = stage.convolutions().values() if isinstance(stage, Block) else [stage]
        for conv in convs:
            if isinstance(conv, Convolution):
                passes = (2 if conv.name == "conv1" else 3) if training else 1
                products: float = conv.side**2
                points = tile_points(conv.channels, conv.taps, conv.side, conv.side)
                if taken and instruction_set() == "amx" and conv.taps != 7:
                    # Operations a cycle: 1024 of bf16 by AMX, 64 of fp32 by AVX-512 (Intel's
                    # Optimization Reference Manual).
                    products *= (6 if conv.taps == 1 else 3) / 16
                elif taken and points > 0:
                    tiles = math.ceil(conv.side / (points + 1 - conv.taps)) ** 2
                    products = points**2 * tiles / conv.taps**2
                total += passes * 2 * products * conv.weight
    return total


def traffic(*, training: bool) -> float:
    """Return the bytes that the fused ops read and write per image, each tensor once per op."""
    make = partial(torch.empty, device="meta")
    dtype = torch.float32
    calls = [
        fused_call(stage, 1, stage.side_in, dtype, training=training, make=make)
        for stage in fused_stages(training=training)
    ]
    return sum(OPS[call.op].work((training, *call_of(call.arguments)[1:])).bytes for call in calls)


def update_traffic() -> int:
    """Return the bytes of a step's update and classifiers.

    SGD reads parameter, gradient and momentum and writes parameter and momentum. Classifiers read
    their weights in both directions and write their gradient.
    """
    with torch.device("meta"):
        network = GoogLeNet("paper", lrn=False)
    classifiers = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear))
    return 4 * (5 * sum(p.numel() for p in network.parameters()) + 3 * classifiers)


def bounds(rows: Rows) -> Iterator[str]:
    """Yield the lines of a table of the bounds and the share reached, by threads and mode."""
    columns = "direct, ms | as run, ms | memory, ms | both, images/s | reached | ratio"
    yield f"| threads | mode | {columns} |"
    yield "|--:|---|--:|--:|--:|--:|--:|--:|"
    for threads in THREADS:
        torch.set_num_threads(threads)
        measured_peak.cache_clear()
        peak = measured_peak()
        for mode in ("training", "inference"):
            training = mode == "training"
            direct, fast = (
                1e3 * operations(training=training, taken=t) / (peak.tflops * 1e12)
                for t in (False, True)
            )
            update = update_traffic() / BATCHES[2] if training else 0
            memory = 1e3 * (traffic(training=training) + update) / (peak.tbps * 1e12)
            both = 1e3 / (fast + memory)
            speeds = rows[mode, threads, BATCHES[2]]
            best_other = max(speed for peer, speed in speeds.items() if peer != OURS)
            yield (
                f"| {threads} | {mode} | {direct:.1f} | {fast:.1f} | {memory:.1f} | {both:.0f}"
                f" | {speeds[OURS] / both:.0%} | {both / best_other:.2f} |"
            )


def plot(rows: Rows, page: str) -> None:
    """Plot images per second by batch, with the most threads."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, mode in zip(figure.subplots(1, 2), ("training", "inference"), strict=True):
        for peer in installed_peers(training=mode == "training"):
            points = [
                (batch, found[peer])
                for (kind, threads, batch), found in rows.items()
                if kind == mode and threads == THREADS[-1] and peer in found
            ]
            axes.plot(*zip(*points, strict=True), "o-", label=peer)
        axes.set(xlabel="batch", ylabel="images per second", title=f"{mode}, {THREADS[-1]} threads")
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(GENERATED / f"{page}.png", dpi=100)


def machine() -> str:
    """Return model name and cores of this CPU."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = re.findall(r"model name\s*: (.*)", cpuinfo)
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tools.cpu_performance")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds of each case")
    parser.add_argument("--limit", type=float, default=10, help="longest step, in seconds")
    parser.add_argument("--page", default="performance", help="name of the page in docs/generated")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_network(folder)
        memory = {
            peer: peak_memory(folder, peer, 64)
            for peer in (OURS, "PyTorch", "PyTorch channels_last")
        }
        rows = measure(folder, options.repeats, options.limit)
    plot(rows, options.page)
    report = TEXT.format(
        arguments=f" --repeats {options.repeats} --limit {options.limit:g} --page {options.page}",
        page=options.page,
        machine=machine(),
        torch=torch.__version__,
        repeats=options.repeats,
        ours=OURS,
        compiled=COMPILED,
        limit=f"{options.limit:g}",
        tables="\n".join(tables(rows)),
        direct=[operations(training=t, taken=False) / 1e9 for t in (True, False)],
        fast=[operations(training=t, taken=True) / 1e9 for t in (True, False)],
        bytes=[traffic(training=t) / 1e6 for t in (True, False)],
        update=update_traffic() / 1e6,
        as_run=AS_RUN,
        rest=REST,
        bounds="\n".join(bounds(rows)),
        memory=", ".join(f"{peer} {peak / 2**20:.0f} MiB" for peer, peak in memory.items()),
    )
    (GENERATED / f"{options.page}.md").write_text(report)


if __name__ == "__main__":
    run_command(main)
