from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.kernel_search import LONG_RUN, calls_of, is_search_wanted, search
from googlenet_fast.model import GoogLeNet
from googlenet_fast.ops import dispatch, records, selection
from tests.engine.runs import finish, in_environment, warm_process

WON = ("conv_bias_relu", "inception")
GPU = torch.device("cuda", 0)
SHAPES = {"bias_relu_pool": 8, "conv_bias_relu": 6, "inception": 18, "local_response_norm": 4}
"""How many shapes the network has of each op."""


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(records, "environment", lambda device: {"device": device})
    monkeypatch.setattr(selection, "_fastest", {})


@pytest.fixture
def model() -> GoogLeNet:
    with torch.device("meta"):
        return GoogLeNet("paper", 10)


def test_the_calls_of_a_network_are_found_without_running_it(model: GoogLeNet) -> None:
    calls = calls_of(model, 4, 224, None, GPU)
    assert model.training
    assert len(calls) == len(set(calls))
    convolutions = [call for op, call in calls if op in ("inception", "conv_bias_relu")]
    assert len(convolutions) == (9 + 2 + 2) + (9 + 2)  # blocks, stem, heads in training
    training, dtype, size, *_ = convolutions[2]
    assert (training, dtype, size) == (True, torch.float32, (192, 28, 28))
    assert {op for op, _ in calls} == {*WON, "bias_relu_pool", "local_response_norm"}
    batch_norm = calls_of(GoogLeNet("torchvision", 10), 4, 224, None, GPU)
    blocks = [call for op, call in batch_norm if op == "inception"]
    assert [call[0] for call in blocks] == [False] * 9  # folded in evaluation


def test_what_was_measured_before_is_not_measured_again(model: GoogLeNet) -> None:
    asked: list[Any] = []

    def measure(op: str, *question: Any) -> dict[str, float]:
        asked.append((op, *question))
        return {"triton": 1.0, "aten": 2.0} if op == "inception" else {}

    process = Process(0, 1, 0, 1, GPU)
    lines = ["fastest inception: triton for 18 shapes"]
    assert search(model, 4, 224, None, process, measure) == lines
    assert len(asked) == 36
    names = {"inception": ["triton", "aten"], "bias_relu_pool": ["cuda", "triton"]}
    for op, *_, implementations, batch, device in asked:
        assert (batch, device) == (4, "cuda:0")
        assert implementations == names.get(op, implementations)
    asked.clear()
    assert search(model, 4, 224, None, process, measure) == lines
    assert "inception" not in {op for op, *_ in asked}  # of the others, nothing could run
    asked.clear()
    search(model, 8, 224, None, process, measure)
    assert len(asked) == 36  # another batch


def search_together(rank: int, store: Path) -> None:
    """What one of two processes does."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    records.environment = lambda device: {"device": device}  # type: ignore[assignment]
    process = Process(rank, 2, rank, 2, torch.device("cuda", rank))

    def measure(op: str, call: Any, names: list[str], *_: Any) -> dict[str, float]:
        assert rank == 0, "only the main process measures"
        return {name: 1.0 / (place + 1) for place, name in enumerate(names)}  # the last wins

    with torch.device("meta"):
        model = GoogLeNet("paper", 10)
    lines = search(model, 4, 224, None, process, measure)
    fastest = {op: list(dispatch.implementations(op, "cuda"))[-2] for op in SHAPES}
    assert lines == [f"fastest {op}: {fastest[op]} for {n} shapes" for op, n in SHAPES.items()]
    selection._load(str(process.device))
    calls = calls_of(model, 4, 224, None, process.device)
    assert all(selection._fastest[op, call] == fastest[op] for op, call in calls)
    assert len(calls) == 36 < len(selection._fastest)
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
        (["--exhaustive_search=off"], LONG_RUN, GPU, False),
        (["--exhaustive-search", "on"], LONG_RUN, torch.device("cpu"), False),
    ],
)
def test_long_runs_on_a_gpu_search(
    arguments: list[str], steps: int, device: torch.device, wanted: bool
) -> None:
    mode = load_config(arguments).autotune
    assert is_search_wanted(mode, steps, device) is wanted
