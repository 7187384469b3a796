from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from googlenet_fast.registry import OPS, Backend, Call
from googlenet_fast.selfcheck import layers
from googlenet_fast.selfcheck.accuracy import Comparison
from googlenet_fast.selfcheck.cases import OpCall
from googlenet_fast.selfcheck.layers import COLUMNS, describe, measure_all, row

F32 = torch.float32


def layer(batch: int) -> tuple[str, Call]:
    x, weight = ((batch, 16, 5, 5), F32), ((24, 16, 3, 3), F32)
    return "conv_bias_relu", (True, x, weight, ((24,), F32), True, 1, ())


def fixed_medians(runs: Mapping[str, Callable[[], Any]], device: str) -> dict[str, float]:
    for run in runs.values():
        assert len(run()) == 4  # the output and three gradients
    return dict.fromkeys(runs, 1e-3)


@pytest.mark.parametrize(("name", "known"), [("NVIDIA A100-SXM4-80GB", True), ("Abacus", False)])
def test_layers_are_checked_and_timed(name: str, known: bool) -> None:
    found = measure_all("cpu", name, [layer(2)], fixed_medians)
    assert {"aten", "reference"} <= {time.backend for time in found}
    assert [time.auto for time in found] == [True] + [False] * (len(found) - 1)
    operations = 3 * 2 * (2 * 25) * 16 * 24 * 9
    for time in found:
        assert time.work.operations == operations
        assert time.failure is None
        shown = dict(zip(COLUMNS, row(time), strict=True))
        assert shown["TFLOP/s"] == f"{operations / 1e-3 / 1e12:.1f}"
        assert shown["layer"] == "16x5x5, 24 of 3x3"
        assert shown["of roofline"] == (f"{time.share:.0%}" if known else "unknown")
        if known:
            bound = max(operations / 312e12, time.work.bytes / 2.039e12)
            assert time.share == pytest.approx(bound / 1e-3)


def test_a_wrong_layer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def aten_is_wrong(op: Any, backend: Backend, *rest: Any) -> Comparison:
        wrong = backend.name == "aten"
        return Comparison(0.5, "relative error 5.0e-01") if wrong else Comparison(1e-7, None)

    monkeypatch.setattr(layers, "check", aten_is_wrong)
    found = {t.backend: t for t in measure_all("cpu", "A100", [layer(1)], fixed_medians)}
    assert found["aten"].seconds is None
    assert row(found["aten"])[-1] == "FAILED: relative error 5.0e-01"
    assert len(row(found["aten"])) == len(COLUMNS)
    assert found["reference"].seconds == 1e-3


@pytest.mark.slow
def test_a_batch_too_large_for_the_memory_is_halved() -> None:
    def small_memory(runs: Mapping[str, Callable[[], Any]], device: str) -> dict[str, float]:
        for run in runs.values():
            if run()[0].size(0) > 2:
                raise torch.OutOfMemoryError("out of memory")
        return fixed_medians(runs, device)

    op, call = layer(2)
    for time in measure_all("cpu", "A100", [layer(8)], small_memory):
        assert (time.batch, time.seconds) == (2, 1e-3)
        assert time.work == OPS[op].work(call)
        assert row(time)[-1] == "2 images"


def test_a_layer_that_fails_at_full_size_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = OpCall.run

    def failing_run(op_call: OpCall, backend: Backend) -> list[Tensor]:
        if backend.name == "aten" and op_call.arguments[0].size(0) > 2:
            raise RuntimeError("no kernel image")
        return run(op_call, backend)

    monkeypatch.setattr(OpCall, "run", failing_run)
    found = {t.backend: t for t in measure_all("cpu", "A100", [layer(4)], fixed_medians)}
    assert found["aten"].failure == "RuntimeError: no kernel image"
    assert found["aten"].seconds is None
    assert found["reference"].seconds == 1e-3


def test_layers_are_named_by_input_and_filters() -> None:
    assert describe(next(iter(OPS["max_pool"].samples()))) == "64x14x14"
    inception = next(iter(OPS["inception"].samples()))
    assert describe(inception) == ("192x14x14, 176 of 1x1+128 of 3x3+32 of 5x5+32 of 1x1")
