"""The confusion matrix as an image, by matplotlib."""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from googlenet_fast.engine.evaluation import Evaluation
from googlenet_fast.tables import shortened

COUNTED = 40
"""Maximum number of classes for which the image has the counts."""
NAMED = 80
"""Maximum number of classes for which the image has names; otherwise it has their numbers."""
LONGEST_NAME = 24
"""Columns of a class name in the image, of which a Chinese character takes two."""


def confusion_png(evaluation: Evaluation, names: Sequence[str]) -> bytes:
    """Plot the classes that occur, as a label or as a prediction, as a PNG.

    The colour of a cell is its share of the row, the images with that label.
    """
    counts = evaluation.confusion
    occurring = ((counts.sum(0) + counts.sum(1)) > 0).nonzero().flatten()
    counts = counts[occurring][:, occurring]
    named = len(occurring) <= NAMED
    side = 5 + (0.3 if named else 0.02) * len(occurring)  # inches; at least 2 pixels per class
    with matplotlib.rc_context({"font.size": 10 if named else side}):
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.subplots()
        _draw_cells(axes, counts)
        axes.set(
            xlabel="prediction",
            ylabel="label",
            title=f"top-1 {evaluation.top1:.2f} % of {evaluation.images:,} images",
        )
        if named:
            shown = [shortened(names[i], LONGEST_NAME) for i in occurring]
            axes.set_xticks(range(len(shown)), shown, rotation=90, parse_math=False)
            axes.set_yticks(range(len(shown)), shown, parse_math=False)
        else:
            ticks = range(0, len(occurring), len(occurring) // 20)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_ticks(ticks, [str(int(occurring[i])) for i in ticks])
        content = io.BytesIO()
        figure.savefig(content, dpi=100)
    return content.getvalue()


def _draw_cells(axes: Axes, counts: Tensor) -> None:
    """Draw the cells and their colour bar; for few classes, also the counts."""
    shares = counts / counts.sum(1, keepdim=True)  # NaN (no image has the label) is left blank
    # Small cells need strong colours to be visible.
    norm = PowerNorm(1 if len(counts) <= NAMED else 0.5, 0, 1)
    cells = axes.imshow(shares.numpy(), cmap="Blues", norm=norm, interpolation="nearest")
    axes.figure.colorbar(cells, label="share of the label's images", shrink=0.8)
    axes.set_facecolor("0.92")
    if len(counts) <= COUNTED:
        for row, column in counts.nonzero().tolist():
            colour = "white" if shares[row, column] > 0.5 else "black"
            count = str(int(counts[row, column]))
            axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=8)
