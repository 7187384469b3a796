"""Captured training steps equal steps that are launched one by one."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from googlenet_fast.capture import WARMUP, Capturer, CudaGraphs
from googlenet_fast.engine.config import OptimizerConfig
from googlenet_fast.engine.optimizer import build_optimizer, set_lr
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.engine.weight_average import WeightAverage
from googlenet_fast.model import GoogLeNet
from tests.capturers import CallsAgain, Tape

CAPTURERS = [CallsAgain, Tape]


class Small(nn.Module):
    """Has batch norm, dropout and two parameter groups."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)).relu().mean((2, 3))
        return self.fc(nn.functional.dropout(x, 0.3, self.training))


def build(model: nn.Module, capturer: Capturer | None, **options: Any) -> TrainStep:
    model = copy.deepcopy(model)
    config = OptimizerConfig(classifier_lr_scale=3.0, decay_bias_and_norm=False)
    ema = WeightAverage(model, 0.9)
    optimizer = build_optimizer(model, config)
    return TrainStep(model, optimizer, ema=ema, capturer=capturer, **options)


def train(step: TrainStep, steps: int, size: Callable[[int], int] = lambda _: 8) -> list[Tensor]:
    """Train with a new seed and learning rate in each step, overflow in one, the counts popped."""
    popped = []
    for number in range(steps):
        torch.manual_seed(number)
        set_lr(step.optimizer, 0.1 / (1 + number))
        for micro in range(step.accumulate):
            shape = (4, 3, size(number), size(number))
            images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
            images = images.to(step.device)
            if number == 6 and micro == 0:
                images[0] = math.inf
            labels = torch.randint(5, (4,)).to(step.device)
            step(images, labels, update=micro == step.accumulate - 1)
        if number == 4:
            popped.append(step.pop_nonfinite_steps())
    return popped


def state(step: TrainStep) -> dict[str, Tensor]:
    assert step.ema is not None
    assert isinstance(step.model, nn.Module)
    tensors = {f"model {name}": value for name, value in step.model.state_dict().items()}
    tensors |= {f"ema {name}": value for name, value in step.ema.module.state_dict().items()}
    for index, values in step.optimizer.state_dict()["state"].items():
        tensors[f"momentum {index}"] = values["momentum_buffer"]
    tensors["totals"], tensors["nonfinite"] = step.totals, step.nonfinite_steps
    for name, number in step.scaler.state_dict().items():
        tensors[f"scaler {name}"] = torch.tensor(number)
    tensors["updates"] = torch.tensor(step.ema.updates)
    return tensors


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor.nan_to_num(), b[name].nan_to_num()), name


@pytest.mark.parametrize("kind", CAPTURERS)
@pytest.mark.parametrize("accumulate", [1, 5])
@pytest.mark.parametrize("amp_dtype", [torch.float16, None])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_replayed_steps_equal_eager_ones(
    kind: type[CallsAgain], accumulate: int, amp_dtype: torch.dtype | None, clip: float | None
) -> None:
    """To the bit, through overflow, learning rates, dropout, averaging and counting."""
    model, capturer = Small(), kind()
    options = {"accumulate": accumulate, "amp_dtype": amp_dtype, "label_smoothing": 0.1}
    options["clip_grad_norm"] = clip
    eager, captured = (build(model, c, **options) for c in (None, capturer))
    popped = [train(step, 12) for step in (eager, captured)]
    assert_same(state(eager), state(captured))
    assert torch.equal(torch.stack(popped[0]), torch.stack(popped[1]))
    assert capturer.captures == (1 if accumulate == 1 else 2)
    expected = 12 * accumulate - WARMUP * capturer.captures
    assert capturer.replays == expected
    if amp_dtype is not None:
        assert eager.scaler.get_scale() < 128
        assert eager.nonfinite_steps[0] == 1


