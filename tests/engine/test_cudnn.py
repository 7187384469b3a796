"""The commands turn cuDNN's benchmark mode on for GPUs; its flag can be read without one."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from googlenet_fast import evaluate, predict, train
from googlenet_fast.engine import distributed as module
from googlenet_fast.engine import evaluate_weights, machine_report
from googlenet_fast.engine.cudnn import cudnn_benchmark
from googlenet_fast.engine.distributed import distributed

cudnn = torch.backends.cudnn
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture(autouse=True)
def flags_as_they_were() -> Iterator[None]:
    before = cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    cudnn.benchmark = cudnn.deterministic = False
    yield
    cudnn.benchmark, cudnn.deterministic = before[:2]
    torch.use_deterministic_algorithms(before[2])


def test_on_for_a_gpu_and_off_again() -> None:
    with cudnn_benchmark(GPU):
        assert cudnn.benchmark
    assert not cudnn.benchmark
    with cudnn_benchmark(CPU):
        assert not cudnn.benchmark


def test_what_the_user_set_stays() -> None:
    cudnn.benchmark = True
    with cudnn_benchmark(GPU):
        assert cudnn.benchmark
    assert cudnn.benchmark
    cudnn.benchmark, cudnn.deterministic = False, True
    with cudnn_benchmark(GPU):
        assert not cudnn.benchmark
    cudnn.deterministic = False
    torch.use_deterministic_algorithms(True)
    with cudnn_benchmark(GPU):
        assert not cudnn.benchmark


@pytest.mark.parametrize("command", [train, evaluate, predict])
def test_commands_start_such_processes(
    command: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StartedError(Exception):
        pass

    def start(*arguments: object) -> None:
        raise StartedError

    for place in (module, evaluate_weights):
        monkeypatch.setattr(place, "distributed", start)
    monkeypatch.setattr(sys, "argv", ["", *([] if command is train else ["a.pth"])])
    if command is predict:
        sys.argv.append("a.jpg")
    with pytest.raises(StartedError):
        command.main()


def test_the_processes_of_commands_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_choose_device", lambda device, local_rank: GPU)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    with distributed("cuda"):
        assert cudnn.benchmark
    assert not cudnn.benchmark
    assert machine_report.cudnn_benchmark is cudnn_benchmark
