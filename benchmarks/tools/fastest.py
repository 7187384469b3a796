"""Measure the table that `auto` uses on GPUs without measurements of their own.

    python -m benchmarks.tools.fastest

writes googlenet_fast/selfcheck/speed_table.json: the time of every backend on this machine's GPU,
for each call of the networks at 224x224 in fp16, in training and in evaluation. The table in the
package is of an H100. On other GPUs, long training runs measure their own.
"""

import json
from collections.abc import Iterable
from typing import Any

import torch

from benchmarks.tools.pages import ROOT
from googlenet_fast.engine.distributed import distributed
from googlenet_fast.errors import GoogLeNetError, run_command
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.calls import calls_of
from googlenet_fast.selfcheck.autotune import measured, search

TABLE = ROOT / "googlenet_fast" / "selfcheck" / "speed_table.json"
"""The table's file in the package."""

BATCH, SIZE = 64, 224
"""Images per step, and their height and width."""


def models() -> list[GoogLeNet]:
    """Return the networks of the presets and of the recipes."""
    with torch.device("meta"):
        presets = [GoogLeNet(preset) for preset in ("paper", "paddleclas", "torchvision")]
        return [GoogLeNet("paper", lrn=False), *presets]


def main() -> None:
    """Measure and write the table."""
    if not torch.cuda.is_available():
        raise GoogLeNetError("no CUDA device: the table is measured on a GPU")
    with distributed("cuda") as process:
        for model in models():
            calls = calls_of(model, BATCH, SIZE, torch.float16, process.device)
            search(calls, str(process.device), process.broadcast)
        found = measured(str(process.device))
    TABLE.write_text(table(torch.cuda.get_device_name(), found))
    print(TABLE)


def table(gpu: str, entries: Iterable[dict[str, Any]]) -> str:
    """Return the text of the table: one entry per line, times to three digits.

    Args:
        gpu: its name.
        entries: of `autotune.measured`. Those of other batches are left out.
    """
    lines = [
        json.dumps(
            {**entry, "seconds": {k: float(f"{v:.3g}") for k, v in entry["seconds"].items()}}
        )
        for entry in entries
        if entry["batch"] == BATCH
    ]
    return f'{{"gpu": {json.dumps(gpu)}, "entries": [\n' + ",\n".join(lines) + "\n]}\n"


if __name__ == "__main__":
    run_command(main)
