"""SGD in one launch against `torch.optim.SGD`, with and without half-precision copies."""

import copy
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils._python_dispatch import TorchDispatchMode

from googlenet_fast.engine import build
from googlenet_fast.engine import optimizer as optimizer_module
from googlenet_fast.engine.candidates import Switch
from googlenet_fast.engine.config import OptimizerConfig, load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.fused_sgd import FusedSGD, LossScaler
from googlenet_fast.engine.half_weights import HalfWeights
from googlenet_fast.engine.optimizer import build_optimizer, load_momentum, set_lr
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.engine.trainer import Trainer
from googlenet_fast.model import GoogLeNet
from googlenet_fast.ops import use_impl
from tests.engine.runs import arguments, assert_same_checkpoint


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.conv.weight.data = self.conv.weight.data.contiguous(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def set_gradients(model: nn.Module, scale: float = 1.0) -> None:
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn_like(parameter)


def both(model: Tiny, **options: Any) -> tuple[Tiny, optim.SGD, optim.SGD]:
    """A copy of the model, PyTorch's optimizer of it, and ours of the model."""
    other = copy.deepcopy(model)
    return (
        other,
        optim.SGD(other.named_parameters(), fused=True, **options),
        FusedSGD(model.named_parameters(), **options),
    )


def assert_equal(model: nn.Module, other: nn.Module) -> None:
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
    ],
    ids=str,
)
def test_steps_equal_those_of_pytorch(options: dict[str, Any]) -> None:
    model = Tiny()
    other, theirs, ours = both(model, **options)
    for i in range(4):
        set_gradients(model)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            q.grad = None if p.grad is None else p.grad.clone()
        if i == 2:  # torch leaves parameters without gradients alone
            model.norm.bias.grad = other.norm.bias.grad = None
        for group in (*ours.param_groups, *theirs.param_groups):
            group["lr"] = 0.1 / (i + 1)
        ours.step()
        theirs.step()
        assert_equal(model, other)


def test_learning_rates_may_be_tensors() -> None:
    model, lr = Tiny(), torch.tensor(0.5)
    optimizer = FusedSGD(model.parameters(), lr)
    before = model.fc.bias.detach().clone()
    model.fc.bias.grad = torch.ones(5)
    optimizer.step()
    lr.fill_(0.25)
    optimizer.step()
    torch.testing.assert_close(model.fc.bias.detach(), before - 0.75)


@pytest.mark.parametrize("kind", [FusedSGD, optim.SGD])
def test_states_are_those_of_pytorch(kind: Callable[..., optim.SGD]) -> None:
    model = Tiny()
    other, theirs, ours = both(model, lr=0.1, momentum=0.9)
    for optimizer, network in ((ours, model), (theirs, other)):
        set_gradients(network)
        optimizer.step()
    saved, their_state = ours.state_dict(), theirs.state_dict()
    assert saved["param_groups"] == their_state["param_groups"]
    assert saved["state"].keys() == their_state["state"].keys()
    options = {} if kind is FusedSGD else {"fused": True}
    fresh = kind(model.named_parameters(), 0.2, momentum=0.5, **options)
    fresh.load_state_dict(saved)
    for parameter in model.parameters():
        loaded = fresh.state[parameter]["momentum_buffer"]
        assert torch.equal(loaded, ours.state[parameter]["momentum_buffer"])


def test_loaded_states_keep_addresses_and_layouts() -> None:
    model = Tiny()
    optimizer = build_optimizer(model, OptimizerConfig())
    fused = FusedSGD(model.named_parameters(), 0.1, momentum=0.9)
    set_gradients(model)
    fused.step()
    buffers = [fused.state[p]["momentum_buffer"] for p in model.parameters()]
    expected = [buffer.clone() for buffer in buffers]
    state = copy.deepcopy(fused.state_dict())
    for entry in state["state"].values():
        entry["momentum_buffer"] = entry["momentum_buffer"].contiguous()
    fused.step()
    fused.load_state_dict(state)
    for parameter, buffer, value in zip(model.parameters(), buffers, expected, strict=True):
        own = fused.state[parameter]["momentum_buffer"]
        assert own.data_ptr() == buffer.data_ptr()
        assert own.stride() == parameter.stride()
        assert torch.equal(own, value)
    load_momentum(optimizer, fused.state_dict())
    assert torch.equal(optimizer.state[model.fc.weight]["momentum_buffer"], expected[-2])


def test_groups_with_different_momenta_are_refused() -> None:
    model = Tiny()
    groups: list[dict[str, Any]] = [
        {"params": [model.fc.weight]},
        {"params": [model.fc.bias], "momentum": 0.5},
    ]
    optimizer = FusedSGD(groups, 0.1, momentum=0.9)
    set_gradients(model)
    with pytest.raises(RuntimeError, match="the same momentum"):
        optimizer.step()


