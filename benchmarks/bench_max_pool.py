"""Time the 3x3/1 max pool of the Inception blocks, against eager PyTorch and torch.compile."""

import pytest

from benchmarks.layers import DTYPE, GPU, ON_CPU, time_layer
from benchmarks.network import Block, stages

CALLS = {
    stage.name: (True, ((1, stage.channels, stage.side, stage.side), DTYPE))
    for stage in stages()
    if isinstance(stage, Block) and (GPU or stage.name in ON_CPU)
}


@pytest.mark.parametrize("training", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("layer", CALLS)
def bench_max_pool(layer: str, training: bool) -> None:
    time_layer("max_pool", layer, CALLS[layer], training=training)
