"""Draw the README's chart from the measured tables: images a second on a CPU and on a GPU.

The CPU's figures are those of a page that `cpu_performance` wrote, on two threads; the GPU's those
of docs/gpu-runs.md.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from benchmarks.tools.pages import GENERATED, ROOT
from googlenet_fast.errors import GoogLeNetError, run_command

OURS = "googlenet_fast"
COLUMN = "2, 16"
"""Of the CPU's tables: threads, batch."""


class Panel(NamedTuple):
    """One bar chart."""

    title: str
    bars: list[tuple[str, float]]
    """Name and images a second."""


def cpu_panels(page: Path) -> list[Panel]:
    """Return training and inference on two threads, fp32, batch 16."""
    text = page.read_text()
    panels = []
    for mode in ("Training", "Inference"):
        section = re.search(rf"^## {mode}\n\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
        if section is None:
            raise GoogLeNetError(
                f"{page}: has no table of {mode.lower()}; write it by cpu_performance"
            )
        header, _, *rows = map(_cells, section[1].splitlines())
        column = header.index(COLUMN)
        bars = [
            (row[0], float(row[column])) for row in rows if row[0] != "ratio" and row[column] != "-"
        ]
        panels.append(Panel(f"{mode}, 2 CPU cores, fp32, batch 16", bars))
    return panels


def gpu_panels(page: Path) -> list[Panel]:
    """Return training and inference in CUDA graphs on the GPU measured last, fp16, batch 64."""
    text = page.read_text()
    card = re.findall(r"^## .*one NVIDIA (\w+)", text, re.MULTILINE)[-1]
    panels = []
    for mode in ("training", "inference"):
        row = re.findall(rf"^\| {mode}, CUDA graph .*$", text, re.MULTILINE)[-1]
        names = ("PyTorch channels_last", "torch.compile channels_last", OURS)
        bars = [
            (name, float(cell.replace(",", "")))
            for name, cell in zip(names, _cells(row)[1:], strict=False)
            if cell[0].isdigit()
        ]
        panels.append(Panel(f"{mode.capitalize()}, {card} in a CUDA graph, fp16, batch 64", bars))
    return panels


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Draw the bars of each panel, the fastest on top, ours in colour."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    heights = [
        max(len(a.bars), len(b.bars)) for a, b in zip(panels[::2], panels[1::2], strict=True)
    ]
    axes = figure.subplots(len(heights), 2, height_ratios=heights)
    for axis, panel in zip(axes.flat, panels, strict=True):
        names, values = zip(*sorted(panel.bars, key=lambda bar: bar[1]), strict=True)
        colors = ["tab:orange" if name == OURS else "lightgrey" for name in names]
        labels = [f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in values]
        axis.bar_label(axis.barh(names, values, color=colors), labels, padding=3, fontsize=8)
        axis.set_title(panel.title, fontsize=10, loc="left")
        axis.margins(x=0.15)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(left=False, bottom=False, labelbottom=False, labelsize=8)
    figure.suptitle("images a second", fontsize=10, x=0.995, ha="right")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Write docs/generated/overview.png."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tools.overview", description=__doc__
    )
    parser.add_argument("--cpu-page", type=Path, default=GENERATED / "performance-xeon.md")
    parser.add_argument("--output", type=Path, default=GENERATED / "overview.png")
    options = parser.parse_args()
    panels = cpu_panels(options.cpu_page) + gpu_panels(ROOT / "docs" / "gpu-runs.md")
    draw(panels, options.output)


if __name__ == "__main__":
    run_command(main)
