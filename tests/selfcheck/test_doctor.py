import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from googlenet_fast import doctor, extension
from googlenet_fast.engine import machine_report
from googlenet_fast.registry import OPS, Backend, Op
from googlenet_fast.selfcheck import interpreter, layers
from googlenet_fast.selfcheck.accuracy import Result
from googlenet_fast.selfcheck.interpreter import check_in_interpreter
from tests.helpers import run_python


@pytest.mark.slow
def test_this_machine_is_healthy() -> None:
    child = run_python("-m", "googlenet_fast.doctor", "--json")
    assert child.returncode == 0, child.stdout + child.stderr
    report = json.loads(child.stdout)
    assert report["versions"]["torch"].startswith(torch.__version__)
    assert "threads" in report["devices"]["cpu"]
    assert "GB or an image per thread" in report["decoding"]["memory"]
    checked = [result for result in report["ops"] if result["errors"]]
    assert "aten" in {result["backend"] for result in checked}
    for result in checked:
        assert 0 < result["errors"]["float32"] < (0.1 if result["device"] == "cuda" else 1e-4)
    if not torch.cuda.is_available() and find_spec("triton"):
        interpreted = [r for r in checked if r["device"] == "interpreter"]
        assert {r["op"] for r in interpreted} == {
            name for name, op in OPS.items() if "triton" in {b.name for b in op.on("cpu")}
        }
        assert all(set(r["errors"]) == {"float32", "float16"} for r in interpreted)
    taken = [result["op"] for result in report["ops"] if result["auto"]]
    assert len(taken) == len(set(taken)) * (1 + torch.cuda.is_available())


def test_no_op_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is listed with every backend, and those of this CPU are checked."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine_report, "check_in_interpreter", list)
    monkeypatch.setattr(sys, "argv", ["doctor"])
    doctor.main()
    found = [line.replace("*", "").split() for line in capsys.readouterr().out.splitlines()]
    for op in OPS.values():
        for device in ("cpu", "cuda"):
            for backend in op.on(device):
                if (device, backend.name) != ("cpu", "triton"):
                    (line,) = (ln for ln in found if ln[:3] == [op.name, device, backend.name])
                    missing = backend.name == "native" and extension.missing_part("cpu")
                    checked = device == "cpu" and not missing
                    assert line[3:5] == (["ok,", "relative"] if checked else ["not", "available:"])


def test_it_says_by_what_backends_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = []

    def compared(device: str) -> list[str]:
        flags.append(torch.backends.cudnn.benchmark)
        return ["training: ours 2.00 ms"] if device == "cuda:1" else []

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert machine_report.describe_choice() == {
        "ops": "no GPU: in the order in which backends are listed"
    }
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(machine_report, "measured", lambda device: [{}, {}])
    monkeypatch.setattr(machine_report, "describe_known", compared)
    found = machine_report.describe_choice()
    assert found["cuda:0 cudnn"] == "benchmark on"
    assert found["cuda:0 ops"].startswith("2 calls measured here")
    assert found["cuda:0 whole steps"] == "none compared yet: long runs do"
    assert found["cuda:1 whole steps"] == "training: ours 2.00 ms"
    assert flags == [True, True]


def test_missing_parts_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(extension, "UNAVAILABLE", "the compiled extension is absent")
    monkeypatch.setattr(sys, "argv", ["doctor"])
    monkeypatch.setattr(machine_report, "check_in_interpreter", list)
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
def test_a_wrong_backend_fails_the_check(
    native: Callable[[Tensor], Tensor],
    message: str,
    make_op: Callable[..., Op],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    make_op(Backend("native", "cpu", native))
    monkeypatch.setattr(machine_report, "check_in_interpreter", list)
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
    monkeypatch.setattr(interpreter, "find_spec", lambda name: True)
    (result,) = check_in_interpreter((sys.executable, "-c", script))
    assert (result.device, result.failure) == ("interpreter", failure)


def test_without_triton_there_is_nothing_to_interpret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "find_spec", lambda name: None)
    (result,) = check_in_interpreter(("false",))
    assert (result.reason, result.failure) == ("triton is not installed", None)


@pytest.mark.parametrize(
    ("result", "reported"),
    [
        (
            Result("all kernels", "interpreter", "triton", "not installed"),
            "not in",
        ),
        (Result("all kernels", "interpreter", "triton", failure="status -6"), "status -6"),
    ],
)
def test_kernels_that_did_not_run_are_not_reported_as_checked(
    result: Result,
    reported: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine_report, "check_all", list)
    monkeypatch.setattr(machine_report, "check_in_interpreter", lambda: [result])
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
    errors = {"float32": 1e-7}
    result = Result("op", "cuda", "triton", errors=errors, skipped="it is wrong")
    assert "auto skips it: it is wrong" in machine_report.row(result)[-1]


@pytest.mark.filterwarnings("ignore:.*skips backend")
def test_all_layers_of_the_network_are_timed() -> None:
    found = machine_report.training_layers()
    ops = [op for op, _ in found]
    assert {op: ops.count(op) for op in ops} == {
        "bias_relu_pool": 4,
        "local_response_norm": 2,
        "conv_bias_relu": 5,
        "inception": 9,
    }
    for op, (training, (shape, dtype), *others) in found:
        assert (training, dtype, shape[0]) == (True, torch.float16, layers.BATCH)
        call = training, (shape, dtype), *others
        assert OPS[op].work(call).bytes > OPS[op].work((False, *call[1:])).bytes


def test_a_gpu_is_timed_and_a_failing_layer_is_a_failure(
    make_op: Callable[..., Op],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(machine_report, "check_all", list)
    monkeypatch.setattr(machine_report, "devices", dict)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    op = make_op(Backend("native", "cpu", failing))
    monkeypatch.setattr(layers, "OPS", {"double": op})
    calls = [("double", call) for call in op.samples()]
    monkeypatch.setattr(machine_report, "training_layers", lambda: calls)
    measure_all = layers.measure_all

    def on_cpu(device: str, name: str, calls: list[Any]) -> list[layers.LayerTime]:
        assert name == f"GPU {device[-1]}"
        return measure_all("cpu", name, calls, lambda runs, device: dict.fromkeys(runs, 1e-3))

    monkeypatch.setattr(layers, "measure_all", on_cpu)
    monkeypatch.setattr(sys, "argv", ["doctor"])
    with pytest.raises(SystemExit) as exit_:
        doctor.main()
    assert exit_.value.code == 1
    printed = capsys.readouterr().out
    assert printed.count("FAILED: RuntimeError: no kernel image") == 2
    assert printed.count(" 1000.0 ") == 2  # the reference's
