import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from googlenet_fast import doctor
from googlenet_fast.ops import dispatch, extension


def test_this_machine_is_healthy() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "googlenet_fast.doctor", "--json"], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stdout + child.stderr
    report = json.loads(child.stdout)
    assert report["versions"]["torch"].startswith(torch.__version__)
    assert "threads" in report["devices"]["cpu"]
    checked = [result for result in report["ops"] if result["errors"]]
    assert "aten" in {result["implementation"] for result in checked}
    for result in checked:
        assert 0 < max(result["errors"].values()) < 1e-4
    taken = [result["op"] for result in report["ops"] if result["auto"]]
    assert len(taken) == len(set(taken)) * (1 + torch.cuda.is_available())


def test_every_op_has_a_case() -> None:
    assert set(doctor.CASES) == set(dispatch._registry)


def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extension, "UNAVAILABLE", "the compiled extension is absent")
    monkeypatch.setattr(sys, "argv", ["doctor"])
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
    implementations = {"native": dispatch.always, "reference": dispatch.always}
    monkeypatch.setattr(dispatch, "_registry", {"double": {"cpu": implementations}})

    def double(x: Tensor) -> Tensor:
        return native(x) if dispatch.choose("double", "cpu", (x,)) == "native" else x * 2

    case = doctor.Case(double, ((2, 3, 4, 4),), tuple)
    monkeypatch.setattr(doctor, "CASES", {"double": case})
    monkeypatch.setattr(sys, "argv", ["doctor"])
    with pytest.raises(SystemExit) as exit_:
        doctor.main()
    assert exit_.value.code == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert message in line
