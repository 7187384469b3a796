"""Plot the loss curves of the CPU kernels and of the reference.

    python -m benchmarks.tools.loss_curves

trains the digits recipe (preset `torchvision`, with batch norm) twice from one seed: with the
native kernels (Winograd or AMX convolutions) and with plain PyTorch. Writes
docs/generated/loss_curves.png.
"""

import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.tools.pages import GENERATED
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import distributed
from googlenet_fast.engine.run_folder import read_metrics
from googlenet_fast.engine.trainer import Trainer
from googlenet_fast.errors import GoogLeNetError, run_command
from googlenet_fast.ops import use_impl

STEPS = 200

WINDOW = 10
"""Steps per mean of the smoothed curve."""

PLOT = GENERATED / "loss_curves.png"

OPTIONS = (
    "--epochs=5 --eval_interval=5 --data.batch_size=32 --optimizer.lr=0.002 --device=cpu"
    " --log_interval=1 --data.image_size=112 --data.resize_size=112"
)
"""At the recipe's learning rate, rounding alone makes runs diverge. At this image size 3x3
convolutions have Winograd tiles of 6 and of 9 points."""


def losses(impl: str) -> NDArray[np.float64]:
    """Return the loss of each training step with `auto` or `reference`."""
    with tempfile.TemporaryDirectory() as folder, use_impl(impl):
        config = load_config([*OPTIONS.split(), "--output", folder])
        with distributed(config.device) as process:
            trainer = Trainer(config, process)
            result = trainer.run()
            trainer.close()
        if result is None:
            raise GoogLeNetError("stopped by a signal; run it again")
        lines = read_metrics(next(Path(folder).rglob("metrics.jsonl")))
    return np.array([line["loss"] for line in lines if line["kind"] == "train"])[:STEPS]


def smoothed(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means over a sliding window of `WINDOW` steps."""
    return np.convolve(curve, np.ones(WINDOW) / WINDOW, "valid")


def main() -> None:
    """Train, plot, and print the differences of the curves."""
    curves = {impl: losses(impl) for impl in ("reference", "auto")}
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for impl, style in (("reference", "-"), ("auto", "--")):
        axes.plot(curves[impl], style, label={"auto": "native kernels"}.get(impl, impl))
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(PLOT, dpi=100)
    reference, ours = (smoothed(curve) for curve in curves.values())
    apart = np.abs(ours - reference) / reference
    raw = np.abs(curves["auto"] - curves["reference"])
    print(f"loss from {reference[0]:.3f} to {reference[-1]:.3f} in {STEPS} steps")
    print(f"smoothed over {WINDOW} steps: apart {apart.max():.3%} at most, {apart.mean():.3%} mean")
    print(f"largest difference of a step: {raw.max():.2e}; of the first {WINDOW}: ", end="")
    print(f"{raw[:WINDOW].max():.2e}")


if __name__ == "__main__":
    run_command(main)
