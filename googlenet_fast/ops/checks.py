"""Checks of what registered ops are given that are computed by Triton kernels.

Exported graphs call these ops without the public functions' checks, and a kernel reads wherever
sizes say. The extension's ops have the same checks in csrc/bindings.h.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from googlenet_fast.ops.common import HALF_AND_SINGLE

FLOATS = (*HALF_AND_SINGLE, torch.float64)
"""What weights and biases may be; kernels cast them."""

MOST = 2**31
"""Kernels number pixels and channels in 32 bits."""

Size = int | None
"""Of a dimension; None: any."""


class Check:
    """Refuses arguments of an op; errors name the op and the argument.

    Args:
        op: its name.
        x: the activations, whose device all tensors share.
    """

    def __init__(self, op: str, x: Tensor) -> None:
        self._op, self._x = op, x

    def that(self, holds: bool, name: str, must: str) -> None:
        """Raise RuntimeError unless the argument is as it must be, "be positive"."""
        if not holds:
            raise RuntimeError(f"{self._op}: {name} must {must}")

    def tensor(
        self, name: str, t: Tensor, sizes: Sequence[Size], dtypes: Sequence[torch.dtype] = FLOATS
    ) -> None:
        """Check device, dtype and sizes of a tensor."""
        self.that(t.device == self._x.device, name, "be on the device of the activations")
        known = " or ".join(map(str, dtypes))
        self.that(t.dtype in dtypes, name, f"be of {known}, not {t.dtype}")
        fits = len(sizes) == t.dim() and all(
            wanted is None or wanted == size for wanted, size in zip(sizes, t.shape, strict=True)
        )
        wanted = ", ".join("any" if size is None else str(size) for size in sizes)
        self.that(fits, name, f"be ({wanted}), not {tuple(t.shape)}")

    def image(self, name: str) -> None:
        """Check the activations themselves."""
        x = self._x
        self.tensor(name, x, (None, None, None, None), HALF_AND_SINGLE)
        self.that(0 < x.size(1) < MOST, name, "have 1 to 2^31 - 1 channels")
        self.that(x.numel() // x.size(1) < MOST, name, "have fewer than 2^31 pixels")

    def same_pixels(self, name: str, t: Tensor, channels: int) -> None:
        """Check activations or a gradient of the same images and dtype."""
        n, _, height, width = self._x.shape
        self.tensor(name, t, (n, channels, height, width), (self._x.dtype,))

    def filter(self, name: str, w: Tensor, channels: Size, taps: Size = None) -> None:
        """Check a weight, (outputs, channels, T, T) with odd T."""
        self.tensor(name, w, (None, channels, taps, taps))
        self.that(w.size(2) == w.size(3) and w.size(2) % 2 == 1, name, "be square and odd")
        self.that(w.numel() > 0, name, "have values")

    def index(self, name: str, index: Tensor, size: Sequence[int]) -> Tensor:
        """Check the index of a pool's maxima; return it dense, as kernels read it."""
        self.tensor(name, index, size, (torch.uint8,))
        return index.contiguous(memory_format=torch.channels_last)

    def bias(self, name: str, bias: Tensor | None, outputs: int) -> None:
        """Check a bias, if there is one."""
        if bias is not None:
            self.tensor(name, bias, (outputs,))
