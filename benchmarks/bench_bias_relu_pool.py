"""Time bias, ReLU and 3x3/2 max pool at the network's layers, against eager and torch.compile."""

import pytest

from benchmarks.layers import calls, time_layer

CALLS = calls("bias_relu_pool")


@pytest.mark.parametrize("training", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("layer", CALLS)
def bench_bias_relu_pool(layer: str, training: bool) -> None:
    time_layer("bias_relu_pool", layer, CALLS[layer], training=training)
