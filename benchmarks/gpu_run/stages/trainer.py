"""The trainer, by its command line, on synthetic images: captured and launched by the host."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu_run.setting import Setting, SkippedError

STEPS = 60
"""At least as many, in whole epochs of the digits, whose labels the synthetic images have."""

TRAINING_IMAGES = 1438
"""Of the digits."""


def run(setting: Setting) -> None:
    """Record images a second and the last loss of each way to launch."""
    for batch in (512,) if setting.dry_run else setting.batches:
        for graph in ("on", "off"):
            setting.attempt(f"graph {graph}", batch, measure=partial(_train, setting, batch, graph))


def _train(setting: Setting, batch: int, graph: str) -> dict[str, Any]:
    folder = setting.output / "trainer" / f"{batch}-{graph}"
    per_epoch = TRAINING_IMAGES // batch
    epochs = 1 if setting.dry_run else -(-STEPS // per_epoch)
    command = [sys.executable, "-m", "googlenet_fast.train", "--data.loader", "synthetic"]
    command += ["--data.batch_size", str(batch), "--epochs", str(epochs), "--graph", graph]
    command += ["--eval_interval", str(epochs), "--log_interval", str(min(10, per_epoch))]
    command += ["--autotune", "off", "--output", str(folder), "--device", setting.device]
    if setting.dry_run:
        command += ["--data.image_size", "32"]
    else:
        command += ["--model.preset", "paper", "--data.image_size", "224", "--amp", "fp16"]
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was ended
    child = subprocess.run(command, capture_output=True, text=True)
    print(child.stdout, child.stderr, sep="\n")
    if child.returncode == 2 and "graph" in child.stderr:
        raise SkippedError(
            f"the trainer has no --graph {graph}: {child.stderr.strip().splitlines()[-1]}"
        )
    if child.returncode != 0:
        raise RuntimeError(f"exit status {child.returncode}: {child.stderr.strip()[-300:]}")
    return _summary(folder / "metrics.jsonl")


def _summary(metrics: Path) -> dict[str, Any]:
    """Return the median of the logged rates without the first, and the last loss."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    rates = [line["images_per_second"] for line in steps]
    return {"images_per_second": median(rates[1:] or rates), "loss": steps[-1]["loss"]}
