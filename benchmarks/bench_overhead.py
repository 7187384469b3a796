"""Time the overhead of a call of each op, on tiny tensors.

The baseline is the chain of PyTorch's ops that it replaces in a network without fused ops.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import interleave
from googlenet_fast import ops

CALLS = 200
"""Calls per measurement."""

CHANNELS = 4
"""Of every input and of every convolution's output."""

Function = Callable[..., Tensor]


def tensor(*shape: int) -> Tensor:
    """Return random values that require gradients, channels_last."""
    values = torch.randn(shape)
    if values.ndim == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    return values.requires_grad_()


def weights(taps: int) -> list[Tensor]:
    """Return weight and bias of a convolution."""
    return [tensor(CHANNELS, CHANNELS, taps, taps), tensor(CHANNELS)]


def conv_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.relu(F.conv2d(x, weight, bias, padding=weight.size(2) // 2))


def pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def inception_chain(x: Tensor, *parameters: Tensor) -> Tensor:
    one, reduce3, reduce5, three, five, project = (
        parameters[i : i + 2] for i in range(0, len(parameters), 2)
    )
    branches = [
        conv_relu(x, *one),
        conv_relu(conv_relu(x, *reduce3), *three),
        conv_relu(conv_relu(x, *reduce5), *five),
        conv_relu(pool(x), *project),
    ]
    return torch.cat(branches, dim=1)


def bias_relu_pool_chain(x: Tensor, bias: Tensor) -> Tensor:
    return F.max_pool2d(F.relu(x + bias.view(-1, 1, 1)), 3, stride=2, ceil_mode=True)


def concat_bias_relu_chain(*tensors: Tensor) -> Tensor:
    branches, biases = tensors[:4], tensors[4:]
    shifted = [x + bias.view(-1, 1, 1) for x, bias in zip(branches, biases, strict=True)]
    return F.relu(torch.cat(shifted, dim=1))


def bn_relu_concat_chain(norms: Sequence[nn.BatchNorm2d], *branches: Tensor) -> Tensor:
    normalized = [F.relu(norm(x)) for norm, x in zip(norms, branches, strict=True)]
    return torch.cat(normalized, dim=1)


def packed_inception(packed: list[Tensor], *tensors: Any) -> Tensor:
    """Call the op as the network does: in inference with packed weights."""
    arguments = (*tensors, True, () if torch.is_grad_enabled() else packed)
    return ops.inception(*arguments)


def concat_bias_relu(*tensors: Tensor) -> Tensor:
    return ops.concat_bias_relu(tensors[:4], tensors[4:])


def bn_relu_concat(norms: Sequence[nn.BatchNorm2d], *branches: Tensor) -> Tensor:
    return ops.bn_relu_concat(branches, norms)


def case(op: str) -> tuple[Function, Function, list[Tensor], list[Tensor]]:
    """Return the chain, the op, and the tensors that each takes."""
    x = tensor(1, CHANNELS, 3, 3)
    conv3 = [x, *weights(3)]
    branches, biases = [tensor(1, CHANNELS, 3, 3) for _ in range(4)], [tensor(CHANNELS)] * 4
    norms = [nn.BatchNorm2d(CHANNELS) for _ in range(4)]
    reduction = [*weights(1), *weights(1), *weights(1)]
    stacked = [
        torch.cat([part.detach() for part in reduction[i::2]]).requires_grad_() for i in (0, 1)
    ]
    rest = [*weights(3), *weights(5), *weights(1)]
    w_in, w3, w5, wp = (w.detach() for w in (stacked[0], *rest[::2]))
    packed = ops.pack_inception((w_in, w3, w5, wp), *x.shape[2:])
    cases: dict[str, tuple[Function, Function, list[Tensor], list[Tensor]]] = {
        "inception": (
            inception_chain,
            partial(packed_inception, packed),
            [x, *reduction, *rest],
            [x, *stacked, *rest],
        ),
        "conv_bias_relu": (conv_relu, ops.conv_bias_relu, conv3, conv3),
        "bias_relu_pool": (
            bias_relu_pool_chain,
            ops.bias_relu_pool,
            [x, biases[0]],
            [x, biases[0]],
        ),
        "max_pool": (pool, ops.max_pool, [x], [x]),
        "concat_bias_relu": (
            *(concat_bias_relu_chain, concat_bias_relu),
            *([*branches, *biases], [*branches, *biases]),
        ),
        "local_response_norm": (
            *(partial(F.local_response_norm, size=5), partial(ops.local_response_norm, size=5)),
            *([x], [x]),
        ),
        "bn_relu_concat": (
            *(partial(bn_relu_concat_chain, norms), partial(bn_relu_concat, norms)),
            *(branches, branches),
        ),
    }
    return cases[op]


OPS = (
    *("inception", "conv_bias_relu", "bias_relu_pool", "max_pool", "concat_bias_relu"),
    *("local_response_norm", "bn_relu_concat"),
)


def forward(function: Function, tensors: list[Tensor]) -> None:
    with torch.no_grad():
        for _ in range(CALLS):
            function(*tensors)


def both(function: Function, tensors: list[Tensor]) -> None:
    grad = torch.ones_like(function(*tensors))
    for _ in range(CALLS):
        torch.autograd.grad(function(*tensors), tensors, grad)


@pytest.mark.parametrize("run", [forward, both], ids=lambda run: run.__name__)
@pytest.mark.parametrize("op", OPS)
def bench_overhead(op: str, run: Callable[[Function, list[Tensor]], None]) -> None:
    chain, fused, chain_tensors, fused_tensors = case(op)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    interleave(
        f"overhead of {op}, {CALLS} calls, {run.__name__}",
        {"chain": partial(run, chain, chain_tensors), "fused": partial(run, fused, fused_tensors)},
        repeats=21,
        rate=lambda seconds: f"{1e6 * seconds / CALLS:.1f} us a call",
    )
    torch.set_num_threads(threads)
