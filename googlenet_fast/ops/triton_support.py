"""Where the Triton kernels can run."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

INSTALLED = find_spec("triton") is not None
"""Whether there is a Triton; CPU builds of torch come without."""

INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
"""Whether Triton runs kernels in its interpreter, on CPU tensors; it reads this variable itself."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def why_not_triton(x: Tensor) -> str | None:
    """Say why Triton kernels cannot take activations like `x`, (N, C, H, W), or None."""
    if not INSTALLED:
        return "triton is not installed"
    if x.dtype not in DTYPES:
        return f"it does not take {x.dtype}"
    if x.device.type == "cpu" and not INTERPRETED:
        return "it runs on GPUs (and, with TRITON_INTERPRET=1, in Triton's interpreter)"
    if x.size(0) * x.size(2) * x.size(3) >= 2**31:
        return "2^31 pixels or more"
    return None
