"""Time concatenation with bias and ReLU, against plain PyTorch."""

from functools import partial

import pytest
import torch

from benchmarks.branches import BLOCKS, DTYPES, Function, time_block
from googlenet_fast.ops import concat_bias_relu
from googlenet_fast.ops.concat_bias_relu import concat_bias_relu_reference

FUNCTIONS: dict[str, Function] = {
    "eager": partial(concat_bias_relu_reference, relu=True),
    "fused": concat_bias_relu,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def bench_block(block: str, dtype: torch.dtype) -> None:
    # Forward reads and writes once. Backward reads grad and y, ReLU's mask, and writes.
    passes = {"forward": 2, "both": 5}
    time_block("concat_bias_relu", block, dtype, FUNCTIONS, torch.randn, passes)
