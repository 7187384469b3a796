"""What a plain module pays in inference on a CPU for being right after any write to its weights.

It digests all weights in every call; the frozen network, the baseline, has copies of its own.
"""

from functools import partial

import pytest
import torch

from benchmarks.harness import interleave, remarks
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.frozen import freeze


@pytest.mark.parametrize("batch", [1, 16])
def bench_packed_weights(batch: int) -> None:
    model = GoogLeNet("paper", aux=False).eval()
    frozen = freeze(model)
    x = torch.randn(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        runs = {"frozen": partial(frozen, x), "module": partial(model, x)}
        title = f"check of weights, batch {batch}, {torch.get_num_threads()} threads"
        measured = interleave(title, runs, repeats=60 if batch == 1 else 30)
    share = 1 / measured["module"].ratio - 1
    remarks.append(f"{title}: the check costs {share:.1%} of a call")
