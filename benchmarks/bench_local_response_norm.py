"""Time local response norm at the network's layers, against eager PyTorch and torch.compile."""

import pytest

from benchmarks.layers import calls, time_layer

CALLS = calls("local_response_norm")


@pytest.mark.parametrize("training", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("layer", CALLS)
def bench_local_response_norm(layer: str, training: bool) -> None:
    time_layer("local_response_norm", layer, CALLS[layer], training=training)
