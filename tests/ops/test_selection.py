import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.tools.fastest import BATCH, SIZE, models, table
from googlenet_fast.engine.kernel_search import calls_of
from googlenet_fast.ops import conv_bias_relu, dispatch, max_pool, records, selection, timing
from googlenet_fast.ops.dispatch import always, choose, register
from googlenet_fast.ops.selection import (
    adopt,
    by_speed,
    call_of,
    calls_seen,
    committed,
    decode,
    encode,
    entry,
    measure,
    measured,
    remember,
)


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path))
    monkeypatch.setattr(records, "environment", lambda device: {"device": device})
    monkeypatch.setattr(selection, "_fastest", {})
    monkeypatch.setattr(selection, "_loaded", {"cuda:0"})


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
    return torch.randn(2, 5, 7, 6), torch.randn(4, 5, 3, 3), torch.randn(4), True


def test_a_call_is_told_by_shape_dtype_and_gradients() -> None:
    x, *rest = example()
    call = call_of((x, *rest))
    assert call == (True, torch.float32, (5, 7, 6), (4, 5, 3, 3), (4,), True)
    assert call_of((x[:1], *rest)) == call  # any batch
    with torch.no_grad():
        assert call_of((x, *rest)) != call
    for other in ((x.half(), *rest), (x[:, :, 1:], *rest), (x, *rest[:1], None, True)):
        assert call_of(other) != call
    assert decode(json.loads(json.dumps(encode(call)))) == call


def test_the_fastest_goes_first_and_an_unknown_name_changes_nothing() -> None:
    call = call_of(example())
    names = ["triton", "aten", "reference"]
    assert by_speed("op", names, example()) == names
    adopt([entry("op", call, 8, {"triton": 2.0, "aten": 1.0})], "cuda:0")
    assert by_speed("op", names, example()) == ["aten", "triton", "reference"]
    assert by_speed("other", names, example()) == names
    adopt([entry("op", call, 8, {"fastest of all": 0.1})], "cuda:0")
    assert by_speed("op", names, example()) == names


def test_what_is_known_in_fp16_serves_in_other_dtypes() -> None:
    x, *rest = example()
    names = ["triton", "aten", "reference"]
    adopt([entry("op", call_of((x.half(), *rest)), 8, {"aten": 1.0})], "cuda:0")
    assert by_speed("op", names, (x, *rest))[0] == "aten"
    adopt([entry("op", call_of((x, *rest)), 8, {"reference": 1.0})], "cuda:0")
    assert by_speed("op", names, (x, *rest))[0] == "reference"
    assert by_speed("op", names, (x.bfloat16(), *rest))[0] == "aten"


def test_auto_goes_by_it_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "can_verify", lambda *question: True)
    monkeypatch.setattr(dispatch, "why_not_verified", lambda *question: None)
    monkeypatch.setattr(dispatch, "_registry", {})
    register("op", {"cuda": {"triton": always, "aten": always, "reference": always}})
    with FakeTensorMode():
        arguments = [
            value.cuda() if isinstance(value, torch.Tensor) else value for value in example()
        ]
    assert choose("op", "cuda", tuple(arguments)) == "triton"
    adopt([entry("op", call_of(arguments), 8, {"triton": 2.0, "aten": 1.0})], "cuda:0")
    assert choose("op", "cuda", tuple(arguments)) == "aten"
    with dispatch.use_impl("triton"):
        assert choose("op", "cuda", tuple(arguments)) == "triton"


def test_auto_loads_the_committed_table_then_what_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection, "_loaded", set())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    first = committed()[0]
    op, call = first["op"], decode(first["call"])
    by_table = min(first["seconds"], key=first["seconds"].get)
    loser = next(name for name in first["seconds"] if name != by_table)
    remember([entry(op, call, 4, {by_table: 2.0, loser: 1.0})], "cuda:0")
    selection._load("cuda:0")
    assert selection._fastest[op, call] == loser
    assert selection._fastest.keys() >= {(e["op"], decode(e["call"])) for e in committed()}


def test_larger_batches_count_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_loaded", set())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    call = call_of(example())
    remember(
        [entry("op", call, 64, {"aten": 1.0}), entry("op", call, 2, {"triton": 1.0})], "cuda:0"
    )
    selection._load("cuda:0")
    assert selection._fastest["op", call] == "aten"


