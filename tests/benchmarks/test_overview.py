"""The README's chart."""

from pathlib import Path

import pytest

from benchmarks.tools.overview import OURS, cpu_panels, draw, gpu_panels
from benchmarks.tools.pages import GENERATED, ROOT
from googlenet_fast.errors import GoogLeNetError


def test_bars_are_the_figures_of_the_pages(tmp_path: Path) -> None:
    panels = cpu_panels(GENERATED / "performance-xeon.md") + gpu_panels(ROOT / "docs/gpu-runs.md")
    assert len(panels) == 4
    for panel in panels:
        assert len(dict(panel.bars)) == len(panel.bars) >= 2
        assert OURS in dict(panel.bars)
    assert any(max(p.bars, key=lambda bar: bar[1])[0] != OURS for p in panels), "losses are shown"
    draw(panels, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_tables(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n")
    with pytest.raises(GoogLeNetError, match=r"page\.md: has no table of training"):
        cpu_panels(page)
