"""Hooks, parametrizations and replaced children of a layer take effect."""

import copy
import inspect
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.frozen import freeze
from googlenet_fast.model.inception import Inception, Widths
from googlenet_fast.model.layers import Conv
from googlenet_fast.model.presets import PRESETS
from tests.model.composition import composed_block

NAMES = sorted(PRESETS)


def make_block(preset: str) -> Inception:
    return Inception(PRESETS[preset], 24, Widths(8, 6, 10, 4, 5, 7))


class LowRank(nn.Module):
    """A replacement without a weight of its own, as LoRA libraries make."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.base = conv
        self.down = nn.Conv2d(conv.in_channels, 2, 1, bias=False)
        self.up = nn.Conv2d(2, conv.out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def replace_inner(block: Inception) -> None:
    block.conv3.register_module("conv", LowRank(block.conv3.conv))


def replace_layer(block: Inception) -> None:
    """By a layer of the same interface."""

    class Doubled(Conv):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    block.conv5.__class__ = Doubled


def dilate(block: Inception) -> None:
    block.conv3.conv.dilation, block.conv3.conv.padding = (2, 2), (2, 2)


def prune_weights(block: Inception) -> None:
    mask = torch.rand_like(block.conv3.conv.weight) < 0.5
    prune.custom_from_mask(block.conv3.conv, "weight", mask)


def own_forward(block: Inception) -> None:
    inner = block.project.conv
    inner.__dict__["forward"] = lambda x: -nn.Conv2d.forward(inner, x)


CHANGES: tuple[Callable[[Inception], object], ...] = (
    lambda block: spectral_norm(block.conv3.conv),
    lambda block: weight_norm(block.conv_in.conv),
    lambda block: parametrizations.spectral_norm(block.conv5.conv),
    lambda block: parametrizations.weight_norm(block.project.conv),
    *(replace_inner, dilate, prune_weights, own_forward),
)


@pytest.mark.parametrize("preset", NAMES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_changed_children_compute_the_block(
    preset: str, training: bool, change: Callable[[Inception], object]
) -> None:
    """Take two steps: old weight norm and pruning compute their weight in a hook before each."""
    block = make_block(preset).train(training)
    change(block)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.05)
    for _ in range(2):
        x = torch.randn(2, 24, 9, 9)
        buffers = {name: buffer.clone() for name, buffer in block.named_buffers()}
        found = block(x)
        optimizer.zero_grad()
        found.square().mean().backward()
        assert all(p.grad is not None for p in block.parameters())
        for name, buffer in block.named_buffers():
            buffer.copy_(buffers[name])  # spectral norm iterates
        with torch.no_grad():
            expected = composed_block(block, x)
        assert (found - expected).norm() <= 1e-4 * expected.norm()
        optimizer.step()


def test_a_subclass_of_a_layer_is_called() -> None:
    block = make_block("paper").eval()
    x = torch.randn(2, 24, 9, 9)
    with torch.no_grad():
        before = block(x)
        replace_layer(block)
        after = block(x)
    changed = (before - after).abs().amax((0, 2, 3)) > 0
    assert changed[18:23].any()
    assert not changed[:18].any()


@pytest.mark.parametrize("preset", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_hooks_of_every_module_fire(preset: str, training: bool) -> None:
    model = GoogLeNet(preset, 5).train(training)
    fired: set[str] = set()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: fired.add(name))
    size = {"paper": 224, "paddleclas": 224, "torchvision": 64}[preset] if training else 64
    model(torch.randn(2, 3, size, size))
    unused = {"aux1", "aux2"} if not training else set()
    wanted = {n for n, _ in model.named_modules() if n.split(".")[0] not in unused}
    assert fired == wanted


def test_global_hooks_fire() -> None:
    block = make_block("paper").eval()
    seen: list[type] = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, *_: seen.append(type(module))
    )
    try:
        block(torch.randn(1, 24, 9, 9))
    finally:
        handle.remove()
    assert seen.count(nn.Conv2d) == 4


def test_state_dicts_of_changed_children_round_trip() -> None:
    for change in CHANGES[:4]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            blocks = [make_block("paper"), make_block("paper")]
            for block in blocks:
                change(block)
        first, second = (block.eval() for block in blocks)
        second.load_state_dict(first.state_dict())
        x = torch.randn(1, 24, 9, 9)
        torch.testing.assert_close(first(x), second(x))


@pytest.mark.parametrize("preset", NAMES)
def test_modules_can_be_inspected(preset: str) -> None:
    block = make_block(preset)
    for module in block.modules():
        inspect.getmembers(module)
        assert not hasattr(module, "no_such_attribute")
        for name in dir(module):
            hasattr(module, name)  # a property may raise AttributeError only


def test_freeze_refuses_what_it_cannot_copy_by_name() -> None:
    model = GoogLeNet("paper", 5, aux=False)
    handle = model.inception3a.conv3.register_forward_hook(lambda *_: None)
    with pytest.raises(GoogLeNetError, match=r"inception3a\.conv3: it has hooks"):
        freeze(model)
    handle.remove()
    freeze(model)
    replace_inner(model.inception4b)
    with pytest.raises(GoogLeNetError, match=r"inception4b\.conv3\.conv: LowRank"):
        freeze(model)


def test_freeze_evaluates_parametrizations() -> None:
    model = GoogLeNet("paper", 5, aux=False).eval()
    parametrizations.weight_norm(model.inception4b.conv3.conv)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("weight.original0"):
                p.mul_(1.5)
        x = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(freeze(model)(x), model(x), rtol=1e-3, atol=1e-4)


def other_momentum(block: Inception) -> None:
    block.conv3.bn.momentum = 0.5  # type: ignore[union-attr]


def other_eps(block: Inception) -> None:
    block.conv5.bn.eps = 0.1  # type: ignore[union-attr]


def no_counter(block: Inception) -> None:
    block.project.bn.num_batches_tracked = None  # type: ignore[union-attr]


def frozen_statistics(block: Inception) -> None:
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats = False


def fused_norm(block: Inception) -> None:
    conv, bn = block.project.conv, block.project.bn
    assert bn is not None
    block.project.conv = fuse_conv_bn_eval(conv.eval(), bn.eval())
    block.project.bn = None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "change",
    [other_momentum, other_eps, no_counter, frozen_statistics, fused_norm],
    ids=lambda change: change.__name__,
)
def test_settings_of_norms_take_effect(change: Callable[[Inception], None], training: bool) -> None:
    """Output and running statistics are those of the children alone."""
    block = make_block("torchvision")
    change(block)
    block.train(training)
    other = copy.deepcopy(block)
    x = torch.randn(2, 24, 9, 9)
    with torch.no_grad():
        found, expected = block(x), composed_block(other, x)
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    for ours, theirs in zip(block.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
