import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.tools.fastest import BATCH, SIZE, models, table
from googlenet_fast import registry
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.calls import calls_of
from googlenet_fast.registry import OPS, Backend, Call, Op, constant, layer_of
from googlenet_fast.selfcheck import autotune, disk_cache
from googlenet_fast.selfcheck.autotune import (
    LONG_RUN,
    adopt,
    committed,
    contested,
    entry,
    is_search_wanted,
    measure,
    measured,
    order,
    remember,
    search,
)
from googlenet_fast.selfcheck.disk_cache import decode
from tests.engine.runs import finish, in_environment, warm_process

F16, F32, BF16 = torch.float16, torch.float32, torch.bfloat16
GPU = torch.device("cuda", 0)
DEVICE = "cuda:0"
NAMES = ("triton", "aten", "native")
MakeOp = Callable[..., Op]


def call(dtype: torch.dtype = F32, batch: int = 8, weight: torch.dtype = F32) -> Call:
    x, w = ((batch, 5, 7, 6), dtype), ((4, 5, 3, 3), weight)
    return True, x, w, ((4,), F32), True, 1, ()


def layer(dtype: torch.dtype = F32, weight: torch.dtype = F32) -> Call:
    training, (shape, _), *others = call(dtype, 1, weight)
    return training, (shape[1:], dtype), *others


def test_a_layer_is_what_the_registry_asks_about() -> None:
    arguments = torch.empty(8, 5, 7, 6), torch.empty(4, 5, 3, 3), torch.empty(4), True, 1, ()
    assert layer_of(arguments) == layer() == decode(entry("op", call(), {})["layer"])


def test_the_fastest_goes_first_and_an_unknown_name_changes_nothing() -> None:
    assert order("op", NAMES, DEVICE, layer()) == NAMES
    adopt([entry("op", call(), {"triton": 2.0, "aten": 1.0})], DEVICE)
    assert order("op", NAMES, DEVICE, layer()) == ("aten", "triton", "native")
    assert order("other", NAMES, DEVICE, layer()) == NAMES
    adopt([entry("op", call(), {"fastest of all": 0.1})], DEVICE)
    assert order("op", NAMES, DEVICE, layer()) == NAMES


def test_what_is_known_in_fp16_serves_in_other_dtypes() -> None:
    """Of activations and weights: parameters may be fp32 beside half precision, or not."""
    adopt([entry("op", call(F16), {"aten": 1.0})], DEVICE)
    for dtype in (F32, F16, BF16):
        for weight in (F32, dtype):
            assert order("op", NAMES, DEVICE, layer(dtype, weight))[0] == "aten"
    adopt([entry("op", call(F32), {"native": 1.0})], DEVICE)
    assert order("op", NAMES, DEVICE, layer(F32))[0] == "native"
    assert order("op", NAMES, DEVICE, layer(BF16))[0] == "aten"


def test_auto_goes_by_it_on_a_gpu(make_op: MakeOp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_distrust", constant(lambda *question: None))
    op = make_op(
        Backend("triton", "cuda", lambda x: x, check_first=True),
        Backend("aten", "cuda", lambda x: x),
    )
    with FakeTensorMode():
        x = torch.empty(2, 5, 7, 6, device="cuda:0")
        assert op.choose(x).name == "triton"
        adopt([entry("double", registry.call_of([x]), {"triton": 2.0, "aten": 1.0})], DEVICE)
        assert op.choose(x).name == "aten"  # though triton was remembered
        with registry.use_impl("triton"):
            assert op.choose(x).name == "triton"


def test_auto_loads_the_committed_table_then_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, with_gpu: None
) -> None:
    monkeypatch.setattr(autotune, "_loaded", set())
    first = committed()[0]
    op, known = first["op"], decode(first["layer"])
    by_table = min(first["seconds"], key=first["seconds"].get)
    loser = next(name for name in first["seconds"] if name != by_table)
    remember([{**first, "batch": 4, "seconds": {by_table: 2.0, loser: 1.0}}], DEVICE)
    names = tuple(first["seconds"])
    assert order(op, names, DEVICE, known)[0] == loser
    assert autotune._fastest.keys() >= {(e["op"], decode(e["layer"])) for e in committed()}
    other = committed()[1]
    fastest = min(other["seconds"], key=other["seconds"].get)
    names = tuple(other["seconds"])
    assert order(other["op"], names, DEVICE, decode(other["layer"]))[0] == fastest


