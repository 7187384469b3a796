"""Examine this machine: versions, devices, and each backend against the reference."""

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from googlenet_fast.data.loader import describe_decoding
from googlenet_fast.engine.cudnn import cudnn_benchmark
from googlenet_fast.engine.whole_steps import describe_known
from googlenet_fast.environment import describe_extension, devices, versions
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.calls import calls_of
from googlenet_fast.registry import Call
from googlenet_fast.selfcheck import layers
from googlenet_fast.selfcheck.accuracy import Result, check_all
from googlenet_fast.selfcheck.autotune import contested, measured
from googlenet_fast.selfcheck.interpreter import check_in_interpreter
from googlenet_fast.tables import table

_indented = partial(textwrap.indent, prefix="  ")


@dataclass(frozen=True)
class MachineReport:
    """What was found."""

    about: dict[str, dict[str, str]]
    """Facts by name, by topic."""
    results: list[Result]
    """Of the checks of each backend of each op."""
    times: list[layers.LayerTime]
    """Of each layer of the network; empty without a GPU."""

    @property
    def healthy(self) -> bool:
        """Whether no check failed."""
        return all(result.failure is None for result in (*self.results, *self.times))

    def document(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {
            **self.about,
            "ops": [asdict(result) for result in self.results],
            "layers": [asdict(time) for time in self.times],
        }

    def text(self) -> str:
        """Return the report as tables."""
        parts = []
        for title, facts in self.about.items():
            parts += [title, _indented(table([[name, fact] for name, fact in facts.items()]))]
        rows = [row(result) for result in self.results]
        parts += ["ops (* is what auto takes)", _indented(table(rows))]
        parts += _layer_table(self.times) if self.times else [_no_gpu(self.results)]
        return "\n".join(parts)


def examine() -> MachineReport:
    """Check each backend, and time each layer on each GPU."""
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
    return MachineReport(about, results, times)


def describe_choice() -> dict[str, str]:
    """Say how backends and whole steps are chosen on each GPU, under the commands' flags."""
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


def _layer_table(times: Sequence[layers.LayerTime]) -> list[str]:
    title = f"layers, forward and backward, {layers.BATCH} images, fp16 (* is what auto takes)"
    rows = [layers.row(time) for time in times]
    return [title, _indented(table(rows, layers.COLUMNS, right=layers.NUMBERS))]


def _no_gpu(results: Sequence[Result]) -> str:
    """Return what was done instead; what did not run is not reported as checked."""
    interpreted = [result for result in results if result.device == "interpreter"]
    reasons = [result.reason or result.failure for result in interpreted if not result.errors]
    if reasons:
        return f"no GPU, and not all of Triton's kernels could be checked: {reasons[0]}"
    return "no GPU: Triton's kernels were checked in its interpreter, on the CPU; nothing is timed"


def row(result: Result) -> list[str]:
    """Return a backend's row in the table of ops."""
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
    return [result.op, result.device, mark, result.backend, state]
