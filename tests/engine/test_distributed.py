"""A process's place in a run."""

import os
import time
from datetime import timedelta
from typing import Any

import pytest
import torch

from googlenet_fast.engine import distributed as engine_distributed
from googlenet_fast.engine.distributed import Process, distributed
from googlenet_fast.errors import GoogLeNetError
from tests.engine.runs import finish, in_environment, warm_process


def test_one_process_needs_no_group() -> None:
    with distributed("cpu") as process:
        assert process.is_main
        assert process.device == torch.device("cpu")
        tensor = torch.ones(2)
        assert process.sum(tensor) is tensor
        assert process.broadcast({"a": 1}) == {"a": 1}
        assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_asking_for_a_gpu_without_one() -> None:
    with (
        pytest.raises(GoogLeNetError, match=r"--device cuda: process 0 .* has no GPU \(0 found\)"),
        distributed("cuda"),
    ):
        pass


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "cpu:gloo,cuda:nccl")])
def test_no_collective_waits_longer_than_asked(
    device: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, timedelta]] = []

    def init(name: str, *, timeout: timedelta, **_: Any) -> None:
        asked.append((name, timeout))

    monkeypatch.setattr(torch.distributed, "init_process_group", init)
    monkeypatch.setattr(engine_distributed, "_fresh_store", lambda timeout: None)
    engine_distributed._join(Process(0, 2, 0, 2, torch.device(device)), 7.5)
    assert asked == [(backend, timedelta(seconds=7.5))]


def meet(delay: float) -> None:
    time.sleep(delay)
    with distributed("cpu", timeout=20) as process:
        assert process.sum(torch.ones(1)).item() == 2
        process.barrier()
        os._exit(0)  # as if killed: whoever ends well tidies up


@pytest.mark.slow
def test_processes_started_again_do_not_look_for_the_dead() -> None:
    """torchrun's store still has the addresses of the first two when the next two meet."""
    store = torch.distributed.TCPStore(
        "127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20), wait_for_workers=False
    )
    environment = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    for first_comes_after in (0.0, 4.0):
        processes = [
            warm_process(in_environment, {**environment, "RANK": str(rank)}, meet, delay)
            for rank, delay in ((0, first_comes_after), (1, 0.0))
        ]
        finish(*processes)
