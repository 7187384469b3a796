"""Ways to compute one network, and the switch between them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from googlenet_fast.engine.candidates import (
    CANDIDATES,
    COMPILED,
    COMPILED_PLAIN,
    OURS,
    PLAIN,
    Switch,
)
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.plain import Plain
from googlenet_fast.registry import requested


@pytest.fixture(scope="module")
def network() -> GoogLeNet:
    torch.manual_seed(0)
    return GoogLeNet("paddleclas", 10, aux=False, dropout=0.0)


def test_ours_is_preferred_among_equals() -> None:
    assert next(iter(CANDIDATES)) == OURS.name
    assert {c.name for c in CANDIDATES.values()} == set(CANDIDATES)


def test_compiling_is_done_to_the_whole_network(network: GoogLeNet) -> None:
    given: list[Any] = []

    def compile(model: Any) -> Any:
        given.append(model)
        return lambda images: images + 1

    zero = torch.zeros(1)
    assert OURS.for_training(network, compile) is network
    assert isinstance(PLAIN.for_training(network, compile), Plain)
    assert not given
    assert COMPILED.for_training(network, compile)(zero) == 1
    assert COMPILED_PLAIN.for_training(network, compile)(zero) == 1
    assert given[0] is network
    assert isinstance(given[1], Plain)
    assert given[1].network is network
    assert COMPILED.for_inference(network, compile)(zero) == 1
    assert given[2] is network


def test_plain_inference_runs_the_references() -> None:
    seen = []

    def network(images: Tensor) -> Tensor:
        seen.append(requested())
        return images

    for candidate in CANDIDATES.values():
        candidate.for_inference(network, lambda call: call)(torch.zeros(1))
    assert seen == ["auto", "reference", "reference", "auto"]
    assert requested() == "auto"


def test_a_switch_computes_as_it_is_told_with_the_same_weights(network: GoogLeNet) -> None:
    switch = Switch(network)
    assert [f"network.{name}" for name, _ in network.named_parameters()] == [
        name for name, _ in switch.named_parameters()
    ]
    images = torch.randn(2, 3, 64, 64)
    ours = switch(images)
    assert torch.equal(ours, network(images))
    switch.use(PLAIN)
    assert switch.candidate is PLAIN
    assert torch.equal(switch(images), Plain(network)(images))
    torch.testing.assert_close(switch(images), ours, rtol=1e-3, atol=1e-3)
    assert len(list(switch.parameters())) == len(list(network.parameters()))
    switch.use(COMPILED, lambda model: lambda images: model(images) * 0)
    assert not switch(images).any()


def test_a_switch_refuses_what_cannot_compute_its_network(network: GoogLeNet) -> None:
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(GoogLeNet("torchvision", 10, aux=False))
    with pytest.raises(TypeError, match="synchronised"):
        Switch(synced).use(PLAIN)
