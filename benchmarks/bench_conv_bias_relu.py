"""Time convolution, bias and ReLU at the network's layers, against eager and torch.compile."""

import pytest

from benchmarks.layers import calls, time_layer

CALLS = calls("conv_bias_relu")


@pytest.mark.parametrize("training", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("layer", CALLS)
def bench_conv_bias_relu(layer: str, training: bool) -> None:
    time_layer("conv_bias_relu", layer, CALLS[layer], training=training)
