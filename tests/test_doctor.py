import json
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from googlenet_fast import doctor
from googlenet_fast.diagnosis import checks, interpreter, speed
from googlenet_fast.diagnosis.checks import CASES, Case, Result
from googlenet_fast.diagnosis.interpreter import check_in_interpreter
from googlenet_fast.ops import dispatch, extension
from tests.helpers import run_python


@pytest.mark.slow
def test_this_machine_is_healthy() -> None:
    child = run_python("-m", "googlenet_fast.doctor", "--json")
    assert child.returncode == 0, child.stdout + child.stderr
    report = json.loads(child.stdout)
    assert report["versions"]["torch"].startswith(torch.__version__)
    assert "threads" in report["devices"]["cpu"]
    checked = [result for result in report["ops"] if result["errors"]]
    assert "aten" in {result["implementation"] for result in checked}
    for result in checked:
        assert 0 < result["errors"]["float32"] < (0.1 if result["device"] == "cuda" else 1e-4)
    if not torch.cuda.is_available() and find_spec("triton"):
        interpreted = [r for r in checked if r["device"] == "interpreter"]
        assert {r["op"] for r in interpreted} == CASES.keys() - {
            *("concat_bias_relu", "bn_relu_concat", "max_pool", "strided_conv_bias_relu")
        }
        assert all(set(r["errors"]) == {"float32", "float16"} for r in interpreted)
    taken = [result["op"] for result in report["ops"] if result["auto"]]
    assert len(taken) == len(set(taken)) * (1 + torch.cuda.is_available())


def test_every_op_has_a_case() -> None:
    assert set(CASES) == set(dispatch._registry)


def test_missing_parts_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(extension, "UNAVAILABLE", "the compiled extension is absent")
    monkeypatch.setattr(sys, "argv", ["doctor"])
    monkeypatch.setattr(doctor, "check_in_interpreter", list)
    doctor.main()
    lines = capsys.readouterr().out.splitlines()
    native = {line.split()[0]: line for line in lines if "native" in line}
    assert "concat_bias_relu" in native
    for line in native.values():
        assert " ".join(line.split()).endswith(
            "cpu native not available: the compiled extension is absent"
        )
    assert any("cpu part" in line and "absent" in line for line in lines)


def wrong(x: Tensor) -> Tensor:
    return x * 2.01


def undefined(x: Tensor) -> Tensor:
    return x * float("nan")


def failing(x: Tensor) -> Tensor:
    raise RuntimeError("no kernel image")


@pytest.mark.parametrize(
    ("native", "message"),
    [(wrong, "relative error 5.0e-03"), (undefined, "nan"), (failing, "no kernel image")],
)
def test_a_wrong_implementation_fails_the_check(
    native: Callable[[Tensor], Tensor],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    implementations = {"native": dispatch.always, "reference": dispatch.always}
    monkeypatch.setattr(dispatch, "_registry", {"double": {"cpu": implementations}})

    def double(x: Tensor) -> Tensor:
        return native(x) if dispatch.choose("double", "cpu", (x,)) == "native" else x * 2

    case = Case(double, ((2, 3, 4, 4),), tuple)
    monkeypatch.setattr(checks, "CASES", {"double": case})
    monkeypatch.setattr(doctor, "check_in_interpreter", list)
    monkeypatch.setattr(sys, "argv", ["doctor"])
    with pytest.raises(SystemExit) as exit_:
        doctor.main()
    assert exit_.value.code == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert message in line


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("raise RuntimeError('no LLVM')", "status 1: RuntimeError: no LLVM"),
        ("import os; os.abort()", "status -6: no output"),
        ("print('[3]')", "status 0: no output"),
    ],
)
def test_an_interpreter_that_fails_is_a_failed_check(
    script: str, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter.triton_support, "INSTALLED", True)
    (result,) = check_in_interpreter((sys.executable, "-c", script))
    assert (result.device, result.failure) == ("interpreter", failure)


def test_without_triton_there_is_nothing_to_interpret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter.triton_support, "INSTALLED", False)
    (result,) = check_in_interpreter(("false",))
    assert (result.reason, result.failure) == ("triton is not installed", None)


