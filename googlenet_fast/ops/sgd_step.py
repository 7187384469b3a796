"""A step of stochastic gradient descent with momentum, for all parameters in one launch.

Equivalent, for each parameter, to

    g = gradient.float() / grad_scale + weight_decay * parameter
    momentum_buffer = momentum * momentum_buffer + g
    parameter -= lr * (g + momentum * momentum_buffer if nesterov else momentum_buffer)
    copy = parameter.to(copy.dtype)
    average = average.lerp(parameter, average_weight)

where only the average changes if `found_inf` is not zero.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from googlenet_fast.ops.common import native_supports
from googlenet_fast.registry import define, requested


def why_not_fused(device: torch.device) -> str | None:
    """Return None if a kernel makes the step on a device, else the reason."""
    return native_supports("sgd_step", torch.empty(0, device=device), ())


@torch.no_grad()
def sgd_step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    copies: Sequence[Tensor],
    averages: Sequence[Tensor],
    lr: Sequence[Tensor],
    weight_decay: Sequence[float],
    *,
    momentum: float,
    nesterov: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    average_weight: Tensor | None = None,
) -> None:
    """Update parameters in place, with all that depends on them. Nothing waits for the device.

    Tensors that belong to a parameter have its sizes and strides, which are dense.

    Args:
        parameters: fp32.
        gradients: one per parameter, each fp16, bf16 or fp32, fp16 and bf16 not in one call; an
            empty tensor for a parameter that stays.
        momenta: fp32, one per parameter, or nothing if `momentum` is 0.
        copies: in half precision, one per parameter, an empty tensor for none; or nothing.
        averages: fp32, one per parameter, or nothing.
        lr: learning rate of each parameter, fp32, on the device.
        weight_decay: of each parameter.
        momentum: share of the momentum that stays.
        nesterov: take Nesterov's momentum.
        grad_scale: what the gradients are divided by, fp32, on the device.
        found_inf: 1 to skip the step, else 0, fp32, on the device.
        average_weight: of the parameters in the averages, fp32, on the device; given with averages.

    Raises:
        RuntimeError: tensors that do not fit each other.
    """
    function = _reference
    if requested() != "reference" and native_supports("sgd_step", parameters[0], ()) is None:
        function = _SGD_STEP
    function(
        parameters,
        gradients,
        momenta,
        copies,
        averages,
        lr,
        weight_decay,
        momentum,
        nesterov,
        grad_scale,
        found_inf,
        average_weight,
    )
    changed = [*parameters, *momenta, *copies, *averages]
    for each in [changed] if torch.__version__ >= "2.10" else changed:  # torch 2.4 takes no list
        torch.autograd.graph.increment_version(each)


@torch.no_grad()
def find_nonfinite(gradients: Sequence[Tensor], found: Tensor) -> None:
    """Set `found` to 1 if a gradient has a value that is not finite, else to 0.

    Args:
        gradients: as those of `sgd_step`; they are only read.
        found: fp32, one value on their device.
    """
    if requested() != "reference" and native_supports("find_nonfinite", found, ()) is None:
        _FIND_NONFINITE(gradients, found)
    else:
        given = [gradient for gradient in gradients if gradient.numel()]
        finite = [gradient.isfinite().all() for gradient in given]
        found.copy_(~torch.stack(finite).all() if finite else torch.zeros(()))
    torch.autograd.graph.increment_version(found)


def _reference(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    copies: Sequence[Tensor],
    averages: Sequence[Tensor],
    lr: Sequence[Tensor],
    weight_decay: Sequence[float],
    momentum: float,
    nesterov: bool,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    average_weight: Tensor | None,
) -> None:
    """Take PyTorch's fused step for each learning rate and weight decay, then copy and average."""
    alike: dict[tuple[Tensor, float], list[int]] = defaultdict(list)
    for i, key in enumerate(zip(lr, weight_decay, strict=True)):
        if gradients[i].numel():
            alike[key].append(i)
    for (rate, decay), indices in alike.items():
        torch._fused_sgd_(
            [parameters[i] for i in indices],
            # The kernel of torch writes the unscaled gradients back.
            [gradients[i].to(torch.float32, copy=True) for i in indices],
            [momenta[i] for i in indices] if momenta else [],
            weight_decay=decay,
            momentum=momentum,
            lr=rate,
            dampening=0.0,
            nesterov=nesterov,
            maximize=False,
            is_first_step=False,
            grad_scale=grad_scale,
            found_inf=found_inf,
        )
    for parameter, copy in zip(parameters, copies):  # noqa: B905  (there may be none)
        if copy.numel():
            copy.copy_(parameter)
    for parameter, average in zip(parameters, averages):  # noqa: B905
        assert average_weight is not None
        average.lerp_(parameter, average_weight)


def _fake(*arguments: object) -> None:
    """Return nothing: the step writes what it is given."""


_SGD_STEP = define(
    "sgd_step(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)[] momenta,"
    " Tensor(c!)[] copies, Tensor(d!)[] averages, Tensor[] lr, float[] weight_decay,"
    " float momentum, bool nesterov, Tensor? grad_scale, Tensor? found_inf,"
    " Tensor? average_weight) -> ()",
    _fake,
)
_FIND_NONFINITE = define("find_nonfinite(Tensor[] gradients, Tensor(a!) found) -> ()", _fake)
