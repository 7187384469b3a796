"""A training step does nothing that a CUDA graph could not hold or would replay wrongly."""

import numpy as np
import pytest
import torch
from torch import Tensor

from googlenet_fast.engine.config import OptimizerConfig
from googlenet_fast.engine.optimizer import build_optimizer, set_lr
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.engine.weight_average import WeightAverage
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.frozen import freeze
from googlenet_fast.ops import use_impl
from tests.capture_lint import Lint, tensors_of


def build(model: GoogLeNet, accumulate: int = 1, dtype: torch.dtype | None = None) -> TrainStep:
    optimizer = build_optimizer(model, OptimizerConfig(classifier_lr_scale=2.0))
    options = {"accumulate": accumulate, "amp_dtype": dtype, "label_smoothing": 0.1}
    options["clip_grad_norm"] = 0.1
    return TrainStep(model, optimizer, ema=WeightAverage(model, 0.9), **options)  # type: ignore


@pytest.mark.parametrize(
    ("preset", "dtype", "accumulate", "impl"),
    [
        ("paper", torch.bfloat16, 2, "aten"),
        ("paddleclas", torch.bfloat16, 1, "aten"),
        ("torchvision", torch.bfloat16, 2, "aten"),
        pytest.param("paper", torch.float16, 2, "aten", marks=pytest.mark.slow),
        pytest.param("paddleclas", torch.float16, 2, "aten", marks=pytest.mark.slow),
        pytest.param("torchvision", torch.float16, 1, "aten", marks=pytest.mark.slow),
        ("torchvision", torch.bfloat16, 1, "auto"),
        ("paper", None, 1, "auto"),
        ("paper", None, 1, "reference"),
    ],
)
def test_training(preset: str, dtype: torch.dtype | None, accumulate: int, impl: str) -> None:
    """After a window of batches that allocates what stays."""
    step = build(GoogLeNet(preset, 5, aux=preset == "torchvision"), accumulate, dtype)
    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([1, 4])
    with use_impl(impl):
        for micro in range(accumulate):
            step(images, labels, update=micro == accumulate - 1)
        for update in (False, True)[2 - accumulate :]:
            lint = Lint(step, images, labels)
            assert lint.check(lambda: step._step(images, labels, update=update)) == []  # noqa: B023


@pytest.mark.parametrize("preset", ["paper", "paddleclas", "torchvision"])
def test_inference(preset: str) -> None:
    frozen = freeze(GoogLeNet(preset, 5, aux=False))
    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    logits = torch.empty(2, 5)
    with use_impl("aten"):  # the native one packs weights
        frozen(images)
        assert Lint(frozen, images, logits).check(lambda: logits.copy_(frozen(images))) == []


def test_all_state_is_on_the_device() -> None:
    """Here a device without memory."""
    with torch.device("meta"):
        step = build(GoogLeNet("torchvision", 5))
    set_lr(step.optimizer, 0.1)
    found = dict(tensors_of(step, "step"))
    assert len(found) > 500
    assert [path for path, tensor in found.items() if tensor.device.type != "meta"] == []


class Sinner:
    """Has one tensor."""

    def __init__(self) -> None:
        self.tensor = torch.ones(3)
        self.kept: list[Tensor] = []

    def read(self) -> None:
        self.tensor *= self.tensor.sum().item()

    def branch(self) -> None:
        if self.tensor.sum() > 0:
            self.tensor += 1

    def select(self) -> None:
        self.tensor[self.tensor > 0].sum()

    def upload(self) -> None:
        self.tensor *= torch.tensor(2.0)

    def upload_array(self) -> None:
        self.tensor += torch.from_numpy(np.ones(3, np.float32))

    def rebind(self) -> None:
        self.tensor = self.tensor + 1

    def keep(self) -> None:
        self.kept.append(self.tensor * 2)

    def keep_gradient(self) -> None:
        leaf = self.tensor.requires_grad_()
        leaf.square().sum().backward()


@pytest.mark.parametrize(
    ("sin", "problem"),
    [
        ("read", "the host reads a value"),
        ("branch", "the host reads a value"),
        ("select", "the host reads a value"),
        ("upload", "copies from the host"),
        ("upload_array", "reads a tensor that the step does not hold"),
        ("rebind", "Sinner0.tensor is another tensor than before"),
        ("keep", "its result outlives the call"),
        ("keep_gradient", "Sinner0.tensor.grad is another tensor than before"),
    ],
)
def test_what_the_lint_finds(sin: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sinner, "__module__", "googlenet_fast.sinner")
    sinner = Sinner()
    assert any(problem in line for line in Lint(sinner).check(getattr(sinner, sin)))


def test_what_the_lint_lets_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sinner, "__module__", "googlenet_fast.sinner")
    sinner = Sinner()

    def work() -> None:
        sinner.tensor += torch.zeros(3).add_(sinner.tensor.sum()).mul(2)

    assert Lint(sinner).check(work) == []
