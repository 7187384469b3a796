"""What a call of an op takes at least: arithmetic and memory traffic of its fused plan.

Each launch of the plan reads its inputs and writes its outputs once; weight gradients are fp32. In
training forward and backward are counted together.
"""

from typing import NamedTuple

from googlenet_fast.ops.trial import Call
from googlenet_fast.peaks import Peak


class Work(NamedTuple):
    """The two numbers that bound the time of a call."""

    operations: float
    """Multiplications and additions."""
    bytes: float
    """Read and written."""

    def seconds(self, peak: Peak) -> float:
        """The least time in which a GPU can do it: a roofline."""
        return max(self.operations / (peak.tflops * 1e12), self.bytes / (peak.tbps * 1e12))


def work(op: str, call: Call, batch: int) -> Work:
    """Return the work of a call.

    Args:
        op: inception, conv_bias_relu, bias_relu_pool, max_pool or local_response_norm.
        call: what `selection.call_of` gives.
        batch: images.
    """
    training, dtype, (channels, height, width), *others = call
    pixels = batch * height * width
    x = pixels * channels * dtype.itemsize
    match op:
        case "conv_bias_relu":
            weight, _, _, *stride = others
            return _convolution(weight, pixels, dtype.itemsize, training, *stride)
        case "inception":
            weights = others[:8:2]
            parts = [_convolution(w, pixels, dtype.itemsize, training) for w in weights]
            index = 2 * pixels * channels if training else 0
            return Work(sum(p.operations for p in parts), sum(p.bytes for p in parts) + index)
        case "bias_relu_pool":
            y, index = x / 4, pixels * channels / 4
            return Work(0, 2 * (x + y + index) if training else x + y)
        case "max_pool":
            index = pixels * channels
            return Work(0, 4 * x + 2 * index if training else 2 * x)
        case "local_response_norm":
            return Work(0, 5 * x if training else 2 * x)
    raise ValueError(f"no formula for {op}")


def _convolution(
    weight: tuple[int, ...], pixels: int, itemsize: int, training: bool, stride: int = 1
) -> Work:
    """Both gradients read the output's gradient and the output, which is ReLU's mask."""
    outputs, channels, height, width = weight
    numel = outputs * channels * height * width
    out_pixels = pixels / stride**2
    x, y = pixels * channels * itemsize, out_pixels * outputs * itemsize
    forward = Work(2 * out_pixels * numel, x + y + numel * itemsize)
    if not training:
        return forward
    backward = 2 * x + 4 * y + numel * (itemsize + 4)
    return Work(3 * forward.operations, forward.bytes + backward)
