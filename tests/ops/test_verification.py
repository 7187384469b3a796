from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from googlenet_fast import ops
from googlenet_fast.ops import dispatch, verification
from googlenet_fast.ops.dispatch import always, choose, register
from googlenet_fast.ops.selection import calls_seen
from googlenet_fast.ops.verification import (
    can_verify,
    compare,
    effective_dtype,
    signature,
    why_not_verified,
)

HALF, BRAIN, FLOAT = torch.float16, torch.bfloat16, torch.float32


def arguments_of(op: str, dtype: torch.dtype, weight: torch.dtype) -> tuple[Any, ...]:
    """A call whose values do not matter: the check makes its own."""
    if op == "inception":
        shapes = ((20, 16, 1, 1), (20,), (8, 6, 3, 3), (8,), (8, 6, 5, 5), (8,), (8, 16, 1, 1))
        parameters = [torch.empty(s, dtype=weight if len(s) == 4 else FLOAT) for s in shapes]
        return (torch.empty(5, 16, 99, 3, dtype=dtype), *parameters, torch.empty(8), True)
    x = torch.empty(5, 16, 99, 3, dtype=dtype)
    if op == "conv_bias_relu":
        return x, torch.empty(24, 16, 3, 3, dtype=weight), torch.empty(24), True
    if op == "bias_relu_pool":
        return x, torch.empty(16), True, True
    return x, 5, 1e-4, 0.75, 1.0


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path))
    verification._found.clear()


@pytest.mark.triton
@pytest.mark.parametrize(
    ("dtype", "weight"), [(FLOAT, FLOAT), (HALF, HALF), (HALF, FLOAT), (BRAIN, FLOAT)]
)
@pytest.mark.parametrize(
    "op", ["inception", "conv_bias_relu", "bias_relu_pool", "local_response_norm"]
)
@pytest.mark.usefixtures("fast_interpreter")
def test_triton_kernels_pass(op: str, dtype: torch.dtype, weight: torch.dtype, device: str) -> None:
    if dtype == BRAIN and device == "cpu":
        pytest.skip("Triton's interpreter multiplies bfloat16 wrongly")
    assert compare(op, "triton", device, signature(arguments_of(op, dtype, weight))) is None


class Double(torch.autograd.Function):
    """x * 2 whose results are those of an imaginary compiler."""

    factors = (2.0, 2.0)

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * Double.factors[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * Double.factors[1]


calls: list[str] = []


def double(x: Tensor) -> Tensor:
    name = choose("double", x.device.type, (x,))
    calls.append(name)
    assert torch.is_grad_enabled() == x.requires_grad
    return Double.apply(x) if name == "triton" else x * 2


@pytest.fixture
def fake_op(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = {"triton": always, "reference": always}
    monkeypatch.setattr(dispatch, "_registry", {})
    monkeypatch.setattr(dispatch, "_warned", set())
    monkeypatch.setattr(ops, "double", double, raising=False)
    monkeypatch.setattr(Double, "factors", (2.0, 2.0))
    calls.clear()
    register("double", {"cpu": candidates, "cuda": candidates})


CALL = signature((torch.empty(1, 3, 7, 7),))


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ((2.1, 2.0), "relative error 5.0e-02 of the output in torch.float32"),
        ((2.0, 2.1), "relative error 5.0e-02 of the gradient 1"),
        ((float("nan"), 2.0), "relative error nan of the output"),
    ],
)
def test_a_wrong_kernel_is_found_out(
    fake_op: None, monkeypatch: pytest.MonkeyPatch, factors: tuple[float, float], message: str
) -> None:
    monkeypatch.setattr(Double, "factors", factors)
    reason = why_not_verified("double", "triton", "cpu", CALL)
    assert reason is not None
    assert message in reason
    assert reason.endswith("run python -m googlenet_fast.doctor")


def test_a_kernel_that_does_not_compile_is_passed_over(
    fake_op: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(ctx: Any, x: Tensor) -> Tensor:
        raise RuntimeError("ptxas died\nand said a lot")

    monkeypatch.setattr(Double, "forward", staticmethod(fail))
    reason = why_not_verified("double", "triton", "cpu", CALL)
    assert reason is not None
    assert "RuntimeError: ptxas died;" in reason


def test_what_passed_is_remembered_by_the_next_process_and_what_failed_is_not(
    fake_op: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert why_not_verified("double", "triton", "cpu", CALL) is None
    (record,) = tmp_path.iterdir()
    verification._found.clear()
    monkeypatch.setattr(Double, "factors", (3.0, 3.0))
    calls.clear()
    assert why_not_verified("double", "triton", "cpu", CALL) is None
    assert calls == []
    record.write_text("[1, 2")
    verification._found.clear()
    with pytest.warns(RuntimeWarning, match="is ignored and made anew"):
        assert why_not_verified("double", "triton", "cpu", CALL) is not None
    assert record.read_text() == "[1, 2"


def test_the_callers_modes_do_not_reach_the_check(fake_op: None) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    seed = torch.get_rng_state()
    with FakeTensorMode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert compare("double", "triton", "cpu", CALL) is None
    assert torch.equal(seed, torch.get_rng_state())


def test_calls_of_the_check_are_not_the_callers(fake_op: None) -> None:
    with calls_seen() as seen:
        assert compare("double", "triton", "cpu", CALL) is None
    assert "triton" in calls
    assert not seen


def test_what_is_known_serves_while_a_graph_is_captured(
    fake_op: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    question = "double", "triton", "cpu", CALL
    assert not can_verify(*question)
    assert why_not_verified(*question) is None
    assert can_verify(*question)


@pytest.mark.parametrize("tf32", [True, False])
def test_products_of_fp32_may_round_as_those_of_fp16(tf32: bool) -> None:
    with torch.backends.cudnn.flags(allow_tf32=tf32):
        assert effective_dtype(FLOAT, "cuda:1") == (HALF if tf32 else FLOAT)
        assert effective_dtype(FLOAT, "cpu") == FLOAT
        assert effective_dtype(BRAIN, "cuda:1") == BRAIN


class OnGpu:
    """Stands for a tensor on a GPU that this machine may not have."""

    device, dtype = torch.device("cuda:1"), FLOAT

    def size(self, dim: int) -> int:
        return 3


def test_auto_asks_on_gpus_and_warns_once(fake_op: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*question: Any) -> str:
        asked.append(question)
        return "it failed"

    monkeypatch.setattr(dispatch, "can_verify", lambda *question: True)
    monkeypatch.setattr(dispatch, "why_not_verified", refuse)
    with pytest.warns(RuntimeWarning, match="double falls back from triton: it failed") as caught:
        assert [choose("double", "cuda", (OnGpu(),)) for _ in range(2)] == ["reference"] * 2
    assert len(caught) == 1
    assert asked[0][:3] == ("double", "triton", "cuda:1")
    with dispatch.use_impl("triton"):
        assert choose("double", "cuda", (OnGpu(),)) == "triton"
    assert choose("double", "cpu", (OnGpu(),)) == "triton"
    assert len(asked) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.filterwarnings("error")
def test_without_a_gpu_auto_passes_over_triton_silently(fake_op: None) -> None:
    assert choose("double", "cuda", (OnGpu(),)) == "reference"


def test_the_check_runs_while_compiling(fake_op: None) -> None:
    def function(x: Tensor) -> Tensor:
        wrong = why_not_verified("double", "triton", "cpu", signature((x,)))
        return x + 1 if wrong is None else x

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(1, 3, 7, 7)).max().item() == 1
    assert calls.count("triton") == 1