@pytest.mark.parametrize(
    ("result", "reported"),
    [
        (
            Result("all kernels", "interpreter", "triton", "not installed", False, {}, None),
            "not in",
        ),
        (Result("all kernels", "interpreter", "triton", None, False, {}, "status -6"), "status -6"),
    ],
)
def test_kernels_that_did_not_run_are_not_reported_as_checked(
    result: Result,
    reported: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "check_all", list)
    monkeypatch.setattr(doctor, "check_in_interpreter", lambda: [result])
    monkeypatch.setattr(sys, "argv", ["doctor"])
    if result.failure is None:
        doctor.main()
    else:
        with pytest.raises(SystemExit):
            doctor.main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("no GPU")
    assert reported in last
    assert "were checked" not in last


def test_skipped_backends_are_reported() -> None:
    result = Result("op", "cuda", "triton", None, False, {"float32": 1e-7}, None, "it is wrong")
    assert "auto passes it over: it is wrong" in doctor.line(result)


LAYER = ("conv_bias_relu", (True, torch.float32, (16, 5, 5), (24, 16, 3, 3), (24,), True))


def fixed_medians(runs: Mapping[str, Callable[[], Any]], device: str) -> dict[str, float]:
    for run in runs.values():
        assert len(run()) == 4  # the output and three gradients
    return dict.fromkeys(runs, 1e-3)


@pytest.mark.parametrize(("name", "known"), [("NVIDIA A100-SXM4-80GB", True), ("Abacus", False)])
def test_layers_are_checked_and_timed(name: str, known: bool) -> None:
    found = speed.measure_all("cpu", name, [LAYER], batch=2, medians=fixed_medians)
    names = [s.implementation for s in found]
    assert {"aten", "reference"} <= set(names)
    assert [s.auto for s in found] == [True] + [False] * (len(found) - 1)
    operations = 3 * 2 * (2 * 25) * 16 * 24 * 9
    for s in found:
        assert s.work.operations == operations
        assert s.failure is None
        text = speed.line(s)
        assert f"{operations / 1e-3 / 1e12:.1f} TFLOP/s" in text
        assert "16x5x5, 24 of 3x3" in text
        assert ("of the roofline" if known else "limits unknown") in text
        if known:
            bound = max(operations / 312e12, s.work.bytes / 2.039e12)
            assert s.share == pytest.approx(bound / 1e-3)


def test_a_wrong_layer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        speed,
        "deviation",
        lambda op, name, *rest: (0.5, "relative error 5.0e-01") if name == "aten" else (1e-7, None),
    )
    found = {
        s.implementation: s
        for s in speed.measure_all("cpu", "A100", [LAYER], batch=1, medians=fixed_medians)
    }
    assert found["aten"].seconds is None
    assert speed.line(found["aten"]).endswith("FAILED: relative error 5.0e-01")
    assert found["reference"].seconds == 1e-3


def test_a_batch_too_large_for_the_memory_is_halved() -> None:
    def small_memory(runs: Mapping[str, Callable[[], Any]], device: str) -> dict[str, float]:
        for run in runs.values():
            if run()[0].size(0) > 2:
                raise torch.OutOfMemoryError("out of memory")
        return fixed_medians(runs, device)

    found = speed.measure_all("cpu", "A100", [LAYER], batch=8, medians=small_memory)
    for s in found:
        assert (s.batch, s.seconds) == (2, 1e-3)
        assert s.work == speed.work(*LAYER, 2)
        assert "; 2 images" in speed.line(s)


def test_a_layer_that_fails_at_full_size_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = speed.Trial.run

    def failing_run(trial: speed.Trial, name: str) -> list[Tensor]:
        if name == "aten" and trial.arguments[0].size(0) > 2:
            raise RuntimeError("no kernel image")
        return run(trial, name)

    monkeypatch.setattr(speed.Trial, "run", failing_run)
    found = {
        s.implementation: s
        for s in speed.measure_all("cpu", "A100", [LAYER], batch=4, medians=fixed_medians)
    }
    assert found["aten"].failure == "RuntimeError: no kernel image"
    assert found["aten"].seconds is None
    assert found["reference"].seconds == 1e-3


def test_all_layers_of_the_network_are_timed() -> None:
    layers = speed.training_layers()
    ops = [op for op, _ in layers]
    assert {op: ops.count(op) for op in ops} == {
        "bias_relu_pool": 4,
        "local_response_norm": 2,
        "conv_bias_relu": 4,
        "inception": 9,
    }
    for op, call in layers:
        assert call[:2] == (True, torch.float16)
        assert speed.work(op, call, 32).bytes > speed.work(op, (False, *call[1:]), 32).bytes
