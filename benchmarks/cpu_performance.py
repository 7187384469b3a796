"""Writes docs/performance.md and its plot: `python -m benchmarks.cpu_performance`.

GoogLeNet on a CPU beside every peer that is installed, by batch and number of threads.
"""

import argparse
import platform
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.bench_cpu_model import peak_memory, time_peers, workers
from benchmarks.cpu_peak import measured_peak
from benchmarks.cpu_peers import OURS, export_network, installed_peers
from benchmarks.network import Block, Convolution, aux_convolutions, stages
from googlenet_fast.errors import run_command

DOCS = Path(__file__).parents[1] / "docs"

BATCHES, THREADS = (1, 4, 16, 64), (1, 2)

COMPILED, COMPILED_CASE = "torch.compile channels_last", (2, 16)
"""Compiling takes a minute or two a case, so it is timed at one number of threads and batch."""

WINOGRAD = {1: 1.0, 3: 4.0, 5: 25 / 9}
"""Multiplications that F(4x4,3x3) and F(2x2,5x5) save, by the side of the filter."""

Rows = dict[tuple[str, int, int], dict[str, float]]
"""Images a second of each peer, by mode, threads and batch."""

TEXT = """# GoogLeNet on a CPU

Written by `python -m benchmarks.cpu_performance{arguments}`; `pip install -r
benchmarks/requirements-cpu-peers.txt` installs the peers. Images a second in fp32 at 224x224 on
{machine}, torch {torch}: medians of {repeats} interleaved repeats, each peer in a
process of its own with that number of threads.

All compute the same function from the same weights: preset `paper` without LRN and dropout, in
training with both auxiliary heads and SGD with momentum; losses and logits agree to 1e-4. PyTorch
and PaddlePaddle train it as plain layers (PaddlePaddle's inference is its predictor with oneDNN);
the others read its ONNX or ncnn conversion, in fp32. {ours} runs as its commands do, which
keeps freed memory with the process. {compiled} is timed once a mode. Dashes were not timed:
other cases of it, and batches that were expected to take longer than {limit} s. *Ratio*: {ours}
against the best other.

![images a second by batch](performance.png)

{tables}

## Bounds

{bounds}

## Memory

Growth of the process over two training steps at batch 64, from after the network was built:
{memory}.
"""


def measure(folder: Path, repeats: int, limit: float) -> Rows:
    """Time all cases; a peer is left out where its speed at the batch before says it is slow."""
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
    """A table for each mode, a line for each peer."""
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


def operations(*, training: bool, winograd: bool) -> float:
    """Multiplications and additions of all convolutions but the first, for an image."""
    found = [*stages("paper"), *(aux_convolutions() if training else [])]
    convs = [s for s in found if isinstance(s, Convolution) and s.name != "conv1"]
    convs += [c for s in found if isinstance(s, Block) for c in s.convolutions().values()]
    saved = WINOGRAD if winograd else dict.fromkeys(WINOGRAD, 1.0)
    total = sum(2 * c.side**2 * c.weight / saved[c.taps] for c in convs)
    return total * (3 if training else 1)


def bounds() -> Iterator[str]:
    """What the arithmetic allows, by mode and number of threads."""
    for threads in THREADS:
        torch.set_num_threads(threads)
        measured_peak.cache_clear()
        peak = measured_peak()
        yield (
            f"- {threads} threads: matrix products reach {1000 * peak.tflops:.0f} GFLOP/s,"
            f" copies {1000 * peak.tbps:.0f} GB/s. At that rate the convolutions alone, without the"
            " stem's, Winograd's transforms and all passes over memory, allow"
        )
        for mode in ("training", "inference"):
            direct, fast = (
                operations(training=mode == "training", winograd=w) for w in (False, True)
            )
            yield (
                f"  {peak.tflops * 1e12 / direct:.0f} images a second directly"
                f" ({direct / 1e9:.1f} GFLOP an image) and {peak.tflops * 1e12 / fast:.0f} by"
                f" Winograd ({fast / 1e9:.1f}) in {mode}{',' if mode == 'training' else '.'}"
            )


def plot(rows: Rows) -> None:
    """Images a second over the batch, with the most threads."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, mode in zip(figure.subplots(1, 2), ("training", "inference"), strict=True):
        for peer in installed_peers(training=mode == "training"):
            points = [
                (batch, found[peer])
                for (kind, threads, batch), found in rows.items()
                if kind == mode and threads == THREADS[-1] and peer in found
            ]
            axes.plot(*zip(*points, strict=True), "o-", label=peer)
        axes.set(xlabel="batch", ylabel="images a second", title=f"{mode}, {THREADS[-1]} threads")
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(DOCS / "performance.png", dpi=100)


def machine() -> str:
    """Model name and cores of this CPU."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = re.findall(r"model name\s*: (.*)", cpuinfo)
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_performance")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds of each case")
    parser.add_argument("--limit", type=float, default=10, help="longest step, in seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_network(folder)
        memory = {peer: peak_memory(folder, peer, 64) for peer in (OURS, "PyTorch")}
        rows = measure(folder, options.repeats, options.limit)
    plot(rows)
    report = TEXT.format(
        arguments=f" --repeats {options.repeats} --limit {options.limit:g}",
        machine=machine(),
        torch=torch.__version__,
        repeats=options.repeats,
        ours=OURS,
        compiled=COMPILED,
        limit=f"{options.limit:g}",
        tables="\n".join(tables(rows)),
        bounds="\n".join(bounds()),
        memory=", ".join(f"{peer} {peak / 2**20:.0f} MiB" for peer, peak in memory.items()),
    )
    (DOCS / "performance.md").write_text(report)


if __name__ == "__main__":
    run_command(main)
