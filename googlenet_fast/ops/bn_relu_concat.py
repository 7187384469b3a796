"""Batch normalisation in training, ReLU and concatenation of branch outputs.

Four passes over memory in place of about a dozen: statistics and result forward, the parameters'
gradients and the input's backward. The branches and two values per channel are saved; where ReLU
clipped is found out again from them. Between the passes processes may add up their sums
(`torch.nn.SyncBatchNorm`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from googlenet_fast.ops.autocast import autocast
from googlenet_fast.ops.compiled import why_not_compiled
from googlenet_fast.ops.concat_bias_relu import MAX_BRANCHES
from googlenet_fast.ops.dispatch import always, choose, register
from googlenet_fast.ops.library import LIBRARY, TAGS

ops = torch.ops.googlenet_fast


def bn_relu_concat(
    branches: Sequence[Tensor], norms: Sequence[_BatchNorm], group: ProcessGroup | None = None
) -> Tensor:
    """Return concatenate(relu(norm(branch)) for each branch), and update running statistics.

    Args:
        branches: each (N, C_i, H, W), all of one dtype: fp16, bf16, fp32 or fp64, cast under
            autocast. Fastest in channels_last, slices of channels included.
        norms: of each branch, in training mode, with weight and bias; all of one `eps` and one
            momentum, and all or none with running statistics.
        group: processes whose batches are normalised as one; None: this process alone.

    Returns:
        (N, sum of C_i, H, W) in the dtype of the branches, channels_last.

    Raises:
        ValueError: there are no branches, not as many norms, norms that are not as said, or one
            value per channel, which has no variance.
    """
    check_norms("bn_relu_concat", branches, norms, group)
    branches = autocast(branches)
    arguments = (branches, norms, group)
    if choose("bn_relu_concat", branches[0].device.type, arguments) == "reference":
        return bn_relu_concat_reference(*arguments)
    statistics, total = statistics_of(branches, group)
    update_running_statistics(norms, [statistics], total)
    parameters = [norm.weight for norm in norms] + [norm.bias for norm in norms]
    return _BnReluConcat.apply(statistics, total, norms[0].eps, group, *branches, *parameters)


def bn_relu_concat_reference(
    branches: Sequence[Tensor], norms: Sequence[_BatchNorm], group: ProcessGroup | None = None
) -> Tensor:
    """Normalise, concatenate and clip, each on its own."""
    results = [
        _BatchNorm.forward(norm, x) if group is None else _synchronized_batch_norm(x, norm, group)
        for x, norm in zip(branches, norms, strict=True)
    ]
    return F.relu(torch.cat(results, dim=1)).contiguous(memory_format=torch.channels_last)


def _synchronized_batch_norm(x: Tensor, norm: _BatchNorm, group: ProcessGroup) -> Tensor:
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    count = all_reduce(values.new_tensor(x.numel() / x.size(1)), group=group)
    mean = all_reduce(values.sum((0, 2, 3)), group=group) / count
    centered = values - mean.view(-1, 1, 1)
    variance = all_reduce(centered.square().sum((0, 2, 3)), group=group) / count
    scale = (variance + norm.eps).rsqrt() * norm.weight
    update_running_statistics([norm], [torch.stack([mean, variance])], count)
    return (centered * scale.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)).to(x.dtype)


def check_norms(
    op: str, branches: Sequence[Tensor], norms: Sequence[_BatchNorm], group: ProcessGroup | None
) -> None:
    """Raise ValueError, which names the op, unless the norms can be those of the branches."""
    if not branches or len(norms) != len(branches):
        raise ValueError(
            f"{op}: {len(branches)} branches and {len(norms)} norms; give one branch or more, and a"
            " norm for each"
        )
    if not all(norm.training for norm in norms):
        raise ValueError(f"{op}: a norm is in inference mode; call its train()")
    if any(norm.weight is None for norm in norms):
        raise ValueError(f"{op}: a norm has no weight and bias; make it with affine=True")
    if len({(norm.eps, norm.momentum, norm.track_running_stats) for norm in norms}) > 1:
        raise ValueError(f"{op}: norms of several eps, momenta or kinds; give all the same")
    if group is None and any(x.size(0) * x.size(2) * x.size(3) < 2 for x in branches):
        raise ValueError(
            f"{op}: one value per channel has no variance; give more images or larger ones"
        )


class Normalized(NamedTuple):
    """A branch and what normalises it."""

    x: Tensor
    """(N, C, H, W)"""
    statistics: Tensor
    """(2, C): mean and biased variance."""
    weight: Tensor
    """(C,)"""
    bias: Tensor
    """(C,)"""


@torch.no_grad()
def statistics_of(
    branches: Sequence[Tensor], group: ProcessGroup | None
) -> tuple[Tensor, Tensor | float]:
    """Return mean and biased variance, (2, sum of C_i), over all processes, and of how many values.

    Processes may have different numbers of images; then theirs are merged as those of parts.
    """
    statistics = ops.bn_relu_concat_statistics.default(list(branches))
    count = branches[0].numel() / max(1, branches[0].size(1))
    if group is None:
        return statistics, count
    own = torch.cat([statistics, torch.full_like(statistics[:1], count)])
    everyone = own.new_empty(dist.get_world_size(group) * len(own), own.size(1))
    dist.all_gather_into_tensor(everyone, own, group=group)
    means, variances, counts = everyone.view(-1, *own.shape).unbind(1)
    total = counts.sum(0)
    mean = (means * counts).sum(0) / total
    variance = ((variances + (means - mean).square()) * counts).sum(0) / total
    return torch.stack([mean, variance]), total[0]


def normalize(branches: Sequence[Normalized], eps: float, concatenate: bool) -> list[Tensor]:
    """Return relu(normalised branch) of each, or of all one tensor, channels_last."""
    return ops.bn_relu_concat.default(*map(list, zip(*branches, strict=True)), eps, concatenate)


def parameter_gradients(
    grads: Sequence[Tensor], branches: Sequence[Normalized], eps: float
) -> Tensor:
    """Return the gradients of bias and weight, (2, sum of C_i), of this process's images."""
    columns = map(list, zip(*branches, strict=True))
    return ops.bn_relu_concat_sums.default(list(grads), *columns, eps)


