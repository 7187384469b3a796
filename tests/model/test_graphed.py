"""A frozen network whose calls are captured."""

import pytest
import torch

from googlenet_fast.capture import WARMUP
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.frozen import Frozen, freeze
from googlenet_fast.model.graphed import GraphedNetwork
from tests.capturers import CallsAgain, Tape


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return freeze(GoogLeNet("torchvision", 5, aux=False).eval())


@pytest.mark.parametrize("kind", [CallsAgain, Tape])
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_logits_are_those_of_the_frozen_network(
    frozen: Frozen, kind: type[CallsAgain], amp: torch.dtype | None
) -> None:
    """To the bit; those of a smaller last batch are cut out of a whole one."""
    capturer = kind()
    network = GraphedNetwork(frozen, capturer, 4)
    images = torch.randn(4 * (WARMUP + 2) + 1, 3, 64, 64)
    results = []
    for batch in images.split(4):
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", amp, enabled=amp is not None):
            results.append((network(batch), frozen(batch)))
    assert [len(ours) for ours, _ in results] == [4] * (WARMUP + 2) + [1]
    for ours, theirs in results:
        assert torch.equal(ours, theirs)
    assert (capturer.captures, capturer.replays) == (1, 3)


def test_a_graph_for_each_size(frozen: Frozen) -> None:
    capturer = CallsAgain()
    network = GraphedNetwork(frozen, capturer, 2)
    for size in (64, 96):
        for _ in range(WARMUP + 1):
            assert len(network(torch.randn(2, 3, size, size))) == 2
    assert capturer.captures == 2


def test_batches_that_are_never_whole_run_as_they_are(frozen: Frozen) -> None:
    seen = []
    network = GraphedNetwork(frozen, CallsAgain(), 8)
    network._captured = lambda images: seen.append(len(images)) or frozen(images)  # type: ignore
    for count in (3, 9):
        images = torch.randn(count, 3, 64, 64)
        assert torch.equal(network(images), frozen(images))
    assert seen == [3, 9]


def test_without_a_capturer_nothing_is_padded(frozen: Frozen) -> None:
    network = GraphedNetwork(frozen, None, 2)
    for count in (2, 1):
        images = torch.randn(count, 3, 64, 64)
        assert torch.equal(network(images), frozen(images))
