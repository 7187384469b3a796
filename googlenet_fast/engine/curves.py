"""Plot the metrics of runs over the epochs. matplotlib is imported where it draws."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from googlenet_fast.engine.run_folder import read_metrics
from googlenet_fast.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Metrics = Sequence[Mapping[str, Any]]
"""The lines of a metrics.jsonl."""
LEARNING = {"loss": "loss", "top1": "top-1 (%)", "lr": "learning rate"}
"""Panels of learning curves: key of the metrics -> title."""
THROUGHPUT = {
    "images_per_second": "images/s",
    "data_share": "share of time waiting for images",
    "memory_gib": "peak memory (GiB)",
}
"""Panels of throughput."""
MAX_POINTS = 500
"""Points per line; longer series are averaged over equal parts."""


def plot_curves(metrics: Path, output: Path) -> None:
    """Plot loss, top-1 and learning rate of a metrics.jsonl over the epochs into a PNG."""
    image = io.BytesIO()
    draw_curves({"": read_metrics(metrics)}, LEARNING).savefig(image, format="png", dpi=100)
    write_atomically(output, image.getbuffer())


def curves_svg(runs: Mapping[str, Metrics], panels: Mapping[str, str]) -> str:
    """Return the curves as an <svg> element; "" if no run has data for them."""
    drawn = {k: v for k, v in panels.items() if any(series(m, "train", k) for m in runs.values())}
    if not drawn:
        return ""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_curves(runs, drawn).savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def draw_curves(runs: Mapping[str, Metrics], panels: Mapping[str, str]) -> "Figure":
    """Draw one panel per key: training as lines, validation as dots, one colour per run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(panels), 3.6), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (key, title) in zip(row, panels.items(), strict=True):
        for i, (name, metrics) in enumerate(runs.items()):
            _draw_run(axes, metrics, key, name if len(runs) > 1 else None, f"C{i}")
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
        if key == "loss":
            axes.set_yscale("log")
        if axes.get_legend_handles_labels()[1]:
            for text in axes.legend().get_texts():
                text.set_parse_math(False)  # the name of a run may have dollar signs
    return figure


def _draw_run(axes: "Axes", metrics: Metrics, key: str, name: str | None, colour: str) -> None:
    """Draw the lines of a run; a single run, without a name, has one colour per kind."""
    for kind, style in (("train", "-"), ("val", "o-")):
        if not (points := series(metrics, kind, key)):
            continue
        options: dict[str, Any] = {"label": kind if key in ("loss", "top1") else None}
        if name is not None:
            options = {"label": name if kind == "train" else None, "color": colour}
            options["alpha"] = 1.0 if kind == "train" else 0.6
        axes.plot(*np.array(_thinned(points)).T, style, markersize=4, **options)


def series(metrics: Metrics, kind: str, key: str) -> list[tuple[float, float]]:
    """Return (epoch, value) of the lines of one kind that have both numbers."""
    lines = [line for line in metrics if line.get("kind") == kind]
    numbers = [[v for v in (line.get("epoch"), line.get(key)) if _is_number(v)] for line in lines]
    return [(pair[0], pair[1]) for pair in numbers if len(pair) == 2]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    step = math.ceil(len(points) / MAX_POINTS)
    parts = [points[i : i + step] for i in range(0, len(points), step)]
    return [(float(x), float(y)) for x, y in (np.mean(part, axis=0) for part in parts)]
