"""The network as a list of stages with their shapes, read from the model itself.

Benchmarks and tools iterate over these stages.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.inception import Inception, Widths
from googlenet_fast.model.layers import Conv
from googlenet_fast.registry import OPS


class Convolution(NamedTuple):
    """A convolution of square inputs and outputs; a side is their height and width."""

    name: str
    channels: int
    outputs: int
    taps: int
    side_in: int
    side: int
    bias: bool = True
    relu: bool = True
    """False for `bias` and `relu` if the pool that follows does both."""

    @property
    def weight(self) -> int:
        """Elements of the weight."""
        return self.channels * self.outputs * self.taps**2


class Pool(NamedTuple):
    """A 3x3/2 max pool."""

    name: str
    channels: int
    side_in: int
    side: int
    bias: bool = False
    relu: bool = False
    """As `bias`, of the convolution before."""
    ceil_mode: bool = True


class Normalization(NamedTuple):
    """A local response normalisation."""

    name: str
    channels: int
    side: int

    @property
    def side_in(self) -> int:
        """Side of the input, the output's."""
        return self.side


class Block(NamedTuple):
    """An Inception block."""

    name: str
    channels: int
    side: int
    widths: Widths
    bias: bool = True
    reduce_relu: bool = True

    @property
    def side_in(self) -> int:
        """Side of the input, the output's."""
        return self.side

    def convolutions(self) -> dict[str, Convolution]:
        """Return the block's six convolutions, by the names of their output channels."""
        c, w = self.channels, self.widths
        shapes = {
            "c1": (c, w.c1, 1),
            "c3_reduce": (c, w.c3_reduce, 1),
            "c5_reduce": (c, w.c5_reduce, 1),
            "pool_project": (c, w.pool_project, 1),
            "c3": (w.c3_reduce, w.c3, 3),
            "c5": (w.c5_reduce, w.c5, 5),
        }
        return {
            name: Convolution(f"{self.name}.{name}", *shape, self.side, self.side)
            for name, shape in shapes.items()
        }

    def stacked(self) -> Convolution:
        """Return the stacked 1x1 convolutions that read the block's input."""
        outputs = self.widths.c1 + self.widths.c3_reduce + self.widths.c5_reduce
        return Convolution(f"{self.name}.stacked", self.channels, outputs, 1, self.side, self.side)


class Classifier(NamedTuple):
    """The global average pool and the fully connected layer."""

    name: str
    channels: int
    side_in: int
    classes: int


Stage = Convolution | Pool | Normalization | Block | Classifier


def stages(preset: str = "paper", *, lrn: bool = False) -> list[Stage]:
    """Return the stages of a preset without batch norm, at 224x224, without auxiliary heads."""
    with torch.device("meta"):
        model = GoogLeNet(preset, lrn=lrn, aux=False)
    ceil_mode = model.preset.ceil_mode
    conv1 = _convolution("conv1", model.conv1, 224, pooled=True)
    pool1 = _pool("pool1", conv1.outputs, conv1.side, ceil_mode, model.conv1)
    conv2 = _convolution("conv2", model.conv2, pool1.side)
    conv3 = _convolution("conv3", model.conv3, conv2.side, pooled=not lrn)
    pool2 = _pool("pool2", conv3.outputs, conv3.side, ceil_mode, None if lrn else model.conv3)
    lrn1 = Normalization("lrn1", conv2.channels, conv2.side)
    lrn2 = Normalization("lrn2", conv3.outputs, conv3.side)
    found: list[Stage] = [conv1, pool1, conv2, conv3, pool2]
    if lrn:
        found = [conv1, pool1, lrn1, conv2, conv3, lrn2, pool2]
    side = pool2.side
    for name, module in model.named_children():
        if isinstance(module, Inception):
            block = _block(name.removeprefix("inception"), module, side)
            if block.name in ("4a", "5a"):
                pool = _pool(f"pool{int(block.name[0]) - 1}", block.channels, side, ceil_mode, None)
                found.append(pool)
                side = pool.side
            found.append(block._replace(side=side))
    return [*found, Classifier("head", model.fc.in_features, side, model.fc.out_features)]


