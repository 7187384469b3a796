"""Where the compiled kernels can run."""

import torch
from torch import Tensor

from googlenet_fast import extension

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""What the kernels for GPUs take."""

CPU_DTYPES = {
    "concat_bias_relu": (*FLOATS, torch.float64),
    "bn_relu_concat": (*FLOATS, torch.float64),
}
"""What the kernels for CPUs take, where it is not fp32 and bf16 (to compute in fp32)."""


def why_not_compiled(op: str, x: Tensor) -> str | None:
    """Say why the extension's kernel of an op cannot take activations like `x`, or None."""
    device_type = x.device.type
    missing = extension.missing_part(device_type)
    if missing is not None:
        return missing
    if not _has_kernel(op, device_type):
        return "the compiled extension has no kernel of it for this device"
    on_gpu = device_type == "cuda" or extension.BUILD_INFO.get("emulates") == "cuda"
    if x.dtype not in (FLOATS if on_gpu else CPU_DTYPES.get(op, (torch.float32, torch.bfloat16))):
        return f"it does not take {x.dtype}"
    return None


@torch._dynamo.assume_constant_result
def _has_kernel(op: str, device_type: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        f"googlenet_fast::{op}", device_type.upper()
    )
