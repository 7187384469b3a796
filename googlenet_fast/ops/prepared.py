"""Weights of convolutions as the compiled kernels for CPUs multiply by them.

A kernel rearranges its weights, or transforms them for Winograd's convolution, in every call; in
inference, where they stay, that can be done once.
"""

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from googlenet_fast.ops import extension
from googlenet_fast.ops.library import LIBRARY, TAGS


def prepare_weight(weight: Tensor, height: int, width: int) -> Tensor:
    """Return a row of values for `conv_bias_relu` and `inception`, of this machine alone.

    Args:
        weight: (K, C, T, T), on a CPU; T is 1, 3, 5 or 7.
        height: of the images that are multiplied by it, and of others with the same `tile_points`.
        width: of them.
    """
    return torch.ops.googlenet_fast.pack_weight.default(weight, height, width)


@lru_cache(maxsize=1024)
def tile_points(channels: int, taps: int, height: int, width: int) -> int:
    """Return the points of a tile of Winograd's convolution of such images, 0 of other filters."""
    function = ctypes.CDLL(str(extension.PATH)).googlenet_fast_tile_points
    function.argtypes, function.restype = [ctypes.c_int64] * 4, ctypes.c_int64
    return function(height, width, taps, channels)


def _fake(weight: Tensor, height: int, width: int) -> Tensor:
    """Describe a row whose length the instruction set decides."""
    size = torch.library.get_ctx().new_dynamic_size()
    return weight.new_empty(size, dtype=torch.float32)


LIBRARY.define("pack_weight(Tensor weight, int height, int width) -> Tensor", tags=TAGS)
torch.library.register_fake("googlenet_fast::pack_weight", _fake, lib=LIBRARY)
LIBRARY.define("fingerprint(Tensor[] tensors) -> int")
