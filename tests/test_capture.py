"""Functions that are captured for each shape of their inputs."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from googlenet_fast.capture import WARMUP, Captured, capturer_for
from googlenet_fast.errors import GoogLeNetError
from tests.capturers import CallsAgain, Tape

T = TypeVar("T")
CPU = torch.device("cpu")


def double(x: Tensor, *, times: int = 1) -> Tensor:
    return x * 2 * times


@pytest.mark.parametrize("kind", [CallsAgain, Tape])
def test_results_are_those_of_the_function(kind: type[CallsAgain]) -> None:
    capturer = kind()
    captured = Captured(double, capturer)
    results, inputs = [], [torch.randn(3) for _ in range(8)]
    for number, x in enumerate(inputs):
        results += [captured(x, times=1 + number % 2)]
    for number, (x, result) in enumerate(zip(inputs, results, strict=True)):
        assert torch.equal(result, double(x, times=1 + number % 2)), "a replay overwrote it"
    assert (capturer.captures, capturer.replays) == (2, 8 - 2 * WARMUP)


def test_without_a_capturer_it_is_the_function() -> None:
    x = torch.randn(3)
    assert torch.equal(Captured(double, None)(x, times=3), 6 * x)


def test_a_shape_that_comes_alone_is_never_captured() -> None:
    """However often: here after every second call of the others."""
    capturer = CallsAgain()
    captured = Captured(double, capturer)
    for _ in range(WARMUP + 1):
        captured(torch.randn(3))
    for _ in range(2 * WARMUP):
        captured(torch.randn(3))
        captured(torch.randn(2))
    assert capturer.captures == 1


def test_other_dtypes_and_autocast_are_other_graphs() -> None:
    capturer = CallsAgain()
    captured = Captured(lambda x: x @ x, capturer)
    for dtype in (torch.float32, torch.bfloat16):
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                for _ in range(WARMUP + 2):
                    x = torch.randn(3, 3, dtype=dtype)
                    assert captured(x).dtype == (torch.bfloat16 if enabled else dtype)
    assert capturer.captures == 4


def test_inference_mode_and_without() -> None:
    captured = Captured(double, CallsAgain())
    with torch.inference_mode():
        for _ in range(WARMUP + 1):
            captured(torch.randn(3))
    with torch.no_grad():
        x = torch.randn(3)
        assert torch.equal(captured(x), 2 * x)


def test_the_thread_that_captures_has_made_the_first_calls() -> None:
    """A capture cannot create the handles of cuBLAS and cuDNN, of which each thread has its own."""
    capturer = CallsAgain()
    captured = Captured(double, capturer)
    x = torch.randn(3)
    for _ in range(2 * WARMUP):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(captured, x).result()
    assert capturer.captures == 0
    for _ in range(WARMUP + 1):
        captured(x)
    assert capturer.captures == 1


def test_threads() -> None:
    captured = Captured(double, CallsAgain())
    inputs = [torch.full((3,), float(i)) for i in range(200)]
    with ThreadPoolExecutor(4) as pool:
        for x, result in zip(inputs, pool.map(captured, inputs), strict=True):
            assert torch.equal(result, 2 * x)


class Refuses(CallsAgain):
    def capture(self, function: Callable[[], T]) -> Callable[[], T]:
        self.captures += 1
        try:
            raise RuntimeError("an unsafe call")
        except RuntimeError:
            raise RuntimeError("the capture was invalidated") from None


def test_a_capture_that_fails_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the first reason, since ending a capture that failed raises too."""
    capturer, recovered = Refuses(), []
    captured = Captured(double, capturer, lambda: recovered.append(True))
    x = torch.randn(3)
    for _ in range(3 * WARMUP):
        assert torch.equal(captured(x), 2 * x)
    for _ in range(2 * WARMUP):
        assert torch.equal(captured(x[:2]), 2 * x[:2])
    assert capturer.captures == len(recovered) == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "RuntimeError: an unsafe call" in record.getMessage()


