"""Batch normalisation in training, ReLU and concatenation of branch outputs.

Equivalent to `relu(cat([norm(x) for x, norm in zip(branches, norms)], 1))`.

Four passes over memory in place of about a dozen: statistics and result forward, the parameters'
gradients and the input's backward. The branches and two values per channel are saved; backward
recomputes from them where ReLU clipped. Between the passes processes may add up their sums
(`torch.nn.SyncBatchNorm`).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from googlenet_fast.ops.common import (
    POINTWISE_DTYPES,
    autocast,
    channels_last,
    empty_channels_last,
    native_supports,
    once_differentiable,
    sum_dtype,
)
from googlenet_fast.ops.concat_bias_relu import MAX_BRANCHES
from googlenet_fast.registry import Backend, Call, Op, Work, define


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
    weights, biases = check_norms("bn_relu_concat", branches, norms, group)
    branches = autocast(branches)
    arguments = (branches, weights, biases, norms[0].eps, group)
    y, statistics, total = BN_RELU_CONCAT.choose(*arguments).run(*arguments)
    update_running_statistics(norms, [statistics], total)
    return y


def bn_relu_concat_reference(
    branches: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    eps: float,
    group: ProcessGroup | None,
) -> tuple[Tensor, Tensor, Tensor | float]:
    """Normalise, concatenate and apply ReLU, each on its own.

    Returns:
        The result; mean and biased variance of the batch, (2, sum of C_i); values per channel.
    """
    normalized, statistics = [], []
    total: Tensor | float = 0.0
    for x, weight, bias in zip(branches, weights, biases, strict=True):
        if group is None:
            y, own, total = _batch_norm(x, weight, bias, eps)
        else:
            y, own, total = _synchronized_batch_norm(x, weight, bias, eps, group)
        normalized.append(y)
        statistics.append(own)
    y = F.relu(torch.cat(normalized, dim=1))
    return channels_last(y), torch.cat(statistics, dim=1).detach(), total


def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, float]:
    y, mean, inverse = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
    variance = (inverse.square().reciprocal() - eps).clamp_min(0)
    return y, torch.stack([mean, variance]), float(x.size(0) * x.size(2) * x.size(3))


def _synchronized_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, group: ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    values = x.to(sum_dtype(x))
    count = all_reduce(values.new_tensor(x.numel() / x.size(1)), group=group)
    mean = all_reduce(values.sum((0, 2, 3)), group=group) / count
    centered = values - mean.view(-1, 1, 1)
    variance = all_reduce(centered.square().sum((0, 2, 3)), group=group) / count
    scale = (variance + eps).rsqrt() * weight
    y = (centered * scale.view(-1, 1, 1) + bias.view(-1, 1, 1)).to(x.dtype)
    return y, torch.stack([mean, variance]), count


def check_norms(
    op: str, branches: Sequence[Tensor], norms: Sequence[_BatchNorm], group: ProcessGroup | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the norms' weights and biases.

    Raises:
        ValueError: the norms cannot be those of the branches; names the op.
    """
    if not branches or len(norms) != len(branches):
        raise ValueError(
            f"{op}: {len(branches)} branches and {len(norms)} norms; give one branch or more, and a"
            " norm for each"
        )
    first = norms[0]
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for norm, x in zip(norms, branches, strict=True):
        if not norm.training:
            raise ValueError(f"{op}: a norm is in inference mode; call its train()")
        if norm.weight is None:
            raise ValueError(f"{op}: a norm has no weight and bias; make it with affine=True")
        if (norm.eps, norm.momentum, norm.track_running_stats) != (
            *(first.eps, first.momentum, first.track_running_stats),
        ):
            raise ValueError(f"{op}: norms of several eps, momenta or kinds; give all the same")
        if group is None and x.size(0) * x.size(2) * x.size(3) < 2:
            raise ValueError(
                f"{op}: one value per channel has no variance; give more images or larger ones"
            )
        weights.append(norm.weight)
        biases.append(norm.bias)
    return weights, biases


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
    """Return mean and biased variance, (2, sum of C_i), and values per channel, over all processes.

    Processes may have different numbers of images; their statistics are merged by these weights.
    """
    statistics = _STATISTICS(list(branches))
    count = float(branches[0].size(0) * branches[0].size(2) * branches[0].size(3))
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
    """Return relu(normalised branch) of each, or one tensor of all, channels_last."""
    return _NORMALIZE(*map(list, zip(*branches, strict=True)), eps, concatenate)


