"""Weights of convolutions as the compiled kernels for CPUs multiply by them.

A kernel rearranges its weights, or transforms them for Winograd's convolution, in every call; in
inference, where they stay, that can be done once.
"""

import torch
from torch import Tensor

from googlenet_fast.ops.library import LIBRARY, TAGS


def prepare_weight(weight: Tensor) -> Tensor:
    """Return a row of values for `conv_bias_relu` and `inception`, of this machine alone.

    Args:
        weight: (K, C, T, T), on a CPU; T is 1, 3, 5 or 7.
    """
    return torch.ops.googlenet_fast.prepare_weight.default(weight)


def _fake(weight: Tensor) -> Tensor:
    """Describe a row whose length the instruction set decides."""
    size = torch.library.get_ctx().new_dynamic_size()
    return weight.new_empty(size, dtype=torch.float32)


LIBRARY.define("prepare_weight(Tensor weight) -> Tensor", tags=TAGS)
torch.library.register_fake("googlenet_fast::prepare_weight", _fake, lib=LIBRARY)
