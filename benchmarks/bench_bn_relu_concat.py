"""Time batch norm in training with ReLU and concatenation, against plain PyTorch."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.branches import BLOCKS, DTYPES, Function, time_block
from googlenet_fast.ops import bn_relu_concat


def eager(branches: list[Tensor], norms: list[nn.BatchNorm2d]) -> Tensor:
    results = [norm(x) for x, norm in zip(branches, norms, strict=True)]
    return F.relu(torch.cat(results, dim=1))


FUNCTIONS: dict[str, Function] = {"eager": eager, "fused": bn_relu_concat}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def bench_block(block: str, dtype: torch.dtype) -> None:
    # Forward reads for the statistics, reads again to normalise, and writes. Backward reads grad
    # and x for their sums, reads both again for the gradient, and writes it.
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    time_block("bn_relu_concat", block, dtype, FUNCTIONS, norm, {"both": 8})