def parameter_gradients(
    grads: Sequence[Tensor], branches: Sequence[Normalized], eps: float
) -> Tensor:
    """Return the gradients of bias and weight, (2, sum of C_i), of this process's images."""
    columns = map(list, zip(*branches, strict=True))
    return _SUMS(list(grads), *columns, eps)


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
    """Return the gradient of each branch, or one tensor of all, channels_last.

    Args:
        grads: of the normalised branches.
        branches: that were normalised.
        eps: that of the forward pass.
        sums: the sums that `summed` returns, (2, C_i) of each branch.
        total: the divisor that it returns.
        concatenate: into one tensor.
    """
    columns = map(list, zip(*branches, strict=True))
    return _BACKWARD(list(grads), *columns, eps, list(sums), total, concatenate)


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
    if norms[0].running_mean is None or not norms[0].track_running_stats:
        return
    counters: list[Tensor] = []
    running: list[Any] = []
    channels: list[int] = []
    for norm in norms:
        if norm.num_batches_tracked is not None:
            counters.append(norm.num_batches_tracked)
        running += (norm.running_mean, norm.running_var)
        channels.append(norm.num_features)
    torch._foreach_add_(counters, 1)
    momentum: Any = norms[0].momentum
    if momentum is None:  # the mean over all batches
        momentum = [1 / counter.to(running[0].dtype) for counter in counters for _ in range(2)]
    values = torch.cat(list(statistics), dim=1)
    values[1] *= total / (total - 1)  # unbiased
    batch: list[Tensor] = []
    for part in values.to(running[0].dtype).split(channels, dim=1):
        batch += part.unbind()
    torch._foreach_lerp_(running, batch, momentum)


def _run(
    branches: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    eps: float,
    group: ProcessGroup | None,
) -> tuple[Tensor, Tensor, Tensor | float]:
    statistics, total = statistics_of(branches, group)
    y = _BnReluConcat.apply(statistics, total, eps, group, *branches, *weights, *biases)
    return y, statistics, total


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
    return list(map(Normalized, branches, parts, weights, biases))


def _fake_sums(branches: list[Tensor]) -> Tensor:
    first = branches[0]
    return first.new_empty(2, sum(x.size(1) for x in branches), dtype=sum_dtype(first))


def _fake_results(branches: list[Tensor], concatenate: bool) -> list[Tensor]:
    channels = [x.size(1) for x in branches]
    return [
        empty_channels_last(branches[0], count)
        for count in ([sum(channels)] if concatenate else channels)
    ]


def _supports(branches: Sequence[Tensor], *_: Any) -> str | None:
    if len(branches) > MAX_BRANCHES:
        return f"{len(branches)} branches; it takes up to {MAX_BRANCHES}"
    return native_supports("bn_relu_concat", branches[0], POINTWISE_DTYPES)


def _work(call: Call) -> Work:
    """Forward reads the branches twice; backward reads them and the gradient twice."""
    training, branches, *_ = call
    x = sum(n * c * h * w * dtype.itemsize for (n, c, h, w), dtype in branches)
    return Work(0, 8 * x if training else 3 * x)


def _samples() -> Iterator[Call]:
    f32 = torch.float32
    for (n, h, w), channels in (((2, 14, 14), (112, 288, 64, 64)), ((1, 5, 3), (3, 1))):
        parameters = tuple(((c,), f32) for c in channels)
        branches = tuple(((n, c, h, w), f32) for c in channels)
        yield True, branches, parameters, parameters, 1e-3, None


_NORMALIZED = "Tensor[] branches, Tensor[] statistics, Tensor[] weights, Tensor[] biases, float eps"
_STATISTICS = define("bn_relu_concat_statistics(Tensor[] branches) -> Tensor", _fake_sums)
_NORMALIZE = define(
    f"bn_relu_concat({_NORMALIZED}, bool concatenate) -> Tensor[]",
    lambda branches, *rest: _fake_results(branches, rest[-1]),
)
_SUMS = define(
    f"bn_relu_concat_sums(Tensor[] grads, {_NORMALIZED}) -> Tensor",
    lambda grads, branches, *_: _fake_sums(branches),
)
_BACKWARD = define(
    f"bn_relu_concat_backward(Tensor[] grads, {_NORMALIZED}, Tensor[] sums, float total,"
    " bool concatenate) -> Tensor[]",
    lambda grads, branches, *rest: _fake_results(branches, rest[-1]),
)
BN_RELU_CONCAT = Op(
    "bn_relu_concat",
    bn_relu_concat_reference,
    (Backend("cuda", "cuda", _run, _supports), Backend("native", "cpu", _run, _supports)),
    samples=_samples,
    work=_work,
)
