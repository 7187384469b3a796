"""Time the Inception block at the network's sizes, against eager PyTorch and torch.compile."""

import pytest

from benchmarks.layers import calls, time_layer

CALLS = calls("inception")


@pytest.mark.parametrize("training", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("layer", CALLS)
def bench_inception(layer: str, training: bool) -> None:
    time_layer("inception", layer, CALLS[layer], training=training)
