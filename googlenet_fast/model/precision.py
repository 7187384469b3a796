"""The dtype of mixed precision."""

import torch

from googlenet_fast.cli import Amp


def amp_dtype(amp: Amp, device: torch.device) -> torch.dtype | None:
    """Return the dtype of autocast on `device`, or None for no mixed precision."""
    if amp == "auto":
        amp = "fp16" if device.type == "cuda" else "off"
    return {"off": None, "fp16": torch.float16, "bf16": torch.bfloat16}[amp]
