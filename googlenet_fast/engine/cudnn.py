"""cuDNN's own search for the fastest algorithm of each convolution."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cudnn_benchmark(device: torch.device) -> Iterator[None]:
    """Have cuDNN time its algorithms for each new shape on a GPU, inside a `with` block.

    What was set before stays: nothing changes where `torch.backends.cudnn.benchmark` is on, or
    where `torch.backends.cudnn.deterministic` or `torch.use_deterministic_algorithms` asks for the
    same algorithm in every run.

    Args:
        device: where the block computes; without effect on a CPU.
    """
    cudnn = torch.backends.cudnn
    if (
        device.type != "cuda"
        or cudnn.benchmark
        or cudnn.deterministic
        or torch.are_deterministic_algorithms_enabled()
    ):
        yield
        return
    cudnn.benchmark = True
    try:
        yield
    finally:
        cudnn.benchmark = False
