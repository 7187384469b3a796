"""Benchmarks of single ops."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import harness, layers
from googlenet_fast import extension
from googlenet_fast.selfcheck.roofline import Peak

MILLISECOND = 1e-3


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU it times by the GPU's clock")
@pytest.mark.skipif(extension.missing_part("cpu") is not None, reason="no CPU part")
def test_each_backend_is_measured_with_its_share_of_the_roofline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def clock(run: Callable[[], Any]) -> float:
        run()
        return MILLISECOND

    monkeypatch.setattr(harness, "quick", True)
    monkeypatch.setattr(harness, "measurements", [])
    monkeypatch.setattr(layers, "host_seconds", clock)
    monkeypatch.setattr(layers, "measured_peak", lambda: Peak(tflops=1e-3, tbps=1e-3))
    x, weight = ((1, 16, 5, 5), torch.float32), ((8, 16, 1, 1), torch.float32)
    call = (False, x, weight, None, False, 1, ())
    layers.time_layer("conv_bias_relu", "head", call, training=False)
    operations = layers.BATCH * 2 * 5 * 5 * 16 * 8
    share = operations / 1e9 / MILLISECOND
    rates = {m.provider: m.rate for m in harness.measurements}
    assert {"eager", "native"} <= rates.keys()
    for rate in rates.values():
        assert f"{share:.0%} of the roofline" in rate
