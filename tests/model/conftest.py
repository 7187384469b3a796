"""Fixtures shared by the tests of the network and its weights."""

import copy
from collections.abc import Callable

import pytest
from torch import Tensor, nn


@pytest.fixture(scope="session")
def gradients() -> Callable[[nn.Module], dict[str, Tensor]]:
    """A function that returns a module's gradients under its state dict's keys."""

    def get(module: nn.Module) -> dict[str, Tensor]:
        shadow = copy.deepcopy(module)
        names = {name for name, _ in module.named_buffers()}
        for ours, theirs in zip(shadow.parameters(), module.parameters(), strict=True):
            assert theirs.grad is not None
            ours.data = theirs.grad
        leaves = {name.rpartition(".")[2] for name in names}
        return {
            key: value
            for key, value in shadow.state_dict().items()
            if key.rpartition(".")[2] not in leaves
        }

    return get
