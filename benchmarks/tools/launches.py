"""Predict the launches of a step: `python -m benchmarks.tools.launches`; no GPU is needed.

Writes docs/generated/launches.md, and the predictions to launches.json beside it. With `--check` it
writes nothing, and exits with status 1 if a launch or a step is predicted to be worse than there.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.network import Normalization, aux_convolutions, has_fused_op, stages
from benchmarks.tools.launch_prediction import (
    HIDING,
    L2,
    LATENCY,
    LAUNCH,
    MEMORY,
    MULTIPROCESSORS,
    TENSOR_CORES,
    Prediction,
    predict,
)
from benchmarks.tools.pages import GENERATED, add_output, write
from benchmarks.tools.step_launches import BATCH, STEPS, Row, totals
from benchmarks.tools.traffic import launches_of
from googlenet_fast.errors import run_command
from googlenet_fast.kernels.launch import INTERPRETED

REPORT = GENERATED / "launches.md"
ACCEPTED = GENERATED / "launches.json"

TOLERANCE = 1.001
"""A prediction may be so many times the accepted one; the rest is rounding."""

Found = dict[str, Prediction]
"""Predictions of launches by stage, number and kernel."""


def triton_launches(*, training: bool) -> Found:
    """Predict each launch of the Triton kernels of preset `paper` and of LRN, in fp16."""
    found = {}
    heads = aux_convolutions() if training else []
    normalizations = [stage for stage in stages(lrn=True) if isinstance(stage, Normalization)]
    for stage in [*stages(), *normalizations, *heads]:
        fused = has_fused_op(stage)
        launches = launches_of(stage, BATCH, training=training) if fused else []
        for number, prediction in enumerate(map(predict, launches), 1):
            found[f"{stage.name} {number} {prediction.kernel}"] = prediction
    return found


def numbers(found: Mapping[str, Found], steps: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """Return the predictions that CI holds, by name."""
    launches = {
        f"{mode}: {name}": round(prediction.microseconds, 3)
        for mode, predictions in found.items()
        for name, prediction in predictions.items()
    }
    for name, rows in steps.items():
        sums = totals(rows)
        launches[f"{name}: launches"] = sums["launches"]
        launches[f"{name}: microseconds"] = round(sums["microseconds"], 1)
    return launches


def worsened(accepted: Mapping[str, float], now: Mapping[str, float]) -> Iterator[str]:
    """Return a line for each number that is larger than accepted, or that nobody has accepted."""
    for name, value in now.items():
        if name not in accepted:
            yield f"{name}: {value}, not accepted yet"
        elif value > accepted[name] * TOLERANCE:
            yield f"{name}: {value}, accepted {accepted[name]}"


def launch_table(predictions: Found) -> str:
    """Return a row per launch."""
    lines = [
        "| launch | L2 MB | memory MB | programs / SM | exposed steps | predicted us |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {name} | {p.l2_bytes / 1e6:.1f} | {p.memory_bytes / 1e6:.1f} | {p.programs:.1f} |"
        f" {p.exposed_steps} | {p.microseconds:.1f} |"
        for name, p in predictions.items()
    ]
    total = sum(p.microseconds for p in predictions.values())
    return "\n".join([*lines, f"| **all** | | | | | {total:.0f} |"])


def step_table(steps: Mapping[str, Sequence[Row]]) -> str:
    """Return a row per step."""
    lines = ["| step | launches | predicted ms |", "|---|--:|--:|"]
    for name, rows in steps.items():
        sums = totals(rows)
        lines.append(f"| {name} | {sums['launches']:.0f} | {sums['microseconds'] / 1e3:.2f} |")
    return "\n".join(lines)


def operation_table(rows: Sequence[Row]) -> str:
    """Return a row per operation of a step."""
    lines = ["| operation | launches | MB | predicted us |", "|---|--:|--:|--:|"]
    lines += [
        f"| {row.name} | {row.launches} | {row.bytes / 1e6:.1f} | {row.microseconds:.1f} |"
        for row in sorted(rows, key=lambda row: (-row.microseconds, row.name))
    ]
    return "\n".join(lines)


REPORT_TEXT = f"""# Predicted launches of a step

Written by `python -m benchmarks.tools.launches`; no GPU is needed. Everything here is predicted, in
fp16 at batch {BATCH} and 224x224, for a GPU like the H100 and the H200:

- {MULTIPROCESSORS} multiprocessors, {L2 / 1e12} TB/s through L2, {MEMORY / 1e12} TB/s of memory,
- {TENSOR_CORES / 1e12:.0f} TFLOP/s in products of matrices,
- {LAUNCH * 1e6} us a launch in a CUDA graph, {LATENCY * 1e6} us of latency a step.

`benchmarks/tools/launch_prediction.py` names where these come from. The same command with `--check`
fails if a launch or a step is predicted to be worse than in `launches.json`, and so do the tests.
Without `--check` it accepts what it finds.

## Whole steps

Training: forward, loss, backward, gradient scaling and optimizer, with auxiliary heads and the
library's convolutions. An operation takes its launches, and the longer of its bytes at the rate of
memory and its products at that of the tensor cores: for the library's convolutions that is a bound,
not what they take. Inference: the Triton kernels, of weights in half precision.

{{steps}}

{{operations}}

## Triton kernels, launch by launch

Preset `paper` and its auxiliary convolutions. *L2*: what all programs load, tile by tile, and what
is stored. *Exposed steps*: those of a program's loop, where at most {HIDING} programs share a
multiprocessor, so that nothing hides their latency. A launch takes {LAUNCH * 1e6} us and the
longest of what it moves through L2, moves in memory, multiplies and waits for.

### Inference

{{inference}}

### Training

{{training}}
"""


def main() -> None:
    """Predict, then write or check."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tools.launches",
        description="Predict the launches of a step.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1: a prediction worsened"
    )
    add_output(parser, REPORT)
    options = parser.parse_args()
    if not INTERPRETED:  # decided when Triton is imported
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "TRITON_INTERPRET": "1"})
    found = {mode: triton_launches(training=mode == "training") for mode in MODES}
    steps = {name: step() for name, step in STEPS.items()}
    now = numbers(found, steps)
    if options.check:
        bad = list(worsened(json.loads(ACCEPTED.read_text()), now))
        sys.exit("\n".join(bad) if bad else 0)
    operations = [f"### {name}\n\n{operation_table(rows)}" for name, rows in steps.items()]
    report = REPORT_TEXT.format(
        steps=step_table(steps),
        operations="\n\n".join(operations),
        **{mode: launch_table(found[mode]) for mode in MODES},
    )
    write(report, options.output)
    if options.output == str(REPORT):
        ACCEPTED.write_text(json.dumps(now, indent=1) + "\n")


MODES = ("inference", "training")

if __name__ == "__main__":
    run_command(main)
