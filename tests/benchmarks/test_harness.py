"""Tables of the benchmarks."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness import interleave


def test_providers_alternate_and_ratios_use_medians(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GOOGLENET_FAST_BENCH_OUT", str(tmp_path / "out.jsonl"))
    turns = []
    seconds = {"slow": 0.004, "fast": 0.002}

    def clock(work: Callable[[], object]) -> float:
        return seconds[str(work())]

    def work(name: str) -> str:
        turns.append(name)
        return name

    providers = {"slow": lambda: work("slow"), "fast": lambda: work("fast")}
    measured = interleave("a case", providers, repeats=3, errors={"fast": 1e-6}, clock=clock)
    assert turns == ["slow", "fast"] * 4
    assert measured["fast"].ratio == pytest.approx(2)
    assert (measured["slow"].p50, measured["fast"].p50) == (4, 2)
    assert "a case" in capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(r["provider"], r["error"]) for r in records] == [("slow", None), ("fast", 1e-6)]
