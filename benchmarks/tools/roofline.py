"""Model the memory traffic of a step, in eager PyTorch and in the fused plan.

Every tensor that a launch reads or writes goes through memory once. Weights and their gradients are
divided among the images of the batch. Activations and weights are fp16, weight gradients fp32,
indices of max pools int64 in PyTorch and one byte in the fused plan.

Functions return the bytes of each launch, per image.
"""

from collections.abc import Callable

from benchmarks.network import Block, Classifier, Convolution, Normalization, Pool, Stage

HALF, SINGLE, INT64 = 2, 4, 8
"""Bytes of an element."""

Model = Callable[[Stage, bool, int], list[float]]
"""Takes a stage, whether it is in training, and the batch size."""


def eager(stage: Stage, training: bool, batch: int) -> list[float]:
    """Return the bytes of each launch if every operation is its own pass.

    In training, bias and ReLU are passes of their own; in inference the convolution adds the bias.
    """
    forward = _eager_forward(stage, training, batch)
    return forward + _eager_backward(stage, batch) if training else forward


def compulsory(stage: Stage, training: bool, batch: int) -> list[float]:
    """Return the bytes of each launch of the fused plan if each tensor is read and written once.

    The stacked 1x1 convolutions are one GEMM with bias and ReLU, branches are written into the
    block's output, pool and projection are one launch. In backward, ReLU's mask is read as one bit
    per value where a gradient is written, bias gradients are computed with those of the weights,
    and the gradient of a block's input is one GEMM added to that of the pool branch.
    """
    forward = _fused_forward(stage, training, batch)
    return forward + _fused_backward(stage, batch) if training else forward


def activation(side: int, channels: int) -> float:
    """Return the bytes of one image's activation."""
    return side**2 * channels * HALF


def _convolution(conv: Convolution, batch: int) -> float:
    return _ends(conv) + conv.weight * HALF / batch


def _ends(conv: Convolution) -> float:
    """Return the bytes of input and output."""
    return activation(conv.side_in, conv.channels) + activation(conv.side, conv.outputs)


def _pool(pool: Pool, index: int) -> float:
    """Return the bytes of input, output and an index of `index` bytes per output element."""
    ends = activation(pool.side_in, pool.channels) + activation(pool.side, pool.channels)
    return ends + pool.side**2 * pool.channels * index


def _classifier_forward(head: Classifier, batch: int) -> float:
    logits, weight = head.classes * HALF, head.channels * head.classes
    return activation(head.side_in, head.channels) + logits + weight * HALF / batch


def _classifier_backward(head: Classifier, batch: int) -> float:
    """Count both gradients as one launch that reads the logits' gradient twice."""
    logits, weight = head.classes * HALF, head.channels * head.classes
    return activation(head.side_in, head.channels) + 2 * logits + weight * (HALF + SINGLE) / batch


def _eager_forward(stage: Stage, training: bool, batch: int) -> list[float]:
    match stage:
        case Convolution():
            y = activation(stage.side, stage.outputs)
            passes = 2 if training else 1  # bias and ReLU, or ReLU alone
            return [_convolution(stage, batch)] + [2 * y] * passes
        case Pool():
            return [_pool(stage, INT64 if training else 0)]
        case Block():
            convolutions = [
                launch
                for conv in stage.convolutions().values()
                for launch in _eager_forward(conv, training, batch)
            ]
            concatenation = 2 * activation(stage.side, stage.widths.out_channels)
            return [
                *convolutions,
                _pool(_branch_pool(stage), INT64 if training else 0),
                concatenation,
            ]
        case Classifier():
            return [_classifier_forward(stage, batch)]
        case Normalization():
            raise ValueError(f"{stage.name}: eager PyTorch's passes are not modelled")


def _eager_backward(stage: Stage, batch: int) -> list[float]:
    match stage:
        case Convolution():
            y = activation(stage.side, stage.outputs)
            relu, bias = 3 * y, y
            input_gradient = _ends(stage) + stage.weight * HALF / batch
            weight_gradient = _ends(stage) + stage.weight * SINGLE / batch
            images = stage.name == "conv1"  # need no gradient
            return [relu, bias, weight_gradient] + [input_gradient] * (not images)
        case Pool():
            return [_pool(stage, INT64)]
        case Block():
            convolutions = [
                launch
                for conv in stage.convolutions().values()
                for launch in _eager_backward(conv, batch)
            ]
            additions = [3 * activation(stage.side, stage.channels)] * 3  # of four branches
            return [*convolutions, _pool(_branch_pool(stage), INT64), *additions]
        case Classifier():
            return [_classifier_backward(stage, batch)]
        case Normalization():
            raise ValueError(f"{stage.name}: eager PyTorch's passes are not modelled")


def _fused_forward(stage: Stage, training: bool, batch: int) -> list[float]:
    match stage:
        case Convolution():
            return [_convolution(stage, batch)]
        case Pool():
            return [_pool(stage, 1 if training else 0)]
        case Block():
            convs = stage.convolutions()
            index = stage.side**2 * stage.channels if training else 0
            return [
                _convolution(stage.stacked(), batch),
                _convolution(convs["c3"], batch),
                _convolution(convs["c5"], batch),
                _convolution(convs["pool_project"], batch) + index,
            ]
        case Normalization():
            return [2 * activation(stage.side, stage.channels)]
        case Classifier():
            return [_classifier_forward(stage, batch)]


def _fused_backward(stage: Stage, batch: int) -> list[float]:
    match stage:
        case Convolution():
            mask = activation(stage.side_in, stage.channels) / HALF / 8
            input_gradient = _ends(stage) + mask + stage.weight * HALF / batch
            weight_gradient = _ends(stage) + stage.weight * SINGLE / batch
            images = stage.name == "conv1"
            return [weight_gradient] + [input_gradient] * (not images)
        case Pool():
            return [_pool(stage, 1)]
        case Block():
            convs = stage.convolutions()
            launches = [_pool(_branch_pool(stage), 1)]
            for conv in (convs["c3"], convs["c5"], convs["pool_project"], stage.stacked()):
                launches += _fused_backward(conv, batch)
            launches[-1] += activation(stage.side, stage.channels)  # the pool branch's share
            return launches
        case Normalization():
            return [3 * activation(stage.side, stage.channels)]
        case Classifier():
            return [_classifier_backward(stage, batch)]


def _branch_pool(block: Block) -> Pool:
    """Return the 3x3/1 max pool of the pool branch."""
    return Pool(f"{block.name}.pool", block.channels, block.side, block.side)
