import subprocess
import sys
import warnings

import pytest
import torch

from googlenet_fast.errors import UserError
from googlenet_fast.ops import dispatch, use_impl
from googlenet_fast.ops.dispatch import choose, register


def too_large(x: int) -> str | None:
    return f"{x} is more than 9" if x > 9 else None


@pytest.fixture(autouse=True)
def one_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ops of which `double` has two implementations on the CPU."""
    monkeypatch.setattr(dispatch, "_registry", {})
    monkeypatch.setattr(dispatch, "_warned", set())
    register("double", {"cpu": {"native": too_large, "reference": dispatch.always}})
    register("half", {"cpu": {"reference": dispatch.always}})


def test_auto_takes_the_best_that_can() -> None:
    assert choose("double", "cpu", (3,)) == "native"


def test_auto_falls_back_and_warns_once_with_the_reason() -> None:
    with pytest.warns(RuntimeWarning, match="double falls back from native: 10 is more than 9"):
        assert choose("double", "cpu", (10,)) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("double", "cpu", (10,)) == "reference"


def test_other_devices_have_the_reference_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("double", "mps", (10,)) == "reference"


def test_an_explicit_choice_that_cannot_run_is_an_error_that_lists_what_can() -> None:
    with use_impl("native"), pytest.raises(UserError) as error:
        choose("double", "cpu", (10,))
    assert "native: 10 is more than 9; available: reference" in str(error.value)
    with use_impl("native"), pytest.raises(UserError, match="it does not run on cuda"):
        choose("double", "cuda", (3,))


def test_an_explicit_choice_leaves_ops_without_it_to_auto() -> None:
    with use_impl("native"):
        assert choose("half", "cpu", (3,)) == "reference"


def test_use_impl_ends_with_its_block_and_nests() -> None:
    with use_impl("reference"):
        with use_impl("native"):
            assert choose("double", "cpu", (3,)) == "native"
        assert choose("double", "cpu", (3,)) == "reference"
    assert choose("double", "cpu", (3,)) == "native"


@pytest.mark.parametrize("name", ["nativ", "triton", ""])
def test_names_that_no_op_has_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="choose from auto, reference, native"), use_impl(name):
        pass


def test_compiled_code_follows_use_impl() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if choose("double", "cpu", (3,)) == "native" else x + 2

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(1)).item() == 1
    with use_impl("reference"):
        assert compiled(torch.zeros(1)).item() == 2


def test_a_fall_back_warns_while_compiling() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        choose("double", "cpu", (10,))
        return x

    with pytest.warns(RuntimeWarning, match="falls back from native"):
        torch.compile(function, fullgraph=True, backend="eager")(torch.zeros(1))


@pytest.mark.parametrize(
    ("value", "expected"), [("reference", "ok"), ("fastest", "choose from auto")]
)
def test_environment_variable(value: str, expected: str) -> None:
    program = (
        "import torch\n"
        "from googlenet_fast.errors import UserError\n"
        "from googlenet_fast.ops import local_response_norm\n"
        "try:\n"
        "    local_response_norm(torch.ones(1, 2, 3, 3))\n"
        "    print('ok')\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program],
        env={"GOOGLENET_FAST_IMPL": value, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert expected in child.stdout, child.stderr
