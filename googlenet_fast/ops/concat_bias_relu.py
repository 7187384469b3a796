"""Concatenation of branch outputs along the channels, with bias and ReLU, in one pass."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_fast.ops import extension
from googlenet_fast.ops.autocast import autocast
from googlenet_fast.ops.dispatch import always, choose, register

MAX_BRANCHES = 4
"""Branches that the compiled kernels take."""

_DTYPES = {
    "cpu": (torch.float32, torch.float16, torch.bfloat16, torch.float64),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}


def concat_bias_relu(
    branches: Sequence[Tensor], biases: Sequence[Tensor] | None = None, relu: bool = True
) -> Tensor:
    """Return relu(concatenate(branch + bias for each branch)).

    Args:
        branches: each (N, C_i, H, W), all of one dtype: fp16, bf16, fp32 or fp64, cast under
            autocast. Fastest in channels_last, slices of channels included.
        biases: each (C_i,), of any of these dtypes, or None.
        relu: clip at zero.

    Returns:
        (N, sum of C_i, H, W) in the dtype of the branches, channels_last.

    Raises:
        ValueError: there are no branches, or not as many biases as branches.
    """
    if not branches or (biases is not None and len(biases) != len(branches)):
        raise ValueError(
            f"concat_bias_relu: {len(branches)} branches and"
            f" {len(biases or ())} biases; give one branch or more, and a bias for each or for none"
        )
    branches = [autocast(branch) for branch in branches]
    biases = [] if biases is None else list(biases)
    arguments = (branches, biases, relu)
    if choose("concat_bias_relu", branches[0].device.type, arguments) == "reference":
        return concat_bias_relu_reference(*arguments)
    return torch.ops.googlenet_fast.concat_bias_relu(*arguments)


def concat_bias_relu_reference(
    branches: Sequence[Tensor], biases: Sequence[Tensor], relu: bool
) -> Tensor:
    """Add, concatenate and clip, each on its own; no biases are an empty sequence."""
    if biases:
        branches = [
            (branch + bias.view(-1, 1, 1)).to(branch.dtype)
            for branch, bias in zip(branches, biases, strict=True)
        ]
    y = torch.cat(list(branches), dim=1)
    return (F.relu(y) if relu else y).contiguous(memory_format=torch.channels_last)


def _can_use_compiled(branches: Sequence[Tensor], *_: Any) -> str | None:
    """Say why the compiled kernel of the branches' device cannot take them, or None."""
    device_type = branches[0].device.type
    missing = extension.missing_part(device_type)
    if missing is not None:
        return missing
    if len(branches) > MAX_BRANCHES:
        return f"{len(branches)} branches; it takes up to {MAX_BRANCHES}"
    if branches[0].dtype not in _DTYPES[device_type]:
        return f"it does not take {branches[0].dtype}"
    return None


register(
    "concat_bias_relu",
    {
        "cpu": {"native": _can_use_compiled, "reference": always},
        "cuda": {"cuda": _can_use_compiled, "reference": always},
    },
)