def test_what_captures() -> None:
    for mode in ("auto", "off"):
        assert capturer_for(mode, CPU) is None
    assert capturer_for("off", torch.device("cuda")) is None
    with pytest.raises(GoogLeNetError, match="--graph on: captures CUDA graphs, which needs a GPU"):
        capturer_for("on", CPU)


class FakeCuda:
    """Stands for torch.cuda: notes which stream does what."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.current = "main"
        self.captured: list[tuple[object, ...]] = []
        cuda = self

        class Stream:
            device = torch.device("cuda", 0)

            def __init__(self, name: object = None) -> None:
                self.name = name if isinstance(name, str) else "side"

            def wait_stream(self, other: "Stream") -> None:
                cuda.log.append(f"{self.name} waits for {other.name}")

        class Graph:
            def replay(self) -> None:
                cuda.log.append(f"replay on {cuda.current}")

            def reset(self) -> None:
                cuda.log.append("reset")

        @contextmanager
        def stream(chosen: Stream) -> Iterator[None]:
            previous, cuda.current = cuda.current, chosen.name
            try:
                yield
            finally:
                cuda.current = previous

        @contextmanager
        def graph(*arguments: object) -> Iterator[None]:
            cuda.captured.append(arguments)
            previous, cuda.current = cuda.current, "capture"
            yield
            cuda.current = previous  # which PyTorch leaves out where a capture cannot be ended

        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "current_stream", lambda _: Stream(cuda.current))
        patch.setattr(torch.cuda, "stream", stream)
        patch.setattr(torch.cuda, "graph", graph)
        patch.setattr(torch.cuda, "CUDAGraph", Graph)
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        patch.setattr(Tensor, "record_stream", lambda _, s: cuda.log.append(f"lent to {s.name}"))

    def work(self, x: Tensor) -> Tensor:
        self.log.append(f"work on {self.current}")
        return x


def test_what_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up, capture and replay on one stream, which the caller's waits for and is waited for."""
    cuda = FakeCuda(monkeypatch)
    captured = Captured(cuda.work, capturer_for("on", torch.device("cuda", 0)))
    x = torch.randn(3)
    for _ in range(WARMUP):
        captured(x)
    run = ["side waits for main", "work on side", "main waits for side", "lent to main"]
    assert cuda.log == WARMUP * run
    cuda.log.clear()
    captured(x)
    assert cuda.log == ["work on capture", *(step.replace("work", "replay") for step in run)]
    (arguments,) = cuda.captured
    assert arguments[1] == "pool"
    assert arguments[3] == "thread_local"
    assert cuda.current == "main"


def test_a_capture_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither stream nor pool, which the allocator would go on with, nor a waiting generator."""
    cuda = FakeCuda(monkeypatch)
    ended: list[tuple[object, ...]] = []
    states: list[object] = []
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *pool: ended.append(pool))
    generator = SimpleNamespace(clone_state=lambda: "clone", graphsafe_set_state=states.append)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    capturer = capturer_for("auto", torch.device("cuda", 0))
    assert capturer is not None
    pools = iter(["the next pool"])
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    with pytest.raises(ZeroDivisionError):
        capturer.capture(lambda: 1 / 0)
    assert cuda.current == "main"
    assert ended == [(0, "pool")]
    assert states == ["clone"]
    capturer.capture(lambda: None)
    assert cuda.captured[-1][1] == "the next pool"


def test_closing_destroys_the_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL does not end while a graph has its launches."""
    cuda = FakeCuda(monkeypatch)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: cuda.log.append("synchronize"))
    capturer = capturer_for("on", torch.device("cuda", 0))
    assert capturer is not None
    replays = [capturer.capture(lambda: None) for _ in range(2)]
    capturer.close()
    assert cuda.log == ["synchronize", "reset", "reset"]
    assert len(replays) == 2  # which keep the graphs


@pytest.mark.gpu
def test_a_gpu_captures() -> None:
    captured = Captured(double, capturer_for("auto", torch.device("cuda")))
    for number in range(2 * WARMUP):
        x = torch.full((3,), float(number), device="cuda")
        assert torch.equal(captured(x), 2 * x)
    assert captured._graphs
