"""Measure the peak rates of this CPU with PyTorch's current number of threads."""

from functools import cache

import torch

from benchmarks.harness import host_seconds
from googlenet_fast.selfcheck.roofline import Peak

SIDE, COPIED, REPEATS = 1024, 2**26, 50
"""Rows of the square matrices, floats copied, and runs, of which the fastest counts."""


@cache
def measured_peak() -> Peak:
    """Return the rates of an fp32 GEMM and of a copy larger than the caches."""
    a, b = torch.randn(2, SIDE, SIDE)
    x = torch.ones(COPIED)
    y = torch.empty_like(x)
    product = min(host_seconds(lambda: torch.mm(a, b)) for _ in range(REPEATS))
    copy = min(host_seconds(lambda: y.copy_(x)) for _ in range(REPEATS))
    return Peak(2 * SIDE**3 / product / 1e12, 2 * x.nbytes / copy / 1e12)
