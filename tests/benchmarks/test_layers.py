"""Output of the benchmarks of single ops."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import layers
from googlenet_fast import extension
from googlenet_fast.selfcheck.roofline import Peak

MILLISECOND = 1e-3


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU it times by the GPU's clock")
@pytest.mark.skipif(extension.missing_part("cpu") is not None, reason="no CPU part")
def test_each_backend_is_printed_with_its_share_of_the_roofline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def clock(run: Callable[[], Any]) -> float:
        run()
        return MILLISECOND

    monkeypatch.setattr(layers, "COMPILE_MODES", ())
    monkeypatch.setattr(layers, "host_seconds", clock)
    monkeypatch.setattr(layers, "measured_peak", lambda: Peak(tflops=1e-3, tbps=1e-3))
    x, weight = ((1, 16, 5, 5), torch.float32), ((8, 16, 1, 1), torch.float32)
    call = (False, x, weight, None, False, 1, ())
    layers.time_layer("conv_bias_relu", "head", call, training=False)
    printed = capsys.readouterr().out
    operations = layers.BATCH * 2 * 5 * 5 * 16 * 8
    share = operations / 1e9 / MILLISECOND
    for name in ("eager", "native"):
        (line,) = (line for line in printed.splitlines() if line.startswith(f"    {name}: "))
        assert f"{share:.0%} of the roofline" in line
