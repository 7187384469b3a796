"""Convolutions stored as one appear in state dicts under torchvision's separate keys."""

import copy
import io
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from googlenet_fast.model import PRESETS, GoogLeNet

BRANCHES = ("branch1", "branch2.0", "branch3.0")


@pytest.fixture(params=PRESETS)
def model(request: pytest.FixtureRequest) -> GoogLeNet:
    return GoogLeNet(request.param, 5)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(actual) == list(expected)
    for key, tensor in expected.items():
        assert torch.equal(actual[key], tensor), key


def randomized(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: torch.randn_like(value) if value.is_floating_point() else value + 3
        for key, value in state.items()
    }


def test_round_trip_in_any_order_of_keys(model: GoogLeNet) -> None:
    state = randomized(model.state_dict())
    model.load_state_dict(OrderedDict(reversed(state.items())), strict=True)
    assert_same(model.state_dict(), state)


def test_blocks_show_only_torchvision_keys(model: GoogLeNet) -> None:
    keys = {key for key in model.state_dict() if key.startswith("inception3a.")}
    assert {key.removeprefix("inception3a.").partition(".conv.")[0] for key in keys} >= {
        "branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1"
    }  # fmt: skip
    assert not any("conv_in" in key or "project" in key for key in keys)


def test_loading_leaves_the_given_dict_alone(model: GoogLeNet) -> None:
    state = randomized(model.state_dict())
    before = dict(state)
    model.load_state_dict(state)
    assert_same(state, before)


def test_entries_share_memory_with_the_parameters(model: GoogLeNet) -> None:
    model.state_dict()["inception4b.branch2.0.conv.weight"].fill_(0.5)
    c1, c3_reduce, _ = model.inception4b.stacked
    weight = model.inception4b.conv_in.conv.weight
    assert (weight[c1 : c1 + c3_reduce] == 0.5).all()
    assert not (weight == 0.5).all()


@pytest.mark.parametrize("branch", BRANCHES)
def test_one_missing_sibling_is_named(model: GoogLeNet, branch: str) -> None:
    state = model.state_dict()
    key = f"inception4c.{branch}.conv.weight"
    del state[key]
    with pytest.raises(RuntimeError, match=key) as caught:
        model.load_state_dict(state, strict=True)
    others = [name for name in BRANCHES if name != branch]
    assert not any(f"inception4c.{name}." in str(caught.value) for name in others)
    assert "conv_in" not in str(caught.value)


def test_without_strict_a_missing_sibling_keeps_its_value(model: GoogLeNet) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    key = "inception3b.branch2.0.conv.weight"
    state = randomized(before)
    del state[key]
    result = model.load_state_dict(state, strict=False)
    assert result.missing_keys == [key]
    assert not result.unexpected_keys
    assert_same(model.state_dict(), {k: state.get(k, before[k]) for k in before})


def test_a_misshapen_sibling_is_named(model: GoogLeNet) -> None:
    state = model.state_dict()
    key = "inception5a.branch3.0.conv.weight"
    state[key] = state[key][:-1]
    with pytest.raises(RuntimeError, match=rf"size mismatch for {key}: \(31, .*\(32, "):
        model.load_state_dict(state)


def test_an_unknown_key_is_named(model: GoogLeNet) -> None:
    state = model.state_dict()
    state["inception3a.branch5.conv.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"inception3a\.branch5\.conv'):
        model.load_state_dict(state)


def test_inside_a_wrapper(model: GoogLeNet) -> None:
    wrapper = nn.ModuleDict({"module": model})
    state = randomized(wrapper.state_dict())
    assert "module.inception3a.branch1.conv.weight" in state
    wrapper.load_state_dict(state, strict=True)
    assert_same(wrapper.state_dict(), state)


def test_copies_are_independent(model: GoogLeNet) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twin = copy.deepcopy(model)
    twin.load_state_dict(randomized(before))
    assert_same(model.state_dict(), before)
    assert_same(copy.deepcopy(twin).state_dict(), twin.state_dict())


def test_averaged_copies() -> None:
    model = GoogLeNet("torchvision", 5)
    ema = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    ema.update_parameters(model)
    fresh = GoogLeNet("torchvision", 5)
    fresh.load_state_dict(ema.module.state_dict(), strict=True)
    assert_same(fresh.state_dict(), model.state_dict())


def test_through_a_file(model: GoogLeNet) -> None:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    twin = GoogLeNet(model.preset.name, 5)
    twin.load_state_dict(torch.load(buffer, weights_only=True))
    assert_same(twin.state_dict(), model.state_dict())


def test_onto_a_meta_model_by_assignment(model: GoogLeNet) -> None:
    with torch.device("meta"):
        shell = GoogLeNet(model.preset.name, 5)
    shell.load_state_dict(model.state_dict(), assign=True)
    assert_same(shell.state_dict(), model.state_dict())


def test_parameters_stay_channels_last(model: GoogLeNet) -> None:
    model.load_state_dict({k: v.contiguous() for k, v in model.state_dict().items()})
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last), name
