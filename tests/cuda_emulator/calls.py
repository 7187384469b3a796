"""Calls of the ops that have CUDA kernels, and what to compare of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from googlenet_fast.ops import bias_relu_pool, concat_bias_relu, local_response_norm, max_pool

Function = Callable[..., Tensor]

CALLS: dict[str, tuple[Function, list[Tensor]]] = {
    "concat_bias_relu": (
        lambda a, b, c, d: concat_bias_relu([a, b], [c, d]),
        [torch.randn(2, 8, 14, 14), torch.randn(2, 32, 14, 14), torch.randn(8), torch.randn(32)],
    ),
    "bias_relu_pool": (bias_relu_pool, [torch.randn(2, 40, 14, 14), torch.randn(40)]),
    "max_pool": (max_pool, [torch.randn(2, 40, 14, 14)]),
    "local_response_norm": (local_response_norm, [torch.randn(2, 40, 14, 14)]),
}
"""A function of tensors for each op, and tensors for it."""


def results(function: Function, tensors: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """Output and gradients of all tensors."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]