def summed(
    gradients: Tensor, total: Tensor | float, group: ProcessGroup | None
) -> tuple[Tensor, float]:
    """Return parameter gradients added up over all processes, and what to divide them by."""
    if group is None:
        assert isinstance(total, float)
        return gradients, total
    gradients = gradients.clone()
    dist.all_reduce(gradients, group=group)
    return gradients / total, 1.0


def input_gradients(
    grads: Sequence[Tensor],
    branches: Sequence[Normalized],
    eps: float,
    sums: Sequence[Tensor],
    total: float,
    concatenate: bool,
) -> list[Tensor]:
    """Return the gradient of each branch, or of all one tensor, channels_last.

    Args:
        grads: of the normalised branches.
        branches: themselves.
        eps: that of the forward pass.
        sums: parts of what `summed` returns, (2, C_i) of each branch.
        total: the other that it returns.
        concatenate: into one tensor.
    """
    columns = map(list, zip(*branches, strict=True))
    return ops.bn_relu_concat_backward.default(
        list(grads), *columns, eps, list(sums), total, concatenate
    )


@torch.no_grad()
def update_running_statistics(
    norms: Sequence[_BatchNorm], statistics: Sequence[Tensor], total: Tensor | float
) -> None:
    """Move running statistics towards those of the batch, as PyTorch's modules do in training.

    Args:
        norms: their channels are those of the statistics, in order.
        statistics: what `statistics_of` returns, of one call or several.
        total: values per channel.
    """
    momentum: Any = norms[0].momentum
    counters = _kept([norm.num_batches_tracked for norm in norms])
    running = _kept([x for norm in norms for x in (norm.running_mean, norm.running_var)])
    if not running:
        return
    torch._foreach_add_(counters, 1)
    if momentum is None:  # the mean over all batches
        momentum = [1 / counter.to(running[0].dtype) for counter in counters for _ in range(2)]
    values = torch.cat(list(statistics), dim=1)
    values[1] *= total / (total - 1)  # unbiased
    parts = values.to(running[0].dtype).split([norm.num_features for norm in norms], dim=1)
    torch._foreach_lerp_(running, [row for part in parts for row in part], momentum)


