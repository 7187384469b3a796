"""Parts of the network: what belongs to them, their learning rates, freezing."""

from typing import Any

import pytest
import torch
from torch import Tensor

from googlenet_fast.choices import PARTS
from googlenet_fast.engine import build
from googlenet_fast.engine.build import build_train_step
from googlenet_fast.engine.config import OptimizerConfig, TrainConfig, load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.optimizer import build_optimizer, load_momentum, optimizer_state
from googlenet_fast.engine.parts import DEPTHS, freeze_parts, part_of
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import GoogLeNet
from googlenet_fast.ops import use_impl
from tests.helpers import relative_error

ALONE = Process(0, 1, 0, 1, torch.device("cpu"))


def make_network(preset: str = "torchvision", aux: bool = True) -> GoogLeNet:
    torch.manual_seed(0)
    return GoogLeNet(preset, 5, aux=aux)


def scales(config: OptimizerConfig, preset: str = "paper") -> dict[str, float]:
    """Parameter -> the factor of its learning rate."""
    groups = build_optimizer(make_network(preset), config).param_groups
    return {name: group["lr_scale"] for group in groups for name in group["param_names"]}


def test_every_parameter_belongs_to_a_part() -> None:
    found = {part_of(name) for name, _ in make_network().named_parameters()}
    assert found == set(PARTS)
    assert list(DEPTHS.items())[:2] == [("stem", 10), ("3a", 9)]
    assert DEPTHS["5b"] == 1


def test_learning_rates_by_part() -> None:
    config = OptimizerConfig(
        layer_lr_decay=0.5, lr_scale={"5b": 3.0, "stem": 0.0}, bias_lr_scale=2.0,
        classifier_lr_scale=10.0,
    )  # fmt: skip
    found = scales(config)
    assert found["fc.weight"] == found["aux1.fc2.weight"] == 10
    assert found["fc.bias"] == 20
    assert found["aux1.fc1.weight"] == 1
    assert found["inception5b.project.conv.weight"] == 1.5
    assert found["inception5a.project.conv.bias"] == 0.5
    assert found["inception3a.project.conv.weight"] == 0.5**9
    assert found["conv1.conv.weight"] == found["conv3.conv.bias"] == 0


def test_shifts_of_batch_norm_are_no_biases() -> None:
    found = scales(OptimizerConfig(bias_lr_scale=2.0), "torchvision")
    assert {name for name, scale in found.items() if scale == 2} == {
        f"{layer}.bias" for layer in ("fc", "aux1.fc1", "aux1.fc2", "aux2.fc1", "aux2.fc2")
    }


@pytest.mark.parametrize("preset", ["paper", "torchvision"])
@pytest.mark.parametrize("parts", [("backbone",), ("stem", "3a", "4c"), ("fc",)])
def test_frozen_parts_stay_as_they_are(preset: str, parts: tuple[str, ...]) -> None:
    flag = ["--freeze", ",".join(parts), "--model.preset", preset, "--ema_decay", "0.9"]
    config = load_config([*flag, "--data", "unused", "--model.aux", "false"])
    model = make_network(preset, aux=False)
    freeze_parts(model, config.model.frozen_parts)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step = build_train_step(config, model, ALONE, None)
    for _ in range(2):
        step(torch.randn(2, 3, 64, 64), torch.randint(5, (2,)))
    named = set(PARTS) - {"aux", "fc"} if parts == ("backbone",) else set(parts)
    for average in (model, step.ema.module):  # type: ignore[union-attr]
        for name, tensor in average.state_dict().items():
            if part_of(name) in named:
                assert torch.equal(tensor, before[name]), name
            elif name.endswith("weight"):
                assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("preset", ["paper", "paddleclas", "torchvision"])
def test_gradients_of_the_rest_are_the_references(preset: str) -> None:
    model = make_network(preset, aux=False)
    freeze_parts(model, ("stem", "3b", "4d", "5b"))
    x = torch.randn(2, 3, 224, 224)
    ours = gradients(model, x, "auto")
    expected = gradients(model.double(), x.double(), "reference")
    assert ours.keys() == expected.keys()
    assert set(ours) == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, gradient in ours.items():  # rounding moves values across zero; an error is near 1
        assert relative_error(gradient, expected[name]) < 0.1, name


def gradients(model: GoogLeNet, x: Tensor, implementation: Any) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(1)
    with use_impl(implementation):
        model(x).square().sum().backward()
    return {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}


def test_only_what_is_trained_is_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen parameter gets no gradient, for which the others would wait."""
    leaves = []
    monkeypatch.setattr(build, "GradientBuckets", lambda found, _: leaves.extend(found))
    monkeypatch.setattr(Process, "broadcast_tensor", lambda *_: None)
    model = make_network()
    freeze_parts(model, ("backbone",))
    build_train_step(TrainConfig(), model, Process(0, 2, 0, 1, torch.device("cpu")), None)
    assert [id(p) for p in leaves] == [id(p) for p in model.parameters() if p.requires_grad]


def test_a_resumed_run_may_freeze_other_parts() -> None:
    saved, model = make_network(), make_network()
    freeze_parts(saved, ("backbone",))
    state = optimizer_state(build_optimizer(saved, OptimizerConfig()))
    freeze_parts(model, ("fc",))
    optimizer = build_optimizer(model, OptimizerConfig())
    load_momentum(optimizer, state)
    assert "momentum_buffer" in optimizer.state[model.conv1.conv.weight]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--freeze", "stem,3c"], "--model.freeze stem,3c: '3c' is no part of the network"),
        (["--freeze", "stm"], "did you mean stem?"),
        (["--optimizer.lr_scale", "{5c: 1}"], "--optimizer.lr_scale: '5c' is no part"),
        (["--optimizer.lr_scale", "{5b: -1}"], "--optimizer.lr_scale 5b: -1.0: must be 0 or more"),
        (["--optimizer.layer_lr_decay", "0"], "layer_lr_decay 0.0: must be more than 0"),
        (["--optimizer.clip_grad_norm", "0"], "clip_grad_norm 0.0: must be more than 0"),
    ],
)
def test_mistakes(flags: list[str], message: str) -> None:
    with pytest.raises(GoogLeNetError) as error:
        load_config([*flags, "--data", "unused"])
    assert message in str(error.value)


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(
        GoogLeNetError, match=r"--model\.freeze backbone,fc: leaves nothing to train"
    ):
        freeze_parts(make_network(aux=False), ("backbone", "fc"))
