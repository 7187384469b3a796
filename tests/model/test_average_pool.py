from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from googlenet_fast.model import average_pool
from googlenet_fast.model.aux_head import AuxHead
from googlenet_fast.model.presets import PRESETS

Pool = Callable[[Tensor], Tensor]
POOLS: dict[str, tuple[Pool, Pool]] = {
    "5x5/3": (lambda x: average_pool.avg_pool2d(x, 5, 3), lambda x: F.avg_pool2d(x, 5, 3)),
    "adaptive 4x4": (
        lambda x: average_pool.adaptive_avg_pool2d(x, 4),
        lambda x: F.adaptive_avg_pool2d(x, 4),
    ),
}
"""Ours and PyTorch's."""


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(average_pool, "product_pays", lambda x: True)


class Calls(TorchDispatchMode):
    """Names of the operations that run, but for views and empty tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if not (func.is_view or "empty" in func.__name__ or func is torch.ops.aten.detach.default):
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def run(pool: Pool, x: Tensor, grad: Tensor) -> list[Tensor]:
    leaf = x.detach().requires_grad_()
    y = pool(leaf)
    return [y.detach(), *torch.autograd.grad(y, leaf, grad)]


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(14, 14), (12, 13), (15, 9), (7, 11), (63, 64), (5, 5)], ids=str)
@pytest.mark.parametrize("name", POOLS)
def test_equals_pytorch_to_rounding(name: str, size: tuple[int, int], dtype: torch.dtype) -> None:
    ours, theirs = POOLS[name]
    x = (3 + torch.randn(2, 8, *size)).to(dtype, memory_format=torch.channels_last)
    grad = torch.randn(theirs(x.double()).shape).to(dtype, memory_format=torch.channels_last)
    exact = run(theirs, x.double(), grad.double())
    for actual, truth in zip(run(ours, x, grad), exact, strict=True):
        assert actual.dtype == dtype
        assert actual.is_contiguous(memory_format=torch.channels_last)
        bound = 4 * torch.finfo(dtype).eps * truth.abs().max()
        assert (actual.double() - truth).abs().max() <= bound


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", POOLS)
def test_is_one_product_each_way(name: str) -> None:
    ours, _ = POOLS[name]
    x = torch.randn(2, 8, 14, 14).to(memory_format=torch.channels_last)
    grad = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    run(ours, x, grad)  # makes the matrix
    with Calls() as calls:
        run(ours, x, grad)
    assert calls.names == ["baddbmm.default"] * 2


@pytest.mark.usefixtures("as_on_a_gpu")
def test_half_precision_neither_overflows_nor_rounds_the_matrix() -> None:
    x = torch.full((1, 8, 14, 14), 60000.0, dtype=torch.float16)
    for ours, theirs in POOLS.values():
        assert torch.equal(ours(x), theirs(x.double()).half())


def test_windows_without_an_exact_matrix_are_left_to_pytorch(
    as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(1, 4, 63, 63).bfloat16()  # windows of 16 and 17 pixels
    monkeypatch.setattr(average_pool._AveragePool, "apply", None)
    assert torch.equal(average_pool.adaptive_avg_pool2d(x, 4), F.adaptive_avg_pool2d(x, 4))


@pytest.mark.parametrize("name", POOLS)
def test_cpus_run_pytorchs_pools(name: str) -> None:
    ours, theirs = POOLS[name]
    x = torch.randn(2, 8, 14, 14)
    with Calls() as calls:
        assert torch.equal(ours(x), theirs(x))
    assert not any("mm" in name for name in calls.names)


@pytest.fixture
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_heads_are_the_same(preset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head = AuxHead(preset, 16, 10, fc_relu=True).eval()
    x = torch.randn(2, 16, 14, 14)
    if preset.aux_grid == 3:
        x = x[:, :, :13, :13]
    expected, keys = head(x), set(head.state_dict())
    monkeypatch.setattr(average_pool, "product_pays", lambda x: True)
    torch.testing.assert_close(head(x), expected)
    assert set(head.state_dict()) == keys