def test_the_committed_table_knows_every_call_of_the_networks() -> None:
    known = {(found["op"], decode(found["call"])): found["seconds"] for found in committed()}
    for model in models():
        for op, call in calls_of(model, BATCH, SIZE, None, torch.device("cuda", 0)):
            in_fp16 = (call[0], torch.float16, *call[2:])
            assert set(known[op, in_fp16]) < dispatch.implementations(op, "cuda").keys()
    assert {min(seconds, key=seconds.__getitem__) for seconds in known.values()} == {
        *("triton", "aten", "cuda")
    }


def test_the_table_has_the_entries_of_its_batch_to_three_digits() -> None:
    call = call_of(example())
    entries = [entry("op", call, batch, {"aten": 0.000123456}) for batch in (BATCH, 1)]
    found = json.loads(table("a GPU", entries))
    assert found == {"gpu": "a GPU", "entries": [entry("op", call, BATCH, {"aten": 0.000123})]}


def fake_medians(runs: Mapping[str, Callable[[], Any]], device: str) -> dict[str, float]:
    return {name: float(len(run())) for name, run in runs.items()}


@pytest.mark.parametrize(("training", "tensors"), [(True, 4.0), (False, 1.0)])
def test_measuring_runs_what_can_run(training: bool, tensors: float) -> None:
    call = (training, torch.float32, (5, 7, 6), (4, 5, 3, 3), (4,), True)
    names = ["aten", "reference", "imaginary"]
    seconds = measure("conv_bias_relu", call, names, 2, "cpu", fake_medians)
    assert seconds == {"aten": tensors, "reference": tensors}  # the output and all gradients
    assert measure("conv_bias_relu", call, ["imaginary"], 2, "cpu", fake_medians) == {}


def test_measurements_are_remembered_and_damaged_ones_dropped() -> None:
    call = call_of(example())
    good = entry("op", call, 8, {"triton": 2.0})
    remember([good], "cuda:0")
    remember(
        [entry("op", call, 16, {"triton": 3.0}), entry("op", call, 8, {"aten": 1.0})], "cuda:0"
    )
    assert measured("cuda:0") == [
        entry("op", call, 8, {"aten": 1.0}),
        entry("op", call, 16, {"triton": 3.0}),
    ]
    damaged: list[Any] = [3, {}, {**good, "seconds": {}}, {**good, "seconds": {"triton": "fast"}}]
    damaged += [{**good, "call": ["torch.load"]}, {**good, "call": {"a": 1}}, {**good, "op": None}]
    records.write_record(selection.RECORD, "cuda:0", [*damaged, good])
    assert measured("cuda:0") == [good]


def test_calls_are_seen_where_there_is_a_choice() -> None:
    with FakeTensorMode(), calls_seen() as seen:
        x, weight = torch.empty(2, 5, 7, 6, device="cuda"), torch.empty(4, 5, 3, 3, device="cuda")
        conv_bias_relu(x, weight)
        conv_bias_relu(x[:1], weight)
        conv_bias_relu(torch.empty(2, 5, 7, 6), torch.empty(4, 5, 3, 3))
        max_pool(x)
    assert list(seen) == [("conv_bias_relu", call_of((x, weight, None, True, 1)))]


def test_the_choice_is_traced_for_every_shape() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + (by_speed("op", ["triton", "aten"], (x,))[0] == "aten")

    with torch.no_grad():
        adopt([entry("op", call_of((torch.empty(1, 5, 7, 6),)), 8, {"aten": 1.0})], "cuda:0")
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        found = [
            compiled(torch.zeros(n, 5, h, 6)).max().item() for n in (1, 2, 3) for h in (7, 8, 9, 7)
        ]
    assert found == [1, 0, 0, 1] * 3


def test_turns_alternate_and_the_first_is_a_warm_up() -> None:
    turns: list[str] = []

    def clock(run: Callable[[], Any]) -> float:
        turns.append(run())
        return 100.0 if len(turns) <= 2 else float(len(turns))

    medians = timing.interleaved_medians({"a": lambda: "a", "b": lambda: "b"}, "cuda:0", clock)
    assert turns == ["a", "b"] * (timing.ROUNDS + 1)
    assert medians == {"a": 9.0, "b": 10.0}
