"""A private cache, and a made-up GPU of this machine's CPU."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import googlenet_fast.ops  # noqa: F401  registers the ops
from googlenet_fast import registry
from googlenet_fast.registry import Backend, Op, Work
from googlenet_fast.selfcheck import accuracy, autotune, disk_cache, speed_table
from googlenet_fast.selfcheck.speed_table import SpeedTable

MakeOp = Callable[..., Op]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Start with an empty cache, and forget what the test found out."""
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(disk_cache, "environment", lambda device: {"device": device})
    monkeypatch.setattr(accuracy, "_found", {})
    monkeypatch.setattr(autotune, "_tables", {"cuda:0": SpeedTable()})
    registry.invalidate()
    yield
    registry.invalidate()


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let checks run, on tensors of the CPU where the device is "cpu"."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


@pytest.fixture
def make_op(monkeypatch: pytest.MonkeyPatch) -> MakeOp:
    """Makes an op that computes x * 2; the registry has no other for the time of the test."""

    def make(*backends: Backend) -> Op:
        monkeypatch.setattr(registry, "OPS", {})
        monkeypatch.setattr(registry, "_warned", set())
        call = (True, ((2, 3, 14, 14), torch.float32))
        op = Op("double", lambda x: x * 2, backends, lambda: [call], lambda call: Work(1, 1))
        for module in (accuracy, autotune, speed_table):
            monkeypatch.setattr(module, "OPS", registry.OPS)
        return op

    return make