def test_larger_batches_count_more(monkeypatch: pytest.MonkeyPatch, with_gpu: None) -> None:
    monkeypatch.setattr(autotune, "_loaded", set())
    entries = [entry("op", call(batch=n), {name: 1.0}) for n, name in ((64, "aten"), (2, "triton"))]
    remember(entries, DEVICE)
    assert order("op", NAMES, DEVICE, layer())[0] == "aten"


def test_the_committed_table_knows_every_layer_of_the_networks() -> None:
    known = {(found["op"], decode(found["layer"])): found["seconds"] for found in committed()}
    assert len(known) == len(committed()) == 100
    adopt(committed(), DEVICE)
    seen = set()
    for model in models():
        for op, found in contested(calls_of(model, BATCH, SIZE, None, GPU)):
            if op == "conv_bias_relu" and found[5] == 2:
                continue  # Triton's kernel has stride 1
            training, (shape, _), *others = found
            half = training, (shape[1:], F16), *others
            assert set(known[op, half]) <= {backend.name for backend in OPS[op].on("cuda")}
            assert len(known[op, half]) > 1
            fastest = min(known[op, half], key=known[op, half].__getitem__)
            names = tuple(backend.name for backend in OPS[op].on("cuda"))
            for dtype in (F16, BF16, F32):
                asked = training, (shape[1:], dtype), *others
                assert order(op, names, DEVICE, asked)[0] == fastest
            seen.add((op, half))
    assert seen == known.keys()
    assert {min(seconds, key=seconds.__getitem__) for seconds in known.values()} == {
        *("triton", "aten", "cuda")
    }


def test_the_table_has_the_entries_of_its_batch_to_three_digits() -> None:
    entries = [entry("op", call(batch=batch), {"aten": 0.000123456}) for batch in (BATCH, 1)]
    found = json.loads(table("a GPU", entries))
    assert found == {
        "gpu": "a GPU",
        "entries": [entry("op", call(batch=BATCH), {"aten": 0.000123})],
    }


def fake_medians(runs: Mapping[str, Callable[[], Any]], device: str) -> dict[str, float]:
    return {name: float(len(run())) for name, run in runs.items()}


@pytest.mark.parametrize(("training", "tensors"), [(True, 2.0), (False, 1.0)])
def test_measuring_runs_what_can_run(training: bool, tensors: float, make_op: MakeOp) -> None:
    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("no kernel image")

    backends = [
        Backend("native", "cpu", lambda x: x * 2),
        Backend("aten", "cpu", lambda x: x + x),
        Backend("triton", "cpu", fail),
        Backend("imaginary", "cpu", lambda x: x, lambda x: "unsupported"),
    ]
    question = (training, ((2, 5, 7, 6), F32))
    seconds = measure(make_op(*backends), question, "cpu", fake_medians)
    assert seconds == {"native": tensors, "aten": tensors}  # the output and all gradients
    assert measure(make_op(*backends[1:3]), question, "cpu", fake_medians) == {"aten": tensors}
    for none in (backends[2:], backends[3:], backends[:1]):  # no choice
        assert measure(make_op(*none), question, "cpu", fake_medians) == {}


def test_measurements_are_remembered_and_damaged_ones_dropped() -> None:
    good = entry("op", call(), {"triton": 2.0})
    remember([good], DEVICE)
    larger = entry("op", call(batch=16), {"triton": 3.0})
    remember([larger, entry("op", call(), {"aten": 1.0})], DEVICE)
    assert measured(DEVICE) == [entry("op", call(), {"aten": 1.0}), larger]
    damaged: list[Any] = [3, {}, {**good, "seconds": {}}, {**good, "seconds": {"triton": "fast"}}]
    layers: list[Any] = [["torch.load"], {"a": 1}, [], 3, [True], [True, "torch.float16", [3, 4]]]
    damaged += [{**good, "layer": bad} for bad in layers] + [{**good, "op": None}]
    damaged += [{"op": "op", "call": good["layer"], "batch": 8, "seconds": {"aten": 1.0}}]
    disk_cache.write_record(autotune.RECORD, DEVICE, [*damaged, good])
    assert measured(DEVICE) == [good]


