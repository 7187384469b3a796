"""One small Inception block, forward and backward.

    python -m benchmarks.gpu_run.small_block BACKEND

A program for sanitizers. Memory is not cached, so that every tensor has bounds of its own.
"""

import os
import sys

BACKENDS = {"cuda": ("triton", "aten"), "cpu": ("triton", "native")}
"""By type of device. The concatenation and the pool of `aten` are CUDA C++."""


def main() -> None:
    """Run the block once."""
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    import torch

    from googlenet_fast.model.inception import Inception, Widths
    from googlenet_fast.model.presets import PRESETS
    from googlenet_fast.ops import use_impl

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    block = Inception(PRESETS["paper"], 32, Widths(16, 16, 24, 8, 8, 8))
    block.to(device).to(memory_format=torch.channels_last)
    x = torch.randn(2, 32, 7, 7, device=device).contiguous(memory_format=torch.channels_last)
    with use_impl(sys.argv[1]), torch.autocast(device, torch.float16, enabled=device == "cuda"):
        block(x.requires_grad_()).float().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


if __name__ == "__main__":
    main()
