"""The fastest candidate that is right, from times that are made up."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from googlenet_fast.engine.candidates import (
    CANDIDATES,
    COMPILED,
    COMPILED_PLAIN,
    OURS,
    PLAIN,
    Candidate,
)
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.trials import InaccurateError
from googlenet_fast.engine.whole_steps import (
    COMPILED_RUN,
    RECORD,
    Choice,
    choose,
    describe_known,
    wanted,
)
from googlenet_fast.registry import use_impl
from googlenet_fast.selfcheck.disk_cache import read_record, write_record
from tests.engine.runs import finish, in_environment, warm_process

ALONE = Process(0, 1, 0, 1, torch.device("cpu"))
ALL = list(CANDIDATES.values())
QUESTION = {"mode": "training", "batch": 64}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "cache"))


class Times:
    """Made-up seconds by name, or errors; notes who was timed."""

    def __init__(self, **times: float | Exception) -> None:
        self.times = {name.replace("_", " "): found for name, found in times.items()}
        self.asked: list[str] = []

    def __call__(self, candidate: Candidate) -> float:
        self.asked.append(candidate.name)
        found = self.times[candidate.name]
        if isinstance(found, Exception):
            raise found
        return found


def chosen(times: Times, candidates: list[Candidate] = ALL, **question: Any) -> Choice:
    return choose("whole steps", {**QUESTION, **question}, candidates, times, ALONE)


def test_the_fastest_is_taken_and_said_in_one_line() -> None:
    times = Times(ours=0.0041, plain=0.006, compiled_plain=0.0052, compiled_ours=0.0045)
    found = chosen(times)
    assert found.candidate is OURS
    assert found.timed
    assert found.line == (
        "whole steps: ours 4.10 ms, plain 6.00 ms, compiled plain 5.20 ms, "
        "compiled ours 4.50 ms: ours"
    )
    assert chosen(Times(ours=2.0, plain=2.0), [OURS, PLAIN], batch=1).candidate is OURS


def test_what_fails_or_is_wrong_is_left_out_with_its_reason() -> None:
    found = chosen(
        Times(
            ours=2.0,
            plain=InaccurateError("relative error 1.0e+00 of the loss"),
            compiled_plain=RuntimeError("no compiler\nmore"),
            compiled_ours=torch.OutOfMemoryError("out of memory"),
        )
    )
    assert found.candidate is OURS
    assert found.line == (
        "whole steps: ours 2000.00 ms: ours"
        "; plain left out: it failed its accuracy check: relative error 1.0e+00 of the loss"
        "; compiled plain left out: RuntimeError: no compiler"
        "; compiled ours left out: OutOfMemoryError: out of memory"
    )
    nothing = chosen(
        Times(ours=InaccurateError("x"), plain=ValueError("y")), [OURS, PLAIN], batch=1
    )
    assert nothing.candidate is OURS
    assert nothing.line.startswith("whole steps: none could be timed: ours; ours left out: it fai")
    assert not nothing.timed
    wrong_is_fast = Times(ours=InaccurateError("x"), plain=9.0)
    assert chosen(wrong_is_fast, [OURS, PLAIN], batch=2).candidate is PLAIN


def test_times_are_kept_and_failures_tried_again() -> None:
    times = Times(ours=2.0, plain=1.0, compiled_plain=RuntimeError("no"), compiled_ours=3.0)
    first = chosen(times)
    assert times.asked == [candidate.name for candidate in ALL]
    times.asked.clear()
    again = chosen(times)
    assert times.asked == ["compiled plain"]
    assert (again.candidate, again.line, again.timed) == (PLAIN, first.line, False)
    times.times["compiled plain"] = 0.5
    assert chosen(times).candidate is COMPILED_PLAIN
    times.asked.clear()
    assert chosen(times).candidate is COMPILED_PLAIN
    assert chosen(times, [OURS, COMPILED]).candidate is OURS  # of those that were asked for
    assert not times.asked
    chosen(times, batch=65)
    assert times.asked == [candidate.name for candidate in ALL]
    assert len(read_record(RECORD, "cpu")) == 2


@pytest.mark.parametrize(
    "damaged",
    [3, {}, {"seconds": {"ours": 1.0}}, {"seconds": 4}, {"seconds": {"ours": "fast"}},
     {"seconds": {"ours": float("nan")}}, {"seconds": {"ours": -1.0}}, {"seconds": {"x": 1.0}}],
)  # fmt: skip
def test_damaged_records_are_measured_anew(damaged: Any) -> None:
    if isinstance(damaged, dict) and damaged.get("seconds") != {"ours": 1.0}:
        damaged["question"] = '{"batch": 64, "mode": "training"}'
    write_record(RECORD, "cpu", [damaged])
    times = Times(ours=1.0)
    assert chosen(times, [OURS]).candidate is OURS
    assert times.asked == ["ours"]


def test_doctor_says_what_was_compared() -> None:
    assert describe_known("cpu") == []
    choose("x", {**QUESTION, "image_size": 64, "amp": None}, [OURS], Times(ours=0.002), ALONE)
    write_record(RECORD, "cpu", [3, {"question": "{}"}, *read_record(RECORD, "cpu")])
    assert describe_known("cpu") == ["training batch 64 at 64 px, None: ours 2.00 ms"]


def test_short_runs_do_not_wait_for_a_compiler() -> None:
    assert wanted(COMPILED_RUN, always=False) == ALL
    assert wanted(COMPILED_RUN - 1, always=False) == [OURS, PLAIN]
    assert wanted(1, always=True) == ALL
    with use_impl("reference"):  # the user has chosen
        assert wanted(COMPILED_RUN, always=True) == [OURS]


def choose_together(rank: int, store: Path) -> None:
    """What one of two processes does."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    process = Process(rank, 2, rank, 2, torch.device("cpu"))
    times = Times(ours=2.0, plain=RuntimeError("no"), compiled_plain=1.0, compiled_ours=3.0)
    for _ in range(2):  # measured, then from the cache
        found = choose("whole steps", QUESTION, ALL, times, process)
        assert found.candidate is COMPILED_PLAIN
        assert "plain left out: RuntimeError: no" in found.line
    asked = [candidate.name for candidate in ALL]
    assert times.asked == ([*asked, "plain"] if rank == 0 else [])
    dist.barrier()
    dist.destroy_process_group()


def test_the_main_process_decides_for_all(tmp_path: Path) -> None:
    cache = {"GOOGLENET_FAST_CACHE": str(tmp_path / "cache")}
    finish(
        *(
            warm_process(in_environment, cache, choose_together, rank, tmp_path / "store")
            for rank in range(2)
        )
    )
