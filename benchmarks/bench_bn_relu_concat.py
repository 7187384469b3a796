"""Time batch norm in training with ReLU and concatenation, against plain PyTorch."""

from functools import partial

import pytest
import torch
from torch import nn

from benchmarks.branches import BLOCKS, DTYPES, Function, time_block
from googlenet_fast.ops import bn_relu_concat
from googlenet_fast.ops.bn_relu_concat import bn_relu_concat_reference

FUNCTIONS: dict[str, Function] = {"eager": bn_relu_concat_reference, "fused": bn_relu_concat}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def bench_block(block: str, dtype: torch.dtype) -> None:
    # Forward reads for the statistics, reads again to normalise, and writes. Backward reads grad
    # and x for their sums, reads both again for the gradient, and writes it.
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    time_block("bn_relu_concat", block, dtype, FUNCTIONS, norm, {"both": 8})
