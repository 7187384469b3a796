"""The curves of a run as a picture."""

from pathlib import Path

from matplotlib.figure import Figure

from googlenet_fast.engine.run_folder import read_metrics


def plot_curves(metrics: Path, output: Path) -> None:
    """Plot loss, top-1 and learning rate of a metrics.jsonl over the epochs into a PNG."""
    lines = read_metrics(metrics)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = (("loss", "loss"), ("top1", "top-1 (%)"), ("lr", "learning rate"))
    for axes, (key, title) in zip(figure.subplots(1, 3), panels, strict=True):
        for kind, style in (("train", "-"), ("val", "o-")):
            points = [
                (line["epoch"], line[key]) for line in lines if line["kind"] == kind and key in line
            ]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=kind, markersize=4)
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
        if key == "loss":
            axes.set_yscale("log")
        if key != "lr":
            axes.legend()
    figure.savefig(output, dpi=100)
