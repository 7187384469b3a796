"""A candidate's steps: compared with the reference, timed, and the run stays as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from googlenet_fast.engine import trials
from googlenet_fast.engine.candidates import COMPILED, OURS, PLAIN, Switch
from googlenet_fast.engine.config import OptimizerConfig
from googlenet_fast.engine.optimizer import build_optimizer
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.engine.trials import (
    Batch,
    InaccurateError,
    InferenceTrial,
    TrainingTrial,
    seconds_per_call,
)
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.frozen import freeze
from googlenet_fast.model.presets import PRESETS
from googlenet_fast.selfcheck.accuracy import ATTEMPTS

CPU = torch.device("cpu")
BATCH = Batch(2, 64, None, CPU, "auto")


@pytest.fixture(scope="module")
def network() -> GoogLeNet:
    torch.manual_seed(0)
    return GoogLeNet("paddleclas", 10, aux=False)


def make_step(switch: Switch) -> TrainStep:
    return TrainStep(switch, build_optimizer(switch.network, OptimizerConfig()), accumulate=2)


def once(call: Callable[[], object], device: torch.device) -> float:
    call()
    return 0.25


def trial_of(network: GoogLeNet, compile: Any = None, **options: Any) -> TrainingTrial:
    return TrainingTrial(network, make_step, BATCH, clock=once, compile=compile, **options)


def test_a_right_candidate_is_timed_and_the_run_stays_as_it_was(network: GoogLeNet) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.get_rng_state()
    trial = trial_of(network)
    assert trial(OURS) == trial(PLAIN) == 0.25
    assert all(torch.equal(tensor, before[n]) for n, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.dropout.p == 0.4


def test_all_batches_of_a_step_are_timed(network: GoogLeNet) -> None:
    calls: list[bool] = []

    class Step(TrainStep):
        def __call__(self, images: Tensor, labels: Tensor, *, update: bool = True) -> None:
            assert images.shape == (2, 3, 64, 64)
            assert images.is_contiguous(memory_format=torch.channels_last)
            calls.append(update)

    def make(switch: Switch) -> TrainStep:
        return Step(switch, build_optimizer(switch.network, OptimizerConfig()))

    TrainingTrial(network, make, BATCH, accumulate=3, clock=once)(PLAIN)
    assert calls == [False, False, True]


def wrong_loss(model: Any) -> Any:
    return lambda images: model(images) * 1.1


def wrong_gradients(model: Any) -> Any:
    def compute(images: Tensor) -> Tensor:
        y = model(images)
        return y + (y - y.detach())  # the same value, with twice the gradient

    return compute


def nan(model: Any) -> Any:
    return lambda images: model(images) * torch.nan


@pytest.mark.parametrize(
    ("compile", "what"), [(wrong_loss, "the loss"), (wrong_gradients, "conv1"), (nan, "the loss")]
)
def test_a_wrong_candidate_is_refused(compile: Any, what: str, network: GoogLeNet) -> None:
    with pytest.raises(InaccurateError, match=rf"relative error \S+ of {what}"):
        trial_of(network, compile)(COMPILED)


def test_one_value_across_zero_refuses_nobody(network: GoogLeNet) -> None:
    """It is tried with other images, and wrong with the first ones alone."""
    tried = []

    def unlucky(model: Any) -> Any:
        tried.append(model)
        return wrong_gradients(model) if len(tried) == 1 else model

    assert trial_of(network, unlucky)(COMPILED) == 0.25
    assert 1 < len(tried) <= ATTEMPTS


def test_where_float64_does_not_fit_the_same_precision_is_compared(
    network: GoogLeNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(module: GoogLeNet) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(GoogLeNet, "double", out_of_memory)
    assert trial_of(network)(PLAIN) == 0.25
    with pytest.raises(InaccurateError):
        trial_of(network, wrong_gradients)(COMPILED)


def test_the_rest_of_a_step_has_no_convolution(network: GoogLeNet) -> None:
    seen: set[str] = set()

    class Note(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.add(func.name())
            return func(*args, **(kwargs or {}))

    def noting(call: Callable[[], object], device: torch.device) -> float:
        call()  # makes the zeros
        with Note():
            call()
        return 0.1

    trial = TrainingTrial(network, make_step, BATCH, clock=noting)
    assert trial.rest() == 0.1
    assert "aten::addmm" in seen  # the classifier
    assert any("sgd" in name for name in seen)
    assert not any("conv" in name or "googlenet_fast" in name for name in seen), seen
    assert torch.as_tensor(network(torch.randn(1, 3, 64, 64))).any()  # the ops compute again


def test_logits_are_compared_and_timed(network: GoogLeNet) -> None:
    frozen = freeze(network)

    def trial(compile: Any) -> InferenceTrial:
        normalization = network.preset.normalization
        return InferenceTrial(frozen, normalization, BATCH, clock=once, compile=compile)

    assert trial(None)(OURS) == trial(None)(PLAIN) == 0.25
    with pytest.raises(InaccurateError, match="of the logits"):
        trial(wrong_loss)(COMPILED)


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_images_are_as_a_loader_gives_them(amp: torch.dtype | None) -> None:
    for preset in PRESETS.values():
        images = Batch(4, 32, amp, CPU, "auto").make(preset.normalization)
        assert images.dtype == (amp or torch.float32)
        assert images.is_contiguous(memory_format=torch.channels_last)
        mean = torch.tensor(preset.normalization.mean).view(3, 1, 1)
        std = torch.tensor(preset.normalization.std).view(3, 1, 1)
        pixels = images.float() * std + mean
        assert -1 < pixels.min() < 5
        assert 250 < pixels.max() < 256
        assert pixels.mean() == pytest.approx(127.5, abs=5)


def test_the_clock_takes_the_median_of_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = 0.0, 0

    def call() -> None:
        nonlocal now, calls
        calls += 1
        now += 1.0 if calls <= trials.WARM_UP else 0.01

    monkeypatch.setattr(trials.time, "perf_counter", lambda: now)
    assert seconds_per_call(call, CPU) == pytest.approx(0.01)
    assert calls == 2 * trials.WARM_UP + trials.ROUNDS * 40  # 2 s in all