def aux_convolutions(preset: str = "paper") -> list[Convolution]:
    """Return the convolutions of the auxiliary heads."""
    with torch.device("meta"):
        model = GoogLeNet(preset)
    heads = {"aux1": model.aux1, "aux2": model.aux2}
    return [
        _convolution(name, head.conv, head.grid) for name, head in heads.items() if head is not None
    ]


def has_fused_op(stage: Stage) -> bool:
    """Return True if a fused op has GPU kernels: not for the 7x7/2 and the classifier."""
    return stage.name not in ("conv1", "head")


class Call(NamedTuple):
    """A call of the fused op that computes a stage."""

    op: str
    arguments: list[Any]
    """Activations first."""

    def fused(self) -> Tensor:
        """Run the op's Triton kernels."""
        backends = OPS[self.op].backends
        return next(backend for backend in backends if backend.name == "triton").run(
            *self.arguments
        )

    def reference(self) -> Tensor:
        """Run the op's reference."""
        return OPS[self.op].reference(*self.arguments)

    def run(self, *, training: bool) -> None:
        """Run the op's Triton kernels, and all gradients if `training`."""
        y = self.fused()
        if training:
            inputs = [value for value in self.arguments if isinstance(value, Tensor)]
            torch.autograd.grad(y, inputs, torch.empty_like(y))


def fused_call(
    stage: Stage,
    batch: int,
    side: int,
    dtype: torch.dtype,
    *,
    training: bool,
    make: Callable[..., Tensor] = torch.empty,
) -> Call:
    """Return the call of the fused op that computes a stage.

    Args:
        stage: one that has a fused op.
        batch: images.
        side: of the input, in pixels.
        dtype: of activations and weights; biases are fp32.
        training: tensors require gradients.
        make: returns a tensor of a shape. Memory of `torch.empty` is not used until it is touched.
    """

    def parameter(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return make(shape, dtype=dtype).requires_grad_(training)

    def weight(conv: Convolution) -> Tensor:
        return parameter(conv.outputs, conv.taps, conv.taps, conv.channels).permute(0, 3, 1, 2)

    def bias(channels: int) -> Tensor:
        return parameter(channels, dtype=torch.float32)

    x = parameter(batch, side, side, stage.channels).permute(0, 3, 1, 2)
    match stage:
        case Convolution():
            b = bias(stage.outputs) if stage.bias else None
            stride = stage.side_in // stage.side
            return Call("conv_bias_relu", [x, weight(stage), b, stage.relu, stride, []])
        case Pool():
            b = bias(stage.channels) if stage.bias else None
            return Call("bias_relu_pool", [x, b, stage.relu, stage.ceil_mode])
        case Normalization():
            return Call("local_response_norm", [x, 5, 1e-4, 0.75, 1.0])
        case Block():
            convs = stage.convolutions()
            parameters = [
                value
                for conv in (stage.stacked(), convs["c3"], convs["c5"], convs["pool_project"])
                for value in (weight(conv), bias(conv.outputs) if stage.bias else None)
            ]
            return Call("inception", [x, *parameters, stage.reduce_relu, []])
    raise ValueError(f"{stage.name} has no fused op")


def _convolution(name: str, layer: Conv, side: int, *, pooled: bool = False) -> Convolution:
    conv = layer.conv
    (taps, _), (stride, _) = conv.kernel_size, conv.stride
    side_out = -(-side // stride)
    bias, relu = conv.bias is not None and not pooled, layer.relu and not pooled
    return Convolution(name, conv.in_channels, conv.out_channels, taps, side, side_out, bias, relu)


def _pool(name: str, channels: int, side: int, ceil_mode: bool, layer: Conv | None) -> Pool:
    """Return the pool after a layer. After a convolution it does its bias and ReLU."""
    side_out = (side - 3 + ceil_mode) // 2 + 1
    bias = layer is not None and layer.conv.bias is not None
    return Pool(name, channels, side, side_out, bias, layer is not None and layer.relu, ceil_mode)


def _block(name: str, module: Inception, side: int) -> Block:
    c1, c3_reduce, c5_reduce = module.stacked
    c3, c5 = module.conv3.conv.out_channels, module.conv5.conv.out_channels
    project = module.project.conv
    widths = Widths(c1, c3_reduce, c3, c5_reduce, c5, project.out_channels)
    bias = project.bias is not None
    return Block(name, project.in_channels, side, widths, bias, module.reduce_relu)
