"""How kernels see activations: a matrix with a row of channels for each pixel."""

from torch import Tensor


def pixel_stride(x: Tensor) -> int | None:
    """Elements from one pixel's row of channels to the next, or None if they do not lie so.

    Serves channels_last tensors (N, C, H, W) and slices of their channels: pixels follow one
    another at one stride, channels of a pixel at stride 1.
    """
    n, c, h, w = x.shape
    if c > 1 and x.stride(1) != 1:
        return None
    pixels = 1
    stride = None
    for size, step in ((w, x.stride(3)), (h, x.stride(2)), (n, x.stride(0))):
        if size == 1:
            continue
        if stride is None:
            if step % pixels:
                return None
            stride = step // pixels
        if step != stride * pixels:
            return None
        pixels *= size
    return c if stride is None else stride


def row_stride(x: Tensor) -> int:
    """`pixel_stride` of a tensor that must have one."""
    stride = pixel_stride(x)
    assert stride is not None, f"strides {x.stride()} of {tuple(x.shape)}"
    return stride