def test_averages_follow_in_the_same_step() -> None:
    model = Tiny()
    optimizer = FusedSGD(model.parameters(), 0.1)
    averages = {p: torch.zeros_like(p) for p in model.parameters()}
    weight = torch.tensor(1.0)
    optimizer.average(averages, weight)
    set_gradients(model)
    optimizer.step()
    first = {p: p.detach().clone() for p in model.parameters()}
    assert all(torch.equal(averages[p], value) for p, value in first.items())
    weight.fill_(0.1)
    set_gradients(model)
    model.norm.bias.grad = None
    averages[model.norm.bias].zero_()
    optimizer.step()
    for p, value in first.items():
        start = torch.zeros_like(value) if p is model.norm.bias else value
        torch.testing.assert_close(averages[p], start.lerp(p.detach(), 0.1))


# Loss scaling


def scaled_steps(model: Tiny, optimizer: optim.SGD, scaler: torch.amp.GradScaler) -> list[Any]:
    """Scale and flag of steps with and without overflow."""
    seen: list[Any] = []
    note = optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.found_inf.item()))
    torch.manual_seed(1)
    for value in (1.0, math.inf, 1.0, math.nan, 1.0, 1.0, 1.0):
        optimizer.zero_grad()
        scale = scaler.scale(torch.ones(()))
        set_gradients(model, scale.item())
        assert model.conv.weight.grad is not None
        model.conv.weight.grad[3, 1, 0, 2] *= value
        scaler.step(optimizer)
        scaler.update()
        seen.append(scaler.get_scale())
    note.remove()
    return seen


def test_overflow_skips_steps_as_with_pytorch() -> None:
    model = Tiny()
    other, theirs, ours = both(model, lr=0.1, momentum=0.9)
    for parameter in other.parameters():  # what it does not initialise in a skipped first step
        theirs.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    scalers = [
        kind("cpu", init_scale=64.0, growth_interval=2)
        for kind in (LossScaler, torch.amp.GradScaler)
    ]
    seen = scaled_steps(model, ours, scalers[0])
    assert seen == scaled_steps(other, theirs, scalers[1])
    assert 1.0 in seen
    assert scalers[0].state_dict() == scalers[1].state_dict()
    assert_equal(model, other)


def test_the_scaler_leaves_other_optimizers_as_they_are() -> None:
    model = Tiny()
    other = copy.deepcopy(model)
    optimizers = [optim.SGD(m.parameters(), 0.1, fused=True) for m in (model, other)]
    seen = [
        scaled_steps(m, o, scaler)
        for m, o, scaler in zip(
            (model, other),
            optimizers,
            (LossScaler("cpu"), torch.amp.GradScaler("cpu")),
            strict=True,
        )
    ]
    assert seen[0] == seen[1]
    assert_equal(model, other)


# Half-precision copies


class Counter(TorchDispatchMode):
    """Counts operations by name, with the dtypes of what they cast."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.cast: list[tuple[torch.Size, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        if func is torch.ops.aten._to_copy.default:
            self.cast.append((args[0].shape, kwargs["dtype"]))
        return func(*args, **(kwargs or {}))


def train(network: nn.Module, optimizer: optim.SGD, dtype: torch.dtype) -> TrainStep:
    step = TrainStep(network, optimizer, amp_dtype=dtype)
    torch.manual_seed(3)
    for i in range(5):
        images = torch.randn(4, 3, 12, 12).contiguous(memory_format=torch.channels_last)
        set_lr(optimizer, 0.1 / (i + 1))
        step(images, torch.randint(5, (4,)))
    return step


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_weights_train_to_the_bits_of_autocast(dtype: torch.dtype) -> None:
    config = OptimizerConfig(weight_decay=1e-2)
    model = Tiny()
    other = copy.deepcopy(model)
    half = HalfWeights(model, dtype)
    ours, theirs = build_optimizer(model, config, half), build_optimizer(other, config)
    assert type(ours) is FusedSGD
    totals = train(half, ours, dtype).totals
    assert torch.equal(totals, train(other, theirs, dtype).totals)
    for p, q in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(p, q)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        buffers = ours.state[p]["momentum_buffer"], theirs.state[q]["momentum_buffer"]
        assert torch.equal(*buffers)
    assert all(p.grad is None for p in (*model.parameters(), *half.leaves))
    assert all(torch.equal(half.copies[p], p.to(dtype)) for p in half.copies)


@contextmanager
def counting() -> Iterator[Counter]:
    with Counter() as counter:
        yield counter


def test_a_step_casts_no_weight_and_no_gradient() -> None:
    model = Tiny()
    weights = {p.shape for p in (model.conv.weight, model.fc.weight, model.fc.bias)}
    images, labels = torch.randn(4, 3, 12, 12), torch.randint(5, (4,))
    half = HalfWeights(model, torch.bfloat16)
    for network, casts in ((half, False), (model, True)):
        with counting() as counter, torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(network(images), labels)
            loss.backward()
        found = {shape for shape, _ in counter.cast} & weights
        assert found == (weights if casts else set())
    gradients = [leaf.grad for leaf in half.leaves]
    assert [g.dtype for g in gradients if g is not None].count(torch.bfloat16) == 3
    assert all(g is not None for g in gradients)


def test_the_kernel_is_the_only_operation_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("googlenet_fast.engine.fused_sgd.sgd_step", lambda *a, **k: calls.append(a))
    model = Tiny()
    half = HalfWeights(model, torch.bfloat16)
    optimizer = FusedSGD(model.parameters(), 0.1, momentum=0.9, half=half)
    for leaf in half.leaves:
        leaf.grad = torch.zeros_like(leaf)
    optimizer.step()  # makes the state
    with counting() as counter:
        optimizer.step()
        optimizer.zero_grad()
    assert len(calls) == 2
    assert [name for name in counter.names if "profiler" not in name] == []


def test_copies_follow_writes_to_the_parameters() -> None:
    model = Tiny().eval()
    half = HalfWeights(model, torch.bfloat16)
    x = torch.randn(2, 3, 8, 8)

    def is_fresh() -> bool:
        with torch.autocast("cpu", torch.bfloat16):
            return torch.equal(half(x), model(x))

    with torch.no_grad():
        assert is_fresh()
        model.load_state_dict(Tiny().state_dict())
        assert is_fresh()
        model.fc.weight.mul_(2)
        assert is_fresh()
        model.fc.weight.data.mul_(2)
        half.refresh()
        assert is_fresh()


def test_hooks_run_and_parametrized_layers_are_left_to_autocast() -> None:
    model = Tiny().eval()
    seen = []
    model.conv.register_forward_hook(lambda *arguments: seen.append(arguments))
    nn.utils.parametrizations.weight_norm(model.fc)
    half = HalfWeights(model, torch.bfloat16)
    assert {p.shape for p in half.copies} == {model.conv.weight.shape}
    with torch.autocast("cpu", torch.bfloat16):
        half(torch.randn(2, 3, 8, 8))
    assert len(seen) == 1


def test_a_weight_of_two_layers_has_one_copy() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    half = HalfWeights(model, torch.bfloat16)
    assert len(half.copies) == 3
    x = torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(half(x), model(x))


@contextmanager
def pretended_kernel() -> Iterator[None]:
    """Choose as on a GPU with the kernel, whose work PyTorch does."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (build, optimizer_module):
            patch.setattr(module, "why_not_fused", lambda device: None)
        yield