@pytest.mark.parametrize("kind", CAPTURERS)
def test_a_graph_for_each_size(kind: type[CallsAgain]) -> None:
    """Sizes take turns of four steps; a size between that comes once runs as it is."""
    model, capturer = Small(), kind()
    eager, captured = build(model, None), build(model, capturer)

    def size(number: int) -> int:
        return 6 if number == 17 else (8, 10)[number // 5 % 2]

    for step in (eager, captured):
        train(step, 24, size)
    assert_same(state(eager), state(captured))
    assert capturer.captures == 2
    assert capturer.replays == 24 - 2 * WARMUP - 1


@pytest.mark.parametrize("kind", CAPTURERS)
def test_captured_after_a_resume(kind: type[CallsAgain]) -> None:
    """State that was loaded into a new step before its first call."""
    model = Small()
    first = build(model, None)
    train(first, 3)
    saved = {name: tensor.clone() for name, tensor in state(first).items()}
    steps = build(model, None), build(model, kind())
    for step in steps:
        assert isinstance(step.model, nn.Module)
        assert step.ema is not None
        step.model.load_state_dict(
            {n.removeprefix("model "): t for n, t in saved.items() if n.startswith("model ")}
        )
        step.ema.module.load_state_dict(
            {n.removeprefix("ema "): t for n, t in saved.items() if n.startswith("ema ")}
        )
        step.ema.updates = 3
        train(step, 8)
    assert_same(state(steps[0]), state(steps[1]))


@pytest.mark.parametrize("preset", ["paper", "paddleclas", "torchvision"])
def test_the_network(preset: str) -> None:
    torch.manual_seed(0)
    model, tape = GoogLeNet(preset, 5, aux=False), Tape()
    steps = [build(model, capturer, amp_dtype=torch.bfloat16) for capturer in (None, tape)]
    for step in steps:
        train(step, WARMUP + 3, lambda _: 64)
    assert tape.replays == 3
    assert_same(state(steps[0]), state(steps[1]))


class Refuses(CallsAgain):
    """Fails to capture half-way in the step. As in a capture, nothing has been computed."""

    step: TrainStep

    def __init__(self, owner: type, method: str) -> None:
        super().__init__()
        self.owner, self.method = owner, method

    def capture(self, function: Callable[[], Any]) -> Callable[[], Any]:
        self.captures += 1
        tensors = [*state(self.step).values(), self.step._nonfinite]
        saved, random = [tensor.clone() for tensor in tensors], torch.get_rng_state()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(self.owner, self.method, refuse)
                function()
        finally:
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.detach().copy_(value)
            torch.set_rng_state(random)
        raise AssertionError("the step did not call it")


def refuse(*_: object, **__: object) -> None:
    raise RuntimeError("operation not permitted when\n stream is capturing")


@pytest.mark.parametrize(
    ("owner", "method"),
    [(Tensor, "backward"), (torch, "_fused_sgd_"), (WeightAverage, "update")],
)
def test_a_capture_that_fails(owner: type, method: str, caplog: pytest.LogCaptureFixture) -> None:
    """One warning, and the steps go on as they are, with nothing lost."""
    model, capturer = Small(), Refuses(owner, method)
    eager, captured = (build(model, c, amp_dtype=torch.float16) for c in (None, capturer))
    capturer.step = captured
    for step in (eager, captured):
        train(step, 10)
    assert capturer.captures == 1
    (record,) = caplog.records
    assert record.getMessage() == (
        "no CUDA graph: RuntimeError: operation not permitted when stream is capturing; "
        "going on without (--graph off silences this)"
    )
    assert_same(state(eager), state(captured))


@pytest.mark.gpu
@pytest.mark.parametrize("accumulate", [1, 5])
def test_replayed_steps_equal_eager_ones_on_a_gpu(accumulate: int) -> None:
    """With deterministic algorithms, dropout included."""
    device = torch.device("cuda")
    model = Small().to(device)
    options = {"accumulate": accumulate, "amp_dtype": torch.float16}
    steps = [build(model, c, **options) for c in (None, CudaGraphs(device))]
    with torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        for step in steps:
            train(step, 12)
    assert steps[1]._captured._graphs
    assert_same(state(steps[0]), state(steps[1]))
