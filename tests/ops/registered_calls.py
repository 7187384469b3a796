"""Calls of every registered op with native kernels, and what they should return.

A call is made of arguments that fit together, of any size and layout, and may then be spoilt.
References compute in fp64 with PyTorch alone. Each states what its op promises for the tensors that
it is given: a backward op has its masks from the saved outputs, its maxima from the index.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import EllipsisType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

Arguments = dict[str, Any]
"""An op's arguments by name, in their order."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CLIPPED = 9
"""Index of a window of which no pixel gets a gradient."""


class Maker:
    """Draws sizes, and makes random tensors of any layout."""

    def __init__(self, draw: Callable[..., Any], dtypes: Sequence[torch.dtype]) -> None:
        self.draw = draw
        self.dtype = draw(st.sampled_from(dtypes))
        torch.manual_seed(draw(st.integers(0, 99)))

    def choose(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def images(self, least: int = 0) -> tuple[int, int, int]:
        """Number, height and width of images."""
        number = self.choose(1, 2, 0)
        height, width = (self.choose(*range(least, least + 9), 14) for _ in range(2))
        return number, height, width

    def channels(self) -> int:
        return self.choose(1, 3, 8, 17, 34, 0)

    def activation(self, images: tuple[int, int, int], channels: int) -> Tensor:
        number, height, width = images
        return self.arrange(torch.randn(number, channels, height, width).to(self.dtype))

    def weight(self, outputs: int, channels: int, taps: int) -> Tensor:
        scale = max(1, channels * taps**2) ** -0.5
        w = scale * torch.randn(outputs, channels, taps, taps)
        return self.arrange(w.to(self.choose(torch.float32, torch.bfloat16)))

    def bias(self, channels: int) -> Tensor:
        return self.arrange(torch.randn(channels).to(self.choose(*FLOATS)))

    def maybe(self, make: Callable[[], Tensor]) -> Tensor | None:
        return make() if self.flag() else None

    def arrange(self, x: Tensor) -> Tensor:
        """Give it another layout, or values that are the same along a dimension."""
        if x.dim() == 0:
            return x
        layout = self.choose("dense", "channels_last", "slice", "permuted", "expanded")
        if layout == "channels_last" and x.dim() == 4:
            return x.contiguous(memory_format=torch.channels_last)
        if layout == "slice":
            return inside_wider(x)
        if layout == "permuted":
            order = tuple(reversed(range(x.dim())))
            return x.permute(order).contiguous().permute(order)
        if layout == "expanded" and x.numel():
            dim = self.choose(*range(x.dim()))
            return x.narrow(dim, 0, 1).expand_as(x)
        return x


def inside_wider(x: Tensor) -> Tensor:
    """The same values as a slice of the second dimension, whose neighbours in memory are NaN."""
    if x.dim() == 1:
        wide = torch.full((len(x), 3), float("nan")).to(x.dtype)
        wide[:, 1] = x
        return wide[:, 1]
    last = x.movedim(1, -1)
    shape = (*last.shape[:-1], last.size(-1) + 3)
    wide = torch.full(shape, float("nan")).to(x.dtype)
    view = wide[..., 2:-1].movedim(-1, 1)
    return view.copy_(x)


# Pools


def windows(x: Tensor, size: tuple[int, int], stride: int, padding: int) -> list[Tensor]:
    """The nine pixels of each window, -inf beyond the image."""
    padded = F.pad(x, (padding, 3, padding, 3), value=-math.inf)
    return [padded[at] for at in places(size, stride)]


def places(size: tuple[int, int], stride: int) -> list[tuple[EllipsisType, slice, slice]]:
    """Where in a padded image the nine pixels of all windows are."""
    height, width = size
    return [
        (..., slice(i, i + stride * height, stride), slice(j, j + stride * width, stride))
        for i in range(3)
        for j in range(3)
    ]


def pool(x: Tensor, size: tuple[int, int], stride: int, padding: int) -> tuple[Tensor, Tensor]:
    """The maxima and which of the nine pixels they are, the first of equal ones."""
    best = x.new_full((*x.shape[:2], *size), -math.inf)
    index = torch.zeros(best.shape, dtype=torch.uint8)
    for code, value in enumerate(windows(x, size, stride, padding)):
        index[value > best] = code
        best = torch.maximum(best, value)
    return best, index


def unpool(grad: Tensor, index: Tensor, size: tuple[int, int], stride: int, padding: int) -> Tensor:
    """Add each gradient to the pixel that the index names, if that is in the image."""
    height, width = size
    padded = grad.new_zeros(*grad.shape[:2], height + padding + 3, width + padding + 3)
    for code, at in enumerate(places((grad.size(2), grad.size(3)), stride)):
        padded[at] += torch.where(index == code, grad, 0)
    return padded[..., padding : padding + height, padding : padding + width]


def max_pool(x: Tensor) -> list[Tensor]:
    return list(pool(x, (x.size(2), x.size(3)), 1, 1))


def make_max_pool(make: Maker) -> Arguments:
    return {"x": make.activation(make.images(), make.channels())}


def make_max_pool_backward(make: Maker) -> Arguments:
    images, channels = make.images(), make.channels()
    _, index = max_pool(make.activation(images, channels).double())
    return {
        "grad_y": make.activation(images, channels),
        "index": make.arrange(index),
        "add_to": make.maybe(lambda: make.activation(images, channels)),
    }


def max_pool_backward(grad_y: Tensor, index: Tensor, add_to: Tensor | None) -> list[Tensor]:
    grad_x = unpool(grad_y, index, (grad_y.size(2), grad_y.size(3)), 1, 1)
    return [grad_x if add_to is None else grad_x + add_to]


def halved(height: int, width: int, ceil_mode: bool) -> tuple[int, int]:
    return (height // 2, width // 2) if ceil_mode else ((height - 1) // 2, (width - 1) // 2)


def make_bias_relu_pool(make: Maker) -> Arguments:
    ceil_mode = make.flag()
    x = make.activation(make.images(2 if ceil_mode else 3), make.channels())
    bias = make.maybe(lambda: make.bias(x.size(1)))
    return {"x": x, "bias": bias, "relu": make.flag(), "ceil_mode": ceil_mode}


def bias_relu_pool(x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool) -> list[Tensor]:
    y, index = pool(x, halved(x.size(2), x.size(3), ceil_mode), 2, 0)
    y = y if bias is None else y + bias.view(-1, 1, 1)
    if relu:
        index[y <= 0] = CLIPPED
    return [y.relu() if relu else y, index]


def make_bias_relu_pool_backward(make: Maker) -> Arguments:
    given = make_bias_relu_pool(make)
    x = given["x"]
    y, index = bias_relu_pool(*in_double(given).values())
    grad_y = make.activation((x.size(0), y.size(2), y.size(3)), x.size(1))
    height, width = x.shape[2:]
    index = make.arrange(index)
    return {"grad_y": grad_y, "index": index, "height": height, "width": width, "bias": make.flag()}


def bias_relu_pool_backward(
    grad_y: Tensor, index: Tensor, height: int, width: int, bias: bool
) -> list[Tensor | None]:
    grad_x = unpool(grad_y, index, (height, width), 2, 0)
    pixels = unpool(torch.ones_like(grad_y), index, (height, width), 2, 0).sum()
    if bias and pixels + (index == CLIPPED).sum() != index.numel():
        return [grad_x, None]  # it is not said what an index of no pixel adds to a bias
    return [grad_x, grad_x.sum((0, 2, 3)) if bias else grad_x.new_empty(0)]


# Passes over memory


def make_branches(make: Maker) -> list[Tensor]:
    images = make.images()
    return [make.activation(images, make.channels()) for _ in range(make.choose(1, 2, 3, 4))]


def make_concat_bias_relu(make: Maker) -> Arguments:
    branches = make_branches(make)
    biases = [make.bias(x.size(1)) for x in branches] if make.flag() else []
    return {"branches": branches, "biases": biases, "relu": make.flag()}


def concat_bias_relu(branches: list[Tensor], biases: list[Tensor], relu: bool) -> list[Tensor]:
    if biases:
        branches = [x + b.view(-1, 1, 1) for x, b in zip(branches, biases, strict=True)]
    y = torch.cat(branches, dim=1)
    return [y.relu() if relu else y]


def make_concat_bias_relu_backward(make: Maker) -> Arguments:
    images = make.images()
    channels = [make.channels() for _ in range(make.choose(1, 2, 3, 4))]
    grad_y = make.activation(images, sum(channels))
    y = make.maybe(lambda: make.arrange(make.activation(images, sum(channels)).relu()))
    return {"grad_y": grad_y, "y": y, "channels": channels, "bias": make.flag()}


def concat_bias_relu_backward(
    grad_y: Tensor, y: Tensor | None, channels: list[int], bias: bool
) -> list[Tensor]:
    grad = masked(grad_y, y)
    return [*grad.split(channels, 1), grad.sum((0, 2, 3)) if bias else grad.new_empty(0)]


def masked(grad: Tensor, y: Tensor | None) -> Tensor:
    return grad if y is None else torch.where(y <= 0, 0, grad)


def bias_relu(branches: list[Tensor], biases: list[Tensor], relu: bool) -> list[Tensor]:
    (y,) = concat_bias_relu(branches, biases, relu)
    return list(y.split([x.size(1) for x in branches], 1))


def make_bias_relu_backward(make: Maker) -> Arguments:
    grads = make_branches(make)
    clipped = grads[: make.choose(*range(len(grads) + 1))]
    outputs = [make.arrange(torch.randn_like(grad).relu()) for grad in clipped]
    return {"grads": grads, "outputs": outputs, "bias": make.flag(), "concatenate": make.flag()}


def bias_relu_backward(
    grads: list[Tensor], outputs: list[Tensor], bias: bool, concatenate: bool
) -> list[Tensor]:
    count = len(outputs)
    grads = [*map(masked, grads[:count], outputs), *grads[count:]]
    sums = torch.cat([grad.sum((0, 2, 3)) for grad in grads])
    return [*joined(grads, concatenate), sums if bias else sums.new_empty(0)]


def make_local_response_norm(make: Maker) -> Arguments:
    x = make.activation(make.images(), make.channels())
    parameters = {"alpha": make.choose(1e-4, 0.5), "beta": make.choose(0.75, 0.6), "k": 1.5}
    return {"x": x, "size": 5, **parameters}


def local_response_norm(x: Tensor, size: int, alpha: float, beta: float, k: float) -> list[Tensor]:
    squares = F.pad(x.square(), (0, 0, 0, 0, size // 2, (size - 1) // 2))
    total = sum((squares[:, i : i + x.size(1)] for i in range(size)), torch.zeros_like(x))
    return [x * (k + alpha / size * total) ** -beta]


def make_local_response_norm_backward(make: Maker) -> Arguments:
    given = make_local_response_norm(make)
    return {"grad_y": make.arrange(torch.randn_like(given["x"])), **given}


def local_response_norm_backward(grad_y: Tensor, x: Tensor, *parameters: Any) -> list[Tensor]:
    return gradients(lambda x: local_response_norm(x, *parameters)[0], [x], grad_y)


def gradients(
    function: Callable[..., Tensor], leaves: Sequence[Tensor], grad_y: Tensor
) -> list[Tensor]:
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    return list(torch.autograd.grad(function(*leaves), leaves, grad_y))


def make_statistics(make: Maker) -> Arguments:
    return {"branches": make_branches(make)}


def bn_statistics(branches: list[Tensor]) -> list[Tensor]:
    x = torch.cat(branches, 1)
    if x.numel() == 0:
        return [x.new_zeros(2, x.size(1))]
    return [torch.stack([x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)])]


def make_normalized(make: Maker) -> Arguments:
    branches = make_branches(make)
    dtype = torch.promote_types(make.dtype, torch.float32)
    widths = [x.size(1) for x in branches]
    statistics = [torch.rand(2, c).add(0.5).to(dtype) for c in widths]
    return {
        "branches": branches,
        "statistics": [make.arrange(pair) for pair in statistics],
        "weights": [make.bias(c) for c in widths],
        "biases": [make.bias(c) for c in widths],
        "eps": 1e-3,
    }


def make_bn(make: Maker) -> Arguments:
    return {**make_normalized(make), "concatenate": make.flag()}


def centered(x: Tensor, statistics: Tensor, eps: float) -> Tensor:
    mean, variance = statistics.view(2, -1, 1, 1)
    return (x - mean) / (variance + eps).sqrt()


def bn_branches(*columns: list[Tensor], eps: float) -> list[Tensor]:
    return [
        (centered(x, pair, eps) * w.view(-1, 1, 1) + b.view(-1, 1, 1)).relu()
        for x, pair, w, b in zip(*columns, strict=True)
    ]


def joined(results: list[Tensor], concatenate: bool) -> list[Tensor]:
    return [torch.cat(results, 1)] if concatenate else results


def bn(*arguments: Any) -> list[Tensor]:
    *columns, eps, concatenate = arguments
    return joined(bn_branches(*columns, eps=eps), concatenate)


def make_bn_sums(make: Maker) -> Arguments:
    given = make_normalized(make)
    return {"grads": [make.arrange(torch.randn_like(x)) for x in given["branches"]], **given}


def bn_sums(grads: list[Tensor], *arguments: Any) -> list[Tensor]:
    """The gradients of biases and weights."""
    *columns, eps = arguments
    branches, statistics, *_ = columns
    pairs = []
    for grad, x, pair, y in zip(
        grads, branches, statistics, bn_branches(*columns, eps=eps), strict=True
    ):
        grad = masked(grad, y)
        pairs.append(
            torch.stack([part.sum((0, 2, 3)) for part in (grad, grad * centered(x, pair, eps))])
        )
    return [torch.cat(pairs, 1)]


def make_bn_backward(make: Maker) -> Arguments:
    given = make_bn_sums(make)
    statistics = given["statistics"]
    rows = given["branches"][0][:, :1].numel()
    sums = [make.arrange(torch.randn_like(pair)) for pair in statistics]
    total = make.choose(1.0, float(max(1, rows)), float(rows + 3))
    return {**given, "sums": sums, "total": total, "concatenate": make.flag()}


def bn_backward(grads: list[Tensor], *arguments: Any) -> list[Tensor]:
    """The formula of the gradient through the batch's statistics, for given sums."""
    *columns, eps, sums, total, concatenate = arguments
    branches, statistics, weights, _ = columns
    results = []
    for grad, x, pair, w, own, y in zip(
        *(grads, branches, statistics, weights, sums, bn_branches(*columns, eps=eps)), strict=True
    ):
        grad_bias, grad_weight = own.view(2, -1, 1, 1) / total
        slope = w.view(-1, 1, 1) / (pair[1].view(-1, 1, 1) + eps).sqrt()
        results.append(slope * (masked(grad, y) - grad_bias - centered(x, pair, eps) * grad_weight))
    return joined(results, concatenate)


def make_bn_relu_pool(make: Maker) -> Arguments:
    given = make_bias_relu_pool(make)
    x = given["x"]
    dtype = torch.promote_types(make.dtype, torch.float32)
    statistics = make.arrange(torch.rand(2, x.size(1)).add(0.5).to(dtype))
    return {
        "x": x,
        "statistics": statistics,
        "weight": make.bias(x.size(1)),
        "bias": make.bias(x.size(1)),
        "eps": 1e-3,
        "ceil_mode": given["ceil_mode"],
    }


def bn_relu_pool(
    x: Tensor, statistics: Tensor, weight: Tensor, bias: Tensor, eps: float, ceil_mode: bool
) -> list[Tensor | None]:
    """Rounding decides between nearly equal values, so the index is not said."""
    y = centered(x, statistics, eps) * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)
    return [pool(y, halved(x.size(2), x.size(3), ceil_mode), 2, 0)[0].relu(), None]


def make_bn_relu_pool_sums(make: Maker) -> Arguments:
    given = make_bn_relu_pool(make)
    x = given["x"]
    y, index = bias_relu_pool(x.double(), None, True, given["ceil_mode"])
    grad_y = make.activation((x.size(0), y.size(2), y.size(3)), x.size(1))
    return {
        "grad_y": grad_y,
        "index": make.arrange(index),
        "x": x,
        "statistics": given["statistics"],
        "eps": 1e-3,
    }


def bn_relu_pool_sums(
    grad_y: Tensor, index: Tensor, x: Tensor, statistics: Tensor, eps: float
) -> list[Tensor]:
    grad = unpool(grad_y, index, (x.size(2), x.size(3)), 2, 0)
    parts = (grad, grad * centered(x, statistics, eps))
    return [torch.stack([part.sum((0, 2, 3)) for part in parts])]


def make_bn_relu_pool_backward(make: Maker) -> Arguments:
    given = make_bn_relu_pool_sums(make)
    eps, x = given.pop("eps"), given["x"]
    sums = make.arrange(torch.randn_like(given["statistics"]))
    total = make.choose(1.0, float(x[:, :1].numel() + 3))
    return {**given, "weight": make.bias(x.size(1)), "eps": eps, "sums": sums, "total": total}


def bn_relu_pool_backward(
    grad_y: Tensor,
    index: Tensor,
    x: Tensor,
    statistics: Tensor,
    weight: Tensor,
    eps: float,
    sums: Tensor,
    total: float,
) -> list[Tensor]:
    grad = unpool(grad_y, index, (x.size(2), x.size(3)), 2, 0)
    grad_bias, grad_weight = sums.view(2, -1, 1, 1) / total
    slope = weight.view(-1, 1, 1) / (statistics[1].view(-1, 1, 1) + eps).sqrt()
    return [slope * (grad - grad_bias - centered(x, statistics, eps) * grad_weight)]


# Convolutions


def conv(x: Tensor, w: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """ "Same" padded, of any sizes."""
    height, width = (-(-side // stride) for side in x.shape[2:])
    if 0 in (*x.shape, *w.shape):
        y = x.new_zeros(x.size(0), w.size(0), height, width)
        return y if bias is None else y + bias.view(-1, 1, 1)
    return F.conv2d(x, w, bias, stride, w.size(2) // 2)


def conv_gradients(grad: Tensor, x: Tensor, w: Tensor, stride: int = 1) -> list[Tensor]:
    if 0 in (*x.shape, *w.shape):
        return [torch.zeros_like(x), torch.zeros_like(w)]
    return gradients(partial(conv, stride=stride), [x, w], grad)


def make_conv(make: Maker) -> Arguments:
    taps, stride = make.choose((1, 1), (3, 1), (5, 1), (7, 2))
    x = make.activation(make.images(), make.channels())
    weight = make.weight(make.channels(), x.size(1), taps)
    bias = make.maybe(lambda: make.bias(weight.size(0)))
    packed = pack([weight], x) if make.flag() else []
    return {
        "x": x,
        "weight": weight,
        "bias": bias,
        "relu": make.flag(),
        "stride": stride,
        "packed": packed,
    }


def pack(weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    size = x.shape[2:]
    return [torch.ops.googlenet_fast.pack_weight(weight, *size) for weight in weights]


def conv_bias_relu(
    x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, stride: int, packed: list[Tensor]
) -> list[Tensor]:
    y = conv(x, weight, bias, stride)
    return [y.relu() if relu else y]


def make_conv_backward(make: Maker) -> Arguments:
    given = make_conv(make)
    x, weight, stride = given["x"], given["weight"], given["stride"]
    height, width = (-(-side // stride) for side in x.shape[2:])
    images = x.size(0), height, width
    y = make.maybe(lambda: make.arrange(make.activation(images, weight.size(0)).relu()))
    grad_y = make.activation(images, weight.size(0))
    needs = {"need_x": make.flag(), "need_parameters": make.flag()}
    return {"grad_y": grad_y, "x": x, "y": y, "weight": weight, "stride": stride, **needs}


def conv_backward(
    grad_y: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    stride: int,
    need_x: bool,
    need_parameters: bool,
) -> list[Tensor]:
    grad = masked(grad_y, y)
    grad_x, grad_w = conv_gradients(grad, x, weight, stride)
    parameters = in_a_row([(grad_w, grad.sum((0, 2, 3)))])
    return [kept(grad_x, need_x), kept(parameters, need_parameters)]


def in_a_row(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Gradients of weights, as (K, T, T, C), and biases, end to end."""
    rows = [(w.permute(0, 2, 3, 1).reshape(-1), bias) for w, bias in pairs]
    return torch.cat([part for row in rows for part in row])


def kept(x: Tensor, needed: bool) -> Tensor:
    return x if needed else x.new_empty(0)


def make_pack_weight(make: Maker) -> Arguments:
    weight = make.weight(make.channels(), make.channels(), make.choose(1, 3, 5, 7))
    return {"weight": weight, "height": make.choose(*range(20)), "width": make.choose(*range(20))}


def pack_weight(weight: Tensor, height: int, width: int) -> Callable[[Tensor], None]:
    """What such weights are good for."""

    def check(packed: Tensor) -> None:
        if height * width > 400:
            return
        stride = 2 if weight.size(2) == 7 else 1
        x = torch.randn(1, weight.size(1), height, width)
        y = torch.ops.googlenet_fast.conv_bias_relu(
            x, weight.float(), None, False, stride, [packed]
        )
        compare(y, conv(x.double(), weight, None, stride))

    return check


WEIGHTS, BIASES = ("w_in", "w3", "w5", "wp"), ("b_in", "b3", "b5", "bp")


def make_inception_training(make: Maker) -> Arguments:
    x = make.activation(make.images(), make.channels())
    c3_reduce, c5_reduce = make.channels(), make.channels()
    weights = (
        make.weight(make.choose(1, 3, 18) + c3_reduce + c5_reduce, x.size(1), 1),
        make.weight(make.channels(), c3_reduce, make.choose(3, 5)),
        make.weight(make.channels(), c5_reduce, make.choose(5, 3)),
        make.weight(make.choose(1, 8, 20), x.size(1), 1),
    )
    given: Arguments = {"x": x}
    with_bias = make.flag()
    for w_name, w, b_name in zip(WEIGHTS, weights, BIASES, strict=True):
        given |= {w_name: w, b_name: make.bias(w.size(0)) if with_bias else None}
    return {**given, "reduce_relu": make.flag()}


def make_inception(make: Maker) -> Arguments:
    given = make_inception_training(make)
    packed = []
    if make.flag():
        w_in, w3, w5, wp = (given[name] for name in WEIGHTS)
        c1 = w_in.size(0) - w3.size(1) - w5.size(1)
        packed = pack([w_in[:c1], w_in[c1:], w3, w5, wp], given["x"])
    return {**given, "packed": packed}


def inception_training(x: Tensor, *arguments: Any) -> list[Tensor]:
    """Output, reductions and index of the pool."""
    (w_in, b_in, w3, b3, w5, b5, wp, bp), reduce_relu = arguments[:8], arguments[8]
    c1 = w_in.size(0) - w3.size(1) - w5.size(1)
    y1, r = conv(x, w_in, b_in).tensor_split([c1], 1)
    r = r.relu() if reduce_relu else r
    r3, r5 = r.tensor_split([w3.size(1)], 1)
    pooled, index = max_pool(x)
    branches = [y1, conv(r3, w3, b3), conv(r5, w5, b5), conv(pooled, wp, bp)]
    return [torch.cat(branches, 1).relu(), r, index]


def make_inception_backward(make: Maker) -> Arguments:
    given = make_inception_training(make)
    x = given["x"]
    y, r, index = inception_training(*in_double(given).values())
    grad_y = make.arrange(torch.randn(y.shape).to(x.dtype))
    saved = {"r": make.arrange(r.to(x.dtype)), "y": make.arrange(y.to(x.dtype))}
    weights = {name: given[name] for name in WEIGHTS}
    needs = {"need_x": make.flag(), "need_parameters": make.flag()}
    return {
        "grad_y": grad_y,
        "x": x,
        **saved,
        "index": make.arrange(index),
        **weights,
        "reduce_relu": given["reduce_relu"],
        **needs,
    }


def inception_backward(
    grad_y: Tensor,
    x: Tensor,
    r: Tensor,
    y: Tensor,
    index: Tensor,
    *arguments: Any,
) -> list[Tensor]:
    w_in, w3, w5, wp, reduce_relu, need_x, need_parameters = arguments
    c1 = w_in.size(0) - w3.size(1) - w5.size(1)
    widths = [c1, w3.size(0), w5.size(0), wp.size(0)]
    g1, g3, g5, gp = masked(grad_y, y).split(widths, 1)
    r3, r5 = r.tensor_split([w3.size(1)], 1)
    grad_r3, grad_w3 = conv_gradients(g3, r3, w3)
    grad_r5, grad_w5 = conv_gradients(g5, r5, w5)
    grad_r = masked(torch.cat([grad_r3, grad_r5], 1), r if reduce_relu else None)
    grad_in = torch.cat([g1, grad_r], 1)
    grad_x, grad_w_in = conv_gradients(grad_in, x, w_in)
    grad_pooled, grad_wp = conv_gradients(gp, max_pool(x)[0], wp)
    size = x.size(2), x.size(3)
    grads = [(grad_w_in, grad_in), (grad_w3, g3), (grad_w5, g5), (grad_wp, gp)]
    parameters = in_a_row([(w, g.sum((0, 2, 3))) for w, g in grads])
    return [
        kept(grad_x + unpool(grad_pooled, index, size, 1, 1), need_x),
        kept(parameters, need_parameters),
    ]


# The digest

ANY_DTYPE = (*FLOATS, torch.uint8, torch.int64, torch.bool, torch.complex64)


def make_fingerprint(make: Maker) -> Arguments:
    tensors = [
        make.arrange(torch.randn(make.draw(st.lists(st.integers(0, 5), max_size=4))))
        for _ in range(make.choose(1, 2, 3))
    ]
    return {"tensors": [x.to(make.choose(*ANY_DTYPE)) for x in tensors]}


def fingerprint(tensors: list[Tensor]) -> int:
    """Of tensors of less than 64 KiB, whose bytes are in the order of memory."""
    state, hashes = 0, []
    for x in tensors:
        dense = x if is_dense(x) else x.contiguous()
        data = dense.as_strided((x.numel(),), (1,)).view(torch.uint8).numpy().tobytes()
        state = mix(state, len(data))
        hashes += [hash_of(data)] if data else []
    for value in hashes:
        state = mix(state, value)
    state = mix(state, len(tensors))
    return state - (state >> 63 << 64)


def is_dense(x: Tensor) -> bool:
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    return x.permute(order).is_contiguous()


def hash_of(data: bytes) -> int:
    lanes = np.full(64, 0x9E3779B9, np.uint32)
    blocks, rest = divmod(len(data), 256)
    body, tail = data[: 256 * blocks], data[256 * blocks :]
    # Four streams; a line of 64 bytes of each makes a row.
    rows = np.frombuffer(body, "<u4").reshape(4, blocks, 16).swapaxes(0, 1).reshape(blocks, 64)
    if rest:
        last = np.frombuffer(tail + bytes(256 - rest), "<u4")
        rows = np.concatenate([rows, last[None]])
    for row in rows:
        lanes ^= row
        lanes ^= lanes >> np.uint32(16)
        lanes *= np.uint32(0x85EBCA6B)
    state = 0
    for value in lanes.view("<u8"):
        state = mix(state, int(value))
    return state


def mix(state: int, value: int) -> int:
    state ^= value
    state ^= state >> 32
    return state * 0x9E3779B97F4A7C15 % 2**64


# Gradient descent


def make_sgd_step(make: Maker) -> Arguments:
    half = make.choose(torch.float16, torch.bfloat16)
    shapes = [
        make.choose((3, 2, 3, 3), (7,), (4, 5), (0, 2), (1,)) for _ in range(make.choose(1, 3))
    ]
    parameters = [dense(make, torch.randn(shape)) for shape in shapes]

    def like(dtype: torch.dtype, none: bool = False) -> list[Tensor]:
        return [
            torch.empty(0, dtype=dtype) if none and make.flag() else torch.randn_like(p).to(dtype)
            for p in parameters
        ]

    def maybe(tensors: list[Tensor]) -> list[Tensor]:
        return tensors if make.flag() else []

    momentum = make.choose(0.0, 0.9)
    averages = maybe(like(torch.float32))
    return {
        "parameters": parameters,
        "gradients": like(make.choose(half, torch.float32), none=True),
        "momenta": like(torch.float32) if momentum else [],
        "copies": maybe(like(half, none=True)),
        "averages": averages,
        "lr": [torch.rand(()) for _ in shapes],
        "weight_decay": [make.choose(0.0, 0.1) for _ in shapes],
        "momentum": momentum,
        "nesterov": make.flag(),
        "grad_scale": make.maybe(lambda: torch.tensor(4.0)),
        "found_inf": make.maybe(lambda: torch.tensor(make.choose(0.0, 1.0))),
        "average_weight": torch.tensor(0.3) if averages else None,
    }


def dense(make: Maker, x: Tensor) -> Tensor:
    """Give it another layout without gaps."""
    order = tuple(reversed(range(x.dim())))
    return x.permute(order).contiguous().permute(order) if make.flag() else x


def sgd_step(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    copies: list[Tensor],
    averages: list[Tensor],
    lr: list[Tensor],
    weight_decay: list[float],
    momentum: float,
    nesterov: bool,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    average_weight: Tensor | None,
) -> list[Tensor]:
    """All tensors after the step."""
    skip = found_inf is not None and found_inf.item() != 0
    for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        if gradient.numel() and not skip:
            g = gradient / (1 if grad_scale is None else grad_scale.reshape(()))
            g = g + weight_decay[i] * parameter
            if momenta:
                momenta[i].mul_(momentum).add_(g)
                g = g + momentum * momenta[i] if nesterov else momenta[i].clone()
            parameter -= lr[i].reshape(()) * g
            if copies and copies[i].numel():
                copies[i].copy_(parameter)
        if averages and average_weight is not None:
            averages[i].lerp_(parameter, average_weight.reshape(()))
    return [*parameters, *momenta, *copies, *averages]


def make_find_nonfinite(make: Maker) -> Arguments:
    dtype = make.choose(torch.float16, torch.bfloat16, torch.float32)
    gradients = [
        dense(make, torch.randn(make.choose((5, 2, 3), (9,), (0,)))).to(dtype)
        for _ in range(make.choose(0, 1, 2))
    ]
    if gradients and gradients[0].numel() and make.flag():
        gradients[0][(0,) * gradients[0].dim()] = make.choose(math.inf, math.nan)
    return {"gradients": gradients, "found": torch.tensor(make.choose(0.0, math.nan))}


def find_nonfinite(gradients: list[Tensor], found: Tensor) -> list[Tensor]:
    bad = any(not gradient.isfinite().all() for gradient in gradients)
    return [torch.full_like(found, float(bad))]


# All of them


@dataclass(frozen=True)
class Op:
    """How an op's arguments are made, and its reference."""

    make: Callable[[Maker], Arguments]
    reference: Callable[..., Any]
    any_dtype: bool = False
    """Its kernel for CPUs takes all floats, not just fp32 and bf16."""
    exact: bool = False
    """The reference takes the arguments as they are, not in fp64."""
    written: tuple[str, ...] = ()
    """Arguments that it writes, which the reference returns."""

    def expected(self, given: Arguments) -> Any:
        return self.reference(*(given if self.exact else in_double(given)).values())


OPS = {
    "max_pool": Op(make_max_pool, lambda x: max_pool(x)[:1]),
    "max_pool_training": Op(make_max_pool, max_pool),
    "max_pool_backward": Op(make_max_pool_backward, max_pool_backward),
    "bias_relu_pool": Op(make_bias_relu_pool, lambda *given: bias_relu_pool(*given)[:1]),
    "bias_relu_pool_training": Op(make_bias_relu_pool, bias_relu_pool),
    "bias_relu_pool_backward": Op(make_bias_relu_pool_backward, bias_relu_pool_backward),
    "concat_bias_relu": Op(make_concat_bias_relu, concat_bias_relu, True),
    "concat_bias_relu_backward": Op(
        make_concat_bias_relu_backward, concat_bias_relu_backward, True
    ),
    "bias_relu": Op(make_concat_bias_relu, bias_relu, True),
    "bias_relu_backward": Op(make_bias_relu_backward, bias_relu_backward, True),
    "local_response_norm": Op(make_local_response_norm, local_response_norm),
    "local_response_norm_backward": Op(
        make_local_response_norm_backward, local_response_norm_backward
    ),
    "bn_relu_concat_statistics": Op(make_statistics, bn_statistics, True),
    "bn_relu_concat": Op(make_bn, bn, True),
    "bn_relu_concat_sums": Op(make_bn_sums, bn_sums, True),
    "bn_relu_concat_backward": Op(make_bn_backward, bn_backward, True),
    "bn_relu_pool": Op(make_bn_relu_pool, bn_relu_pool, True),
    "bn_relu_pool_sums": Op(make_bn_relu_pool_sums, bn_relu_pool_sums, True),
    "bn_relu_pool_backward": Op(make_bn_relu_pool_backward, bn_relu_pool_backward, True),
    "conv_bias_relu": Op(make_conv, conv_bias_relu),
    "conv_bias_relu_backward": Op(make_conv_backward, conv_backward),
    "pack_weight": Op(make_pack_weight, pack_weight),
    "inception": Op(make_inception, lambda *given: inception_training(*given[:10])[:1]),
    "inception_training": Op(make_inception_training, inception_training),
    "inception_backward": Op(make_inception_backward, inception_backward),
    "fingerprint": Op(make_fingerprint, fingerprint, exact=True),
    "sgd_step": Op(
        make_sgd_step, sgd_step, written=("parameters", "momenta", "copies", "averages")
    ),
    "find_nonfinite": Op(make_find_nonfinite, find_nonfinite, written=("found",)),
}


def in_double(given: Arguments) -> Arguments:
    """The arguments of the reference."""

    def double(value: Any) -> Any:
        if isinstance(value, list):
            return [double(item) for item in value]
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    return {name: double(value) for name, value in given.items()}


TOLERANCES = {
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
    torch.float32: 2e-4,
    torch.float64: 1e-9,
}
"""Of errors, relative to the largest value or to 1."""


def compare(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    if expected.dtype == torch.uint8:
        assert torch.equal(actual, expected)
    elif expected.numel():
        scale = max(1.0, expected.abs().max().item())
        assert (actual.double() - expected).abs().max().item() <= TOLERANCES[actual.dtype] * scale


# Arguments that do not fit


def spoil(make: Maker, given: Arguments) -> Arguments:
    """Change one argument: it may no longer fit the others, or be of no use at all."""
    name = make.choose(*given)
    return {**given, name: changed(make, given[name], name)}


def changed(make: Maker, value: Any, name: str) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return make.choose(
            *(0, -1, 1, 2, 3, 5, 7, value + 1, value - 1),
            *(2**31, 2**32 + value, 2**62, 2**63 - 1, -(2**63)),
        )
    if isinstance(value, float):
        return make.choose(0.0, -1.0, math.nan, 2 * value) if name == "total" else value
    if isinstance(value, list):
        how = make.choose("one", "shorter", "longer", "empty")
        if how == "empty" or not value:
            return [] if value else [3 if name == "channels" else torch.randn(3)]
        *rest, last = value
        longer = [*value, last]
        return {"one": [*rest, changed(make, last, name)], "shorter": rest, "longer": longer}[how]
    return changed_tensor(make, torch.randn(3) if value is None else value)


def changed_tensor(make: Maker, x: Tensor) -> Tensor:
    if x.numel() > 2**20:
        return x  # it was made huge
    how = make.choose("dtype", "rank", "no values", "size", "huge", "contents")
    if how == "dtype":
        return x.to(make.choose(*ANY_DTYPE))
    if how == "rank":
        return x.unsqueeze(make.choose(0, -1))
    if how == "no values":
        return x.unsqueeze(-1)[..., :0]
    if how == "contents" and x.dtype == torch.uint8 and x.numel():
        arbitrary = torch.randint(256, x.shape).to(torch.uint8)
        arbitrary.view(-1)[0] = 255
        return arbitrary
    if x.dim() == 0:
        return x
    shape, dim = list(x.shape), make.choose(*range(x.dim()))
    if how == "huge":
        shape = [min(size, 3) for size in shape]
        shape[dim] = 2**50
        return x.new_zeros(1).expand(shape)
    shape[dim] = make.choose(0, 1, shape[dim] + 1, max(0, shape[dim] - 1))
    return torch.ones(shape).to(x.dtype)