def test_the_package_does_not_import_this_before_a_call_on_a_gpu() -> None:
    program = (
        "import sys, googlenet_fast.ops\n"
        "print([name for name in sys.modules if name.startswith('googlenet_fast.selfcheck.')])"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.stdout.strip() == "[]", child.stderr


SHAPES = {"bias_relu_pool": 8, "conv_bias_relu": 8, "inception": 18, "local_response_norm": 4}
"""How many layers the paper's network has of each op, in training and in evaluation."""


def paper_calls(batch: int = 4) -> list[tuple[str, Call]]:
    with torch.device("meta"):
        return calls_of(GoogLeNet("paper", 10), batch, 224, None, GPU)


def test_what_was_measured_before_is_not_measured_again() -> None:
    asked: list[tuple[str, Call]] = []

    def fake_measure(op: Op, question: Call, device: str) -> dict[str, float]:
        assert device == DEVICE
        asked.append((op.name, question))
        return {"triton": 1.0, "aten": 2.0} if op.name == "inception" else {}

    def again(batch: int) -> list[str]:
        asked.clear()
        return search(paper_calls(batch), DEVICE, lambda value: value, fake_measure)

    lines = ["fastest inception: triton for 18 shapes"]
    assert again(4) == lines
    assert asked == contested(paper_calls(4))
    assert {op: [name for name, _ in asked].count(op) for op in SHAPES} == SHAPES
    assert again(4) == lines
    assert "inception" not in {op for op, _ in asked}  # of the others, nothing could run
    again(8)
    assert len(asked) == sum(SHAPES.values())  # another batch


def search_together(rank: int, store: Path) -> None:
    """What one of two processes does."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    disk_cache.environment = lambda device: {"device": device}  # type: ignore[assignment]
    process = Process(rank, 2, rank, 2, torch.device("cuda", rank))

    def fake_measure(op: Op, question: Call, device: str) -> dict[str, float]:
        assert rank == 0, "only the main process measures"
        names = [backend.name for backend in op.on("cuda")]
        return {name: 1.0 / (place + 1) for place, name in enumerate(names)}  # the last wins

    calls = paper_calls()
    device = str(process.device)
    lines = search(calls if rank == 0 else None, device, process.broadcast, fake_measure)
    fastest = {op: OPS[op].on("cuda")[-1].name for op in SHAPES}
    assert lines == [f"fastest {op}: {fastest[op]} for {n} shapes" for op, n in SHAPES.items()]
    for op, (training, (shape, dtype), *others) in contested(calls):
        names = tuple(backend.name for backend in OPS[op].on("cuda"))
        asked = training, (shape[1:], dtype), *others
        assert order(op, names, device, asked)[0] == fastest[op]
    assert sum(SHAPES.values()) < len(autotune._fastest)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="needs two GPUs, or none")
def test_the_main_process_measures_for_all(tmp_path: Path) -> None:
    cache = {"GOOGLENET_FAST_CACHE": str(tmp_path / "cache")}
    finish(
        *(
            warm_process(in_environment, cache, search_together, rank, tmp_path / "store")
            for rank in range(2)
        )
    )


@pytest.mark.parametrize(
    ("arguments", "steps", "device", "wanted"),
    [
        ([], LONG_RUN, GPU, True),
        ([], LONG_RUN - 1, GPU, False),
        (["--autotune", "on"], 1, GPU, True),
        (["--autotune=off"], LONG_RUN, GPU, False),
        (["--autotune", "on"], LONG_RUN, torch.device("cpu"), False),
    ],
)
def test_long_runs_on_a_gpu_search(
    arguments: list[str], steps: int, device: torch.device, wanted: bool
) -> None:
    mode = load_config(arguments).autotune
    assert is_search_wanted(mode, steps, device) is wanted
