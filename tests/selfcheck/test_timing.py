"""Clocks, with a fake GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from googlenet_fast.selfcheck import timing
from googlenet_fast.selfcheck.timing import CALLS, LEAST, GraphClock, Timer, interleaved_medians


def test_turns_alternate_and_the_first_is_a_warm_up() -> None:
    turns: list[str] = []

    def clock(run: Callable[[], Any]) -> Timer:
        def timer() -> float:
            turns.append(run())
            return 100.0 if len(turns) <= 2 else float(len(turns))

        return timer

    medians = interleaved_medians({"a": lambda: "a", "b": lambda: "b"}, "cuda:0", clock)
    assert turns == ["a", "b"] * (timing.ROUNDS + 1)
    assert medians == {"a": 9.0, "b": 10.0}


def test_what_no_graph_can_hold_is_left_out_and_a_lack_of_memory_is_not_hidden() -> None:
    def clock(run: Callable[[], Any]) -> Timer:
        run()
        return lambda: 1.0

    def waits() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    def is_large() -> None:
        raise torch.OutOfMemoryError

    found = interleaved_medians({"a": lambda: None, "b": waits}, "cuda:0", clock)
    assert found == {"a": 1.0}
    with pytest.raises(torch.OutOfMemoryError):
        interleaved_medians({"a": is_large}, "cuda:0", clock)


def test_the_gpu_clock_replays_graphs_of_several_calls() -> None:
    """Of a function that takes 0.1 ms: 4 calls a replay, at least 2 ms a turn."""
    calls, timed = 0, []

    def work() -> None:
        nonlocal calls
        calls += 1

    def record(function: Callable[[], Any], device: str) -> Callable[[], None]:
        assert device == "cuda:1"

        def replay() -> None:
            for _ in range(CALLS):
                function()

        return replay

    def seconds(launch: Callable[[], Any], device: str) -> float:
        before = calls
        launch()
        timed.append(calls - before)
        return 1e-4 * timed[-1]

    timer = GraphClock("cuda:1", record, seconds)(work)
    assert timer() == pytest.approx(1e-4)
    assert timer() == pytest.approx(1e-4)
    replays = round(LEAST / (CALLS * 1e-4))
    assert timed == [CALLS, replays * CALLS, replays * CALLS]
    assert calls == sum(timed) + CALLS  # one replay before the first time
