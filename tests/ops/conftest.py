"""What the tests of all ops share."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests import helpers

Check = Callable[[Tensor, Tensor, Tensor], None]
Keep = Callable[[list[Tensor]], Callable[[Tensor], Tensor]]


@pytest.fixture
def check_accuracy() -> Check:
    """Assert that a result is at most twice as far from the exact one as plain PyTorch's is."""

    def check(actual: Tensor, plain: Tensor, exact: Tensor) -> None:
        assert actual.shape == exact.shape
        if exact.numel() == 0:
            return
        # The result is rounded once, whatever came before; a count (of batches) is not.
        rounding = torch.finfo(plain.dtype).eps / 2 if plain.is_floating_point() else 0.0
        floor = max(4e-6, rounding) * max(1.0, exact.abs().max().item())
        allowed = 2 * (plain.double() - exact).abs().max().item() + floor
        assert (actual.double() - exact).abs().max().item() <= allowed

    return check


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Keep what torch.compile remembers of one test out of the next."""
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    with helpers.poisoned_memory():
        yield


@pytest.fixture
def keep_in() -> Keep:
    """Makes a hook that appends what is saved for backward to a list."""

    def keep(saved: list[Tensor]) -> Callable[[Tensor], Tensor]:
        def pack(tensor: Tensor) -> Tensor:
            saved.append(tensor)
            return tensor

        return pack

    return keep


@pytest.fixture(
    params=[
        lambda x: x.contiguous(),
        lambda x: torch.cat([x, x], 1).to(memory_format=torch.channels_last)[:, 3:9],
        lambda x: x[:, :, 1:, 2:],
        lambda x: x[:1, :1].expand(2, 6, -1, -1),
        lambda x: x[:0],
    ],
    ids=["NCHW", "slice of channels", "crop", "expanded", "empty batch"],
)
def layout(request: pytest.FixtureRequest) -> Callable[[Tensor], Tensor]:
    """Arranges a tensor of (2, 6, H, W) otherwise in memory, or takes a part of it."""
    return request.param
