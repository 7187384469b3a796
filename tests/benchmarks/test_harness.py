"""Clocks and tables of the benchmarks, with a fake GPU."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.harness import interleave
from googlenet_fast.ops import timing
from googlenet_fast.ops.timing import ColdGpuClock


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


def test_the_gpu_clock_flushes_the_cache_while_the_host_launches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            order.append("event")

        def synchronize(self) -> None:
            order.append("wait")

        def elapsed_time(self, end: "Event") -> float:
            return 3.0

    buffer = SimpleNamespace(zero_=lambda: order.append("flush"))

    def empty(size: int, dtype: torch.dtype, device: str) -> SimpleNamespace:
        assert (size, dtype, device) == (2 * 50_000_000, torch.uint8, "cuda")
        return buffer

    properties = SimpleNamespace(L2_cache_size=50_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(timing.torch, "empty", empty)
    clock = ColdGpuClock()  # a hundred flushes take 3 ms
    order.clear()
    assert clock(lambda: order.append("work")) == 0.003
    flushes = order.count("flush")
    assert 5e-3 <= flushes * 3e-5 < 5.1e-3
    assert order == ["flush"] * flushes + ["event", "work", "event", "wait"]
