"""Clip the norm of gradients, inside the step of a fused optimizer."""

from typing import Any

import torch
from torch import Tensor, optim

from googlenet_fast.engine.fused_sgd import FusedSGD


def clip_gradients(optimizer: optim.Optimizer, largest: float) -> None:
    """In each step of an optimizer, scale the gradients down if their norm, over all, is too large.

    As `torch.nn.utils.clip_grad_norm_` does, but the gradients are divided in the optimizer's own
    pass, by what it takes for the loss scale. Nothing waits for the device. Gradients that are not
    finite give no finite step, as without clipping; the loss scaler skips it.

    Args:
        optimizer: a fused one, which reads `grad_scale`.
        largest: norm of the gradients of the unscaled loss.
    """

    def divide(optimizer: optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        norm = _norm([leaf.grad for leaf in _leaves(optimizer) if leaf.grad is not None])
        loss_scale = getattr(optimizer, "grad_scale", None)
        if loss_scale is None:
            divisor = (norm / largest).clamp_min(1)
        else:
            divisor = torch.maximum(norm / largest, loss_scale)
        optimizer.grad_scale = divisor  # type: ignore[attr-defined]

    def forget(optimizer: optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        optimizer.grad_scale = None  # type: ignore[attr-defined]

    optimizer.register_step_pre_hook(divide)
    optimizer.register_step_post_hook(forget)


def _leaves(optimizer: optim.Optimizer) -> list[Tensor]:
    if isinstance(optimizer, FusedSGD):
        return optimizer.leaves()
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _norm(gradients: list[Tensor]) -> Tensor:
    """Return the norm over all gradients in fp32, since that of fp16 ones may be beyond fp16."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}  # of one dtype they take one launch
    for gradient in gradients:
        by_dtype.setdefault(gradient.dtype, []).append(gradient)
    norms = [
        norm for some in by_dtype.values() for norm in torch._foreach_norm(some, 2, torch.float32)
    ]
    return torch.linalg.vector_norm(torch.stack(norms))