def _kept(buffers: Sequence[Tensor | None]) -> list[Tensor]:
    """Leave out those that norms without running statistics do not keep."""
    return [buffer for buffer in buffers if buffer is not None]


class _BnReluConcat(torch.autograd.Function):
    """Result and gradients; saves the branches and two values per channel."""

    @staticmethod
    def forward(
        ctx: Any,
        statistics: Tensor,
        total: Tensor | float,
        eps: float,
        group: ProcessGroup | None,
        *tensors: Tensor,
    ) -> Tensor:
        ctx.total, ctx.eps, ctx.group = total, eps, group
        ctx.save_for_backward(statistics, *tensors)
        (y,) = normalize(_normalized(statistics, tensors), eps, concatenate=True)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        statistics, *tensors = ctx.saved_tensors
        branches = _normalized(statistics, tensors)
        widths = [branch.x.size(1) for branch in branches]
        grads = grad_y.split(widths, dim=1)
        own = parameter_gradients(grads, branches, ctx.eps)
        sums, total = summed(own, ctx.total, ctx.group)
        grad_branches = input_gradients(
            grads, branches, ctx.eps, sums.split(widths, dim=1), total, concatenate=False
        )
        grad_biases, grad_weights = (gradients.split(widths) for gradients in own)
        grad_parameters = [
            gradient.to(parameter.dtype)
            for gradient, parameter in zip(
                [*grad_weights, *grad_biases], tensors[len(branches) :], strict=True
            )
        ]
        return None, None, None, None, *grad_branches, *grad_parameters


def _normalized(statistics: Tensor, tensors: Sequence[Tensor]) -> list[Normalized]:
    """Take apart the statistics, and the branches, weights and biases in a row."""
    count = len(tensors) // 3
    branches, weights, biases = (tensors[i * count : (i + 1) * count] for i in range(3))
    parts = statistics.split([x.size(1) for x in branches], dim=1)
    return [Normalized(*each) for each in zip(branches, parts, weights, biases, strict=True)]


def _empty(like: Tensor, channels: int) -> Tensor:
    size = (like.size(0), channels, like.size(2), like.size(3))
    return torch.empty(
        size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def _fake_sums(branches: list[Tensor]) -> Tensor:
    dtype = torch.promote_types(branches[0].dtype, torch.float32)
    return branches[0].new_empty(2, sum(x.size(1) for x in branches), dtype=dtype)


def _fake_results(branches: list[Tensor], concatenate: bool) -> list[Tensor]:
    widths = [x.size(1) for x in branches]
    return [_empty(branches[0], width) for width in ([sum(widths)] if concatenate else widths)]


def _why_not_compiled(branches: Sequence[Tensor], *_: Any) -> str | None:
    if len(branches) > MAX_BRANCHES:
        return f"{len(branches)} branches; it takes up to {MAX_BRANCHES}"
    return why_not_compiled("bn_relu_concat", branches[0])


_NORMALIZED = "Tensor[] branches, Tensor[] statistics, Tensor[] weights, Tensor[] biases, float eps"
for _name, _schema, _fake in (
    ("bn_relu_concat_statistics", "(Tensor[] branches) -> Tensor", _fake_sums),
    (
        "bn_relu_concat",
        f"({_NORMALIZED}, bool concatenate) -> Tensor[]",
        lambda branches, *rest: _fake_results(branches, rest[-1]),
    ),
    (
        "bn_relu_concat_sums",
        f"(Tensor[] grads, {_NORMALIZED}) -> Tensor",
        lambda grads, branches, *_: _fake_sums(branches),
    ),
    (
        "bn_relu_concat_backward",
        f"(Tensor[] grads, {_NORMALIZED}, Tensor[] sums, float total, bool concatenate)"
        " -> Tensor[]",
        lambda grads, branches, *rest: _fake_results(branches, rest[-1]),
    ),
):
    LIBRARY.define(_name + _schema, tags=TAGS)
    torch.library.register_fake(f"googlenet_fast::{_name}", _fake, lib=LIBRARY)
register(
    "bn_relu_concat",
    {
        "cpu": {"native": _why_not_compiled, "reference": always},
        "cuda": {"cuda": _why_not_compiled, "reference": always},
    },
)
