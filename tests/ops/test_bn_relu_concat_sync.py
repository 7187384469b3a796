"""Batch norm over the batches of two processes equals that over both batches in one."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from googlenet_fast import extension
from googlenet_fast.model import layers
from googlenet_fast.ops import bn_relu_concat, bn_relu_pool, inception_bn, use_impl
from tests.engine.runs import finish, warm_process

STACKED, WIDTHS = (5, 4, 3), (6, 7, 2)
"""Channels of the 1x1 convolutions and of the other branches."""

IMAGES = (3, 1)
"""Of each process."""


def tensors() -> list[Tensor]:
    """Inputs and weights of a block, two branches and a gradient."""
    generator = torch.Generator().manual_seed(3)
    shapes = [
        *((4, 8, 5, 4), (4, WIDTHS[2], 5, 4), (sum(STACKED), 8, 1, 1)),
        *((WIDTHS[0], STACKED[1], 3, 3), (WIDTHS[1], STACKED[2], 3, 3), (WIDTHS[2], 8, 1, 1)),
        (4, STACKED[0] + sum(WIDTHS), 5, 4),
    ]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def norms(channels: Sequence[int]) -> list[nn.BatchNorm2d]:
    found = [nn.BatchNorm2d(count, eps=1e-3).double() for count in channels]
    for norm in found:
        nn.init.constant_(norm.weight, -0.7)
        nn.init.constant_(norm.bias, 0.2)
    return found


def train(part: slice, group: dist.ProcessGroup | None) -> list[list[Tensor]]:
    """Results by image, gradients of parameters, and running statistics, of all three ops."""
    *branches, w_in, w3, w5, wp, grad = tensors()
    inputs = [x[part].clone().requires_grad_() for x in branches]
    weights = [w.requires_grad_() for w in (w_in, w3, w5, wp)]
    block, pair, stem = norms((sum(STACKED), *WIDTHS)), norms((8, WIDTHS[2])), norms((8,))
    y = inception_bn(inputs[0], w_in, w3, w5, wp, block, group)
    z = bn_relu_concat(inputs, pair, group)
    pooled = bn_relu_pool(inputs[0], stem[0], True, group)
    every = [*block, *pair, *stem]
    parameters = [*weights, *(p for norm in every for p in norm.parameters())]
    loss = (y * grad[part]).sum() + (z.square() * z).sum() + (pooled.square() * pooled).sum()
    grads = torch.autograd.grad(loss, [*inputs, *parameters])
    buffers = [buffer for norm in every for buffer in norm.buffers()]
    return [[y.detach(), z.detach(), pooled.detach(), *grads[:2]], list(grads[2:]), buffers]


def work(rank: int, folder: str, implementation: str) -> None:
    """What one of two processes does."""
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    start = sum(IMAGES[:rank])
    norm = nn.SyncBatchNorm(3)
    assert layers.group_of(norm) is dist.group.WORLD
    assert layers.group_of(nn.BatchNorm2d(3)) is None
    with use_impl(implementation):
        results = train(slice(start, start + IMAGES[rank]), dist.group.WORLD)
    torch.save(results, f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.mark.parametrize("implementation", ["native", "reference"])
def test_two_processes_equal_one(implementation: str, tmp_path: Path) -> None:
    if implementation == "native" and extension.UNAVAILABLE is not None:
        pytest.skip(extension.UNAVAILABLE)
    finish(*(warm_process(work, rank, str(tmp_path), implementation) for rank in range(2)))
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(2))
    with use_impl("reference"):
        by_image, parameters, buffers = train(slice(None), None)
    for a, b, whole in zip(first[0], second[0], by_image, strict=True):
        torch.testing.assert_close(torch.cat([a, b]), whole)
    for a, b, whole in zip(first[1], second[1], parameters, strict=True):
        torch.testing.assert_close(a + b, whole)
    for a, b, whole in zip(first[2], second[2], buffers, strict=True):
        torch.testing.assert_close(a, whole)
        assert torch.equal(a, b)
