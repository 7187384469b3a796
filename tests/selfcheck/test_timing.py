"""Clocks, with a fake GPU."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from googlenet_fast.selfcheck import timing
from googlenet_fast.selfcheck.timing import ColdGpuClock, interleaved_medians


def test_turns_alternate_and_the_first_is_a_warm_up() -> None:
    turns: list[str] = []

    def clock(run: Callable[[], Any]) -> float:
        turns.append(run())
        return 100.0 if len(turns) <= 2 else float(len(turns))

    medians = interleaved_medians({"a": lambda: "a", "b": lambda: "b"}, "cuda:0", clock)
    assert turns == ["a", "b"] * (timing.ROUNDS + 1)
    assert medians == {"a": 9.0, "b": 10.0}


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