@pytest.mark.parametrize(
    ("amp", "accumulate", "world_size", "expected"),
    [
        ("bf16", 1, 1, True),
        ("fp16", 1, 1, True),
        ("off", 1, 1, False),
        ("bf16", 2, 1, False),
        ("bf16", 1, 2, False),
    ],
)
def test_when_weights_have_half_precision_copies(
    amp: str, accumulate: int, world_size: int, expected: bool
) -> None:
    config = load_config(["--amp", amp, "--accumulate", str(accumulate)])
    process = Process(0, world_size, 0, 1, torch.device("cpu"))
    model = GoogLeNet("paper", 3, aux=False)
    with pretended_kernel():
        half = build.half_weights(config, Switch(model), process)
    assert (half is not None) == expected
    if half is not None:  # all but biases of convolutions
        assert len(half.copies) == 3 + 9 * 4 + 2


def test_a_step_without_the_other_processes_is_that_of_the_run() -> None:
    """Weights in fp32, whose gradients the run averages; a call of the others would fail here."""
    process = Process(0, 2, 0, 1, torch.device("cpu"))
    model = GoogLeNet("paper", 3, aux=False)
    with pretended_kernel():
        config = load_config(["--amp", "bf16"])
        step = build.build_train_step(config, model, process, None, alone=True)
    assert isinstance(step.model, Switch)
    assert step.buckets is None


def train_digits(few_digits: Path, output: Path, *more: str, stop_at: int | None = None) -> Trainer:
    options = ("--epochs", "1", "--amp", "bf16", "--ema_decay", "0.9", *more)
    trainer = Trainer(
        load_config(arguments(few_digits, output, *options)),
        Process(0, 1, 0, 1, torch.device("cpu")),
    )
    prepare = trainer._prepare_step

    def stop_before() -> None:
        prepare()
        if trainer.step + 1 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._prepare_step = stop_before  # type: ignore[method-assign]
    with closing(trainer), use_impl("reference"):
        assert (trainer.run() is None) == (stop_at is not None)
    return trainer


@pytest.mark.slow
def test_whole_runs_equal_those_of_autocast_and_resume_each_other(
    few_digits: Path, tmp_path: Path
) -> None:
    train_digits(few_digits, tmp_path / "autocast")
    train_digits(few_digits, tmp_path / "resumed", stop_at=3)
    with pretended_kernel():
        trainer = train_digits(few_digits, tmp_path / "half")
        train_digits(few_digits, tmp_path / "resumed", "--resume", "auto")
    assert isinstance(trainer.train_step.model, HalfWeights)
    for name in ("half", "resumed"):
        assert_same_checkpoint(tmp_path / "autocast" / "last.pt", tmp_path / name / "last.pt")


def test_the_choice_of_optimizer() -> None:
    model = Tiny()
    assert type(build_optimizer(model, OptimizerConfig())) is optim.SGD
    with pretended_kernel():
        assert type(build_optimizer(model, OptimizerConfig())) is FusedSGD
