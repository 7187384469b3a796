"""What this machine can do and whether it does it right: `python -m googlenet_fast.doctor`.

Prints versions and devices, which backends each fused op has here and why others are
missing, and checks every one that runs, forward and backward, against the reference in float64. On
a GPU it also times every layer of the network; without one it checks the Triton kernels in Triton's
interpreter. Exit status 1: a check failed.
"""

import argparse
import json
import sys
import warnings
from dataclasses import asdict

import torch

from googlenet_fast.cli import program
from googlenet_fast.data.loader import describe_decoding
from googlenet_fast.engine.cudnn import cudnn_benchmark
from googlenet_fast.engine.whole_steps import describe_known
from googlenet_fast.environment import describe_extension, devices, versions
from googlenet_fast.errors import run_command
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.calls import calls_of
from googlenet_fast.registry import Call
from googlenet_fast.selfcheck import layers
from googlenet_fast.selfcheck.accuracy import Result, check_all
from googlenet_fast.selfcheck.autotune import contested, measured
from googlenet_fast.selfcheck.interpreter import check_in_interpreter


def main() -> None:
    """Print the report; exit with status 1 if a check failed."""
    parser = argparse.ArgumentParser(
        prog=program("doctor"),
        description="What this machine can run, whether it computes it right, and how fast.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    as_json = parser.parse_args().json
    times: list[layers.LayerTime] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report itself says what falls back
        results = check_all()
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                name = torch.cuda.get_device_name(index)
                with cudnn_benchmark(torch.device("cuda", index)):
                    times += layers.measure_all(f"cuda:{index}", name, training_layers())
        else:
            results += check_in_interpreter()
    about = {
        "versions": versions(),
        "devices": devices(),
        "extension": describe_extension(),
        "decoding": describe_decoding(),
        "choice": describe_choice(),
    }
    if as_json:
        document = {
            **about,
            "ops": [asdict(result) for result in results],
            "layers": [asdict(time) for time in times],
        }
        print(json.dumps(document, indent=2))
    else:
        for title, facts in about.items():
            print(title, *(f"  {name:22} {fact}" for name, fact in facts.items()), sep="\n")
        print("ops (* is what auto takes)", *(f"  {line(result)}" for result in results), sep="\n")
        print(*(_layer_lines(times) or [_no_gpu(results)]), sep="\n")
    failures = [result.failure for result in results] + [time.failure for time in times]
    if any(failure is not None for failure in failures):
        sys.exit(1)


def describe_choice() -> dict[str, str]:
    """Say by what backends and whole steps are chosen on each GPU, under the commands' flags."""
    found = {}
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        with cudnn_benchmark(device):
            count, compared = len(measured(str(device))), describe_known(str(device))
            found[f"{device} cudnn"] = (
                f"benchmark {'on' if torch.backends.cudnn.benchmark else 'off, as was asked for'}"
            )
        found[f"{device} ops"] = f"{count} calls measured here; others by the nearest measurement"
        found[f"{device} whole steps"] = "; ".join(compared) or "none compared yet: long runs do"
    return found or {"ops": "no GPU: in the order in which backends are listed"}


def training_layers() -> list[tuple[str, Call]]:
    """Return the calls in training, in fp16, of the paper's network at 224x224."""
    with torch.device("meta"):
        model = GoogLeNet("paper")
    calls = calls_of(model, layers.BATCH, 224, None, torch.device("cuda", 0))
    return [
        (op, (True, (shape, torch.float16), *others))
        for op, (training, (shape, _), *others) in contested(calls)
        if training
    ]


def _layer_lines(times: list[layers.LayerTime]) -> list[str]:
    if not times:
        return []
    title = f"layers, forward and backward, {layers.BATCH} images, fp16 (* is what auto takes)"
    return [title, *(f"  {time.device} {layers.line(time)}" for time in times)]


def _no_gpu(results: list[Result]) -> str:
    """Return what was done instead; what did not run is not reported as checked."""
    interpreted = [result for result in results if result.device == "interpreter"]
    reasons = [result.reason or result.failure for result in interpreted if not result.errors]
    if reasons:
        return f"no GPU, and not all of Triton's kernels could be checked: {reasons[0]}"
    return "no GPU: Triton's kernels were checked in its interpreter, on the CPU; nothing is timed"


def line(result: Result) -> str:
    """Return one line of the report."""
    if result.reason is not None:
        state = f"not available: {result.reason}"
    elif result.failure is not None:
        state = f"FAILED: {result.failure}"
    elif result.backend == "reference":
        state = "what others are compared with"
    else:
        state = "ok, relative error " + ", ".join(
            f"{error:.1e} ({dtype})" for dtype, error in result.errors.items()
        )
    if result.skipped is not None:
        state += f"; auto skips it: {result.skipped}"
    mark = "*" if result.auto else " "
    return f"{result.op:20} {result.device:11} {mark} {result.backend:10} {state}"


if __name__ == "__main__":
    run_command(main)
