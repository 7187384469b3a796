import json
import math
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

from benchmarks.tools.fastest import BATCH, table
from googlenet_fast import registry
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.calls import calls_of, count_calls
from googlenet_fast.registry import OPS, Backend, Call, Op, constant, layer_of
from googlenet_fast.selfcheck import autotune, disk_cache
from googlenet_fast.selfcheck.autotune import (
    LONG_RUN,
    adopt,
    contested,
    is_search_wanted,
    measure,
    measured,
    order,
    remember,
    search,
    seconds_of,
)
from googlenet_fast.selfcheck.disk_cache import decode
from googlenet_fast.selfcheck.speed_table import committed, entry
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
    monkeypatch.setattr(autotune, "_tables", {})
    first, other = committed()[:2]
    op, known = first["op"], decode(first["layer"])
    by_table = min(first["seconds"], key=first["seconds"].get)
    loser = next(name for name in first["seconds"] if name != by_table)
    remember([{**first, "batch": 4, "seconds": {by_table: 2.0, loser: 1.0}}], DEVICE)
    names = tuple(first["seconds"])
    assert order(op, names, DEVICE, known, 64)[0] == loser
    fastest = min(other["seconds"], key=other["seconds"].get)
    names = tuple(other["seconds"])
    assert order(other["op"], names, DEVICE, decode(other["layer"]), 64)[0] == fastest


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
    assert measure(make_op(*backends[2:]), question, "cpu", fake_medians) == {}


def test_a_call_whose_graphs_do_not_fit_has_no_time(make_op: MakeOp) -> None:
    def out_of_memory(*question: Any) -> dict[str, float]:
        raise torch.OutOfMemoryError

    op = make_op(Backend("aten", "cpu", lambda x: x + x))
    assert measure(op, (True, ((2, 5, 7, 6), F32)), "cpu", out_of_memory) == {}


def test_measurements_are_remembered_and_damaged_ones_dropped() -> None:
    good = entry("op", call(), {"triton": 2.0})
    remember([good], DEVICE)
    larger = entry("op", call(batch=16), {"triton": 3.0})
    remember([larger, entry("op", call(), {"aten": 1.0})], DEVICE)
    assert measured(DEVICE) == [entry("op", call(), {"aten": 1.0}), larger]
    damaged: list[Any] = [3, {}, {**good, "seconds": {}}, {**good, "seconds": {"triton": "fast"}}]
    damaged += [{**good, "seconds": {"triton": bad}} for bad in (math.nan, math.inf, 0.0, -1.0)]
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


def test_the_parts_of_a_network_add_up() -> None:
    """Those that were measured are read from the record; ops without a choice are timed then."""
    with torch.device("meta"):
        model = GoogLeNet("torchvision", 10)
    counts = count_calls(model, 4, 64, None, GPU, training=True)
    asked: list[str] = []

    def fake_measure(op: Op, question: Call, device: str) -> dict[str, float]:
        asked.append(op.name)
        return {"cuda": 2.0} if len(op.on("cuda")) == 1 else {"triton": 3.0, "aten": 1.0}

    search(list(counts), DEVICE, lambda value: value, fake_measure)
    assert {"conv_bias_relu", "bias_relu_pool"} == set(asked)
    asked.clear()
    of_one = sum(n for (op, _), n in counts.items() if len(OPS[op].on("cuda")) == 1)
    of_several = sum(n for (op, _), n in counts.items() if len(OPS[op].on("cuda")) > 1)
    assert of_one > 9
    assert of_several > 3
    assert seconds_of(counts, DEVICE, fake_measure) == 2 * of_one + of_several
    assert {"inception_bn", "bn_relu_concat", "bn_relu_pool"} == set(asked)
    assert seconds_of(counts, DEVICE, lambda *question: {}) is None


def search_together(rank: int, store: Path) -> None:
    """What one of two processes does."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    disk_cache.environment = lambda device: {"device": device}
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
        assert order(op, names, device, asked, shape[0])[0] == fastest[op]
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
