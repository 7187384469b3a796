"""Autocast policy of the fused ops: activations and weights are cast, biases are not."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.amp import is_autocast_available


def autocast(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Cast to the autocast dtype where autocast is on; float64 stays, as in PyTorch's own ops."""
    device_type = tensors[0].device.type
    if not is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device_type)
    return [x if x.dtype == torch.float64 else x.to(dtype) for x in tensors]


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Context for work on `x` that must keep its dtype."""
    device_type = x.device.type
    if not is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
