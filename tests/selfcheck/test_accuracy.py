from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from googlenet_fast.registry import (
    OPS,
    UNKNOWN,
    Backend,
    Call,
    Op,
    Work,
    constant,
    record_calls,
)
from googlenet_fast.selfcheck import accuracy, disk_cache
from googlenet_fast.selfcheck.accuracy import (
    RECORD,
    check,
    check_all,
    check_backend,
    distrust,
    effective_dtype,
    relative_errors,
)
from googlenet_fast.selfcheck.cases import activations, with_dtype

HALF, BRAIN, FLOAT = torch.float16, torch.bfloat16, torch.float32
MakeOp = Callable[..., Op]


def small(op: str, dtype: torch.dtype, weight: torch.dtype) -> Call:
    """A call on two images of 14x14 with few channels, as before a kernel's first use."""
    x = ((2, 16, 14, 14), dtype)
    if op == "inception":
        shapes = ((20, 16, 1, 1), (8, 6, 3, 3), (8, 6, 5, 5), (8, 16, 1, 1))
        parameters = [each for s in shapes for each in ((s, weight), (s[:1], FLOAT))]
        return True, x, *parameters, True, ()
    if op == "conv_bias_relu":
        return True, x, ((24, 16, 3, 3), weight), ((24,), FLOAT), True, 1, ()
    if op == "bias_relu_pool":
        return True, x, ((16,), FLOAT), True, True
    return True, x, 5, 1e-4, 0.75, 1.0


@pytest.mark.slow
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
    (backend,) = (b for b in OPS[op].on(device) if b.name == "triton")
    assert check(OPS[op], backend, device, small(op, dtype, weight)).failure is None


class Double(torch.autograd.Function):
    """x * 2 whose results are those of an imaginary compiler."""

    factors = (2.0, 2.0)
    runs = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Double.runs += 1
        return x * Double.factors[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * Double.factors[1]


@pytest.fixture
def double(make_op: MakeOp, monkeypatch: pytest.MonkeyPatch, with_gpu: None) -> Op:
    monkeypatch.setattr(Double, "factors", (2.0, 2.0))
    monkeypatch.setattr(Double, "runs", 0)
    return make_op(Backend("triton", "cpu", lambda x: Double.apply(x), check_first=True))


LAYER: Call = (True, ((3, 7, 7), FLOAT))
QUESTION = "double", "triton", "cpu", LAYER


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ((2.1, 2.0), "relative error 5.0e-02 of result 0 in torch.float32"),
        ((2.0002, 2.0), "relative error 1.0e-04 of result 0"),
        ((2.0, 2.1), "relative error 5.0e-02 of gradient 1"),
        ((2.0, 2.0002), "relative error 1.0e-04 of gradient 1"),
        ((float("nan"), 2.0), "relative error nan of result 0"),
        ((2.0, float("nan")), "relative error nan of gradient 1"),
    ],
)
def test_a_wrong_kernel_is_found(
    double: Op, monkeypatch: pytest.MonkeyPatch, factors: tuple[float, float], message: str
) -> None:
    monkeypatch.setattr(Double, "factors", factors)
    reason = distrust(*QUESTION)
    assert reason is not None
    assert message in reason
    assert reason.startswith("it failed its check on cpu: ")
    assert reason.endswith("run python -m googlenet_fast.doctor")


def test_a_wrong_result_beside_the_first_is_found(make_op: MakeOp) -> None:
    """Such as batch statistics."""
    backend = Backend("native", "cpu", lambda x: (x * 2, [x.detach().sum((0, 2, 3)) * 1.01], 3.0))
    op = make_op(backend)
    op.fallback = Backend("reference", "any", lambda x: (x * 2, [x.detach().sum((0, 2, 3))], 3.0))
    found = check(op, backend, "cpu", next(iter(op.samples())))
    assert found.failure is not None
    assert "relative error 1.0e-02 of result 1" in found.failure


def test_one_value_across_zero_is_no_failure(double: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails for the first values only; but a larger error fails at once."""
    compare = accuracy._compare
    seeds: list[int] = []

    def first_differs(op: Op, backend: Backend, device: str, call: Call, seed: int) -> Any:
        seeds.append(seed)
        monkeypatch.setattr(Double, "factors", (2.0, 2.0 + off) if seed == 0 else (2.0, 2.0))
        return compare(op, backend, device, call, seed)

    monkeypatch.setattr(accuracy, "_compare", first_differs)
    off = 2e-3
    assert distrust(*QUESTION) is None
    assert seeds == [0, 1]
    off = 0.1
    call = next(iter(double.samples()))
    assert check(double, double.backends[0], "cpu", call).failure is not None
    assert seeds == [0, 1, 0]


def test_a_kernel_that_does_not_compile_is_skipped(
    double: Op, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(ctx: Any, x: Tensor) -> Tensor:
        raise RuntimeError("ptxas died\nand said a lot")

    monkeypatch.setattr(Double, "forward", staticmethod(fail))
    reason = distrust(*QUESTION)
    assert reason is not None
    assert "RuntimeError: ptxas died;" in reason


def test_what_passed_is_remembered_by_the_next_process_and_what_failed_is_not(
    double: Op,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert distrust(*QUESTION) is None
    (record,) = (tmp_path / "cache").iterdir()
    accuracy._found.clear()
    monkeypatch.setattr(Double, "factors", (3.0, 3.0))
    monkeypatch.setattr(Double, "runs", 0)
    assert distrust(*QUESTION) is None
    assert Double.runs == 0
    record.write_text("[1, 2")
    accuracy._found.clear()
    assert distrust(*QUESTION) is not None
    assert "is ignored" in caplog.text
    assert record.read_text() == "[1, 2"


def test_layers_of_other_sizes_share_a_check(double: Op) -> None:
    for layer in (LAYER, (False, *LAYER[1:]), (True, ((3, 28, 9), FLOAT))):
        assert distrust(*QUESTION[:3], layer) is None
    assert Double.runs == 1
    assert len(disk_cache.read_record(RECORD, "cpu")) == 1
    assert distrust(*QUESTION[:3], (True, ((4, 7, 7), FLOAT))) is None
    assert distrust(*QUESTION[:3], (True, ((3, 7, 7), HALF))) is None
    assert Double.runs == 3
    assert len(disk_cache.read_record(RECORD, "cpu")) == 3


def test_the_callers_modes_do_not_reach_the_check(double: Op) -> None:
    seed = torch.get_rng_state()
    with FakeTensorMode(), torch.no_grad(), torch.autocast("cpu", BRAIN):
        assert distrust(*QUESTION) is None
    with torch.inference_mode():
        assert distrust(*QUESTION[:3], (True, ((4, 7, 7), FLOAT))) is None
    assert torch.equal(seed, torch.get_rng_state())


def test_the_callers_saved_tensor_hooks_do_not_see_the_check() -> None:
    """Activation checkpointing counts what is saved."""
    seen: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        check(
            OPS["max_pool"], OPS["max_pool"].fallback, "cpu", next(iter(OPS["max_pool"].samples()))
        )
    assert not seen


def test_calls_of_the_check_are_not_recorded() -> None:
    """A backend may call other ops."""
    (aten,) = (backend for backend in OPS["inception"].on("cpu") if backend.name == "aten")
    calls = []
    with record_calls(lambda op, arguments: calls.append(op)):
        sample = next(iter(OPS["inception"].samples()))
        assert check(OPS["inception"], aten, "cpu", sample).failure is None
    assert not calls


def test_nothing_is_known_without_a_gpu_or_while_a_graph_is_captured(
    double: Op, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distrust(*QUESTION) == UNKNOWN
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert distrust(*QUESTION) == UNKNOWN
    assert Double.runs == 0
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert distrust(*QUESTION) is None
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert distrust(*QUESTION) is None


@pytest.mark.parametrize("tf32", [True, False])
def test_products_of_fp32_may_round_as_those_of_fp16(tf32: bool) -> None:
    with torch.backends.cudnn.flags(allow_tf32=tf32):
        assert effective_dtype(FLOAT, "cuda:1") == (HALF if tf32 else FLOAT)
        assert effective_dtype(FLOAT, "cpu") == FLOAT
        assert effective_dtype(BRAIN, "cuda:1") == BRAIN


def test_errors_are_relative_to_the_norm() -> None:
    exact = [torch.full((4,), 2.0).double(), torch.zeros(3).double()]
    assert relative_errors([torch.full((4,), 2.5), torch.zeros(3)], exact) == [0.25, 0.0]
    assert relative_errors([torch.full((4,), 2.0), torch.ones(3)], exact) == [0.0, float("inf")]
    off = torch.tensor([2.0, 2.0, 2.0, float("nan")])
    assert relative_errors([off], exact[:1])[0] != relative_errors([off], exact[:1])[0]


def test_the_check_runs_while_compiling(double: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # or Dynamo asks the GPU

    @constant
    def hook(*question: Any) -> str | None:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: True)
            return distrust(*question)

    def function(x: Tensor) -> Tensor:
        wrong = hook("double", "triton", "cpu", LAYER)
        return x + 1 if wrong is None else x

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(1, 3, 7, 7)).max().item() == 1
    assert Double.runs == 1


def test_every_backend_of_every_op_is_checked_on_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """In doctor: on all samples that it supports."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    checked: dict[tuple[str, str], list[Call]] = {}
    real = accuracy.check

    def noted(op: Op, backend: Backend, device: str, call: Call) -> Any:
        checked.setdefault((op.name, backend.name), []).append(call)
        return real(op, backend, device, call)

    monkeypatch.setattr(accuracy, "check", noted)
    results = check_all()
    assert {(r.op, r.device, r.backend) for r in results} == {
        (op.name, device, backend.name)
        for op in OPS.values()
        for device in ("cpu", "cuda")
        for backend in (*op.on(device), op.fallback)
        if (device, backend.name) != ("cpu", "triton")
    }
    assert {r.op for r in results} == OPS.keys()
    for result in results:
        assert result.failure is None
        if result.device == "cuda":
            assert result.reason == "no CUDA device"
        elif result.backend != "reference" and result.reason is None:
            assert checked[result.op, result.backend] == list(OPS[result.op].samples())
            assert 0 < result.errors["float32"] < 1e-4
    taken = [result.op for result in results if result.auto]
    assert sorted(taken) == sorted(OPS)


def test_half_precision_is_checked_on_gpus_and_the_choice_is_explained(
    monkeypatch: pytest.MonkeyPatch, make_op: MakeOp, with_gpu: None
) -> None:
    """On a GPU that is the CPU."""
    op = make_op(
        Backend("triton", "cuda", lambda x: x * 2.5, check_first=True),
        Backend("cuda", "cuda", lambda x: x * 2),
        Backend("aten", "cuda", lambda x: x * 2, lambda x: "it is too old"),
    )
    dtypes: list[torch.dtype] = []
    make, real = accuracy.make_arguments, accuracy.check

    def on_cpu(op: Op, backend: Backend, device: str, call: Call) -> Any:
        dtypes.append(activations(call)[1])
        return real(op, backend, "cpu", call)

    monkeypatch.setattr(accuracy, "make_arguments", lambda call, device: make(call, "cpu"))
    monkeypatch.setattr(accuracy, "check", on_cpu)
    monkeypatch.setattr(accuracy, "auto", lambda op, arguments: ("cuda", {"triton": "it is wrong"}))
    triton, cuda, aten, reference = accuracy._on(op, "cuda")
    assert dtypes == [FLOAT, FLOAT, HALF]
    assert triton.failure is not None
    assert triton.skipped == "it is wrong"
    assert cuda.errors.keys() == {"float32", "float16"}
    assert (cuda.auto, cuda.failure, cuda.skipped) == (True, None, None)
    assert (aten.reason, aten.errors, aten.auto) == ("it is too old", {}, False)
    assert (reference.backend, reference.errors, reference.failure) == ("reference", {}, None)


def test_a_backend_is_checked_on_the_samples_that_it_supports() -> None:
    seen: list[int] = []

    def supports(x: Tensor, weight: Tensor, *rest: Any) -> str | None:
        seen.append(weight.size(2))
        return "7x7" if weight.size(2) == 7 else None

    op = OPS["conv_bias_relu"]
    backend = Backend("some", "cpu", op.reference, supports)
    result = check_backend(op, backend, "cpu", op.samples(), [FLOAT])
    assert seen == [1, 3, 5, 7]
    assert (result.reason, result.failure) == (None, None)
    assert result.errors["float32"] < 1e-5


def test_a_backend_is_not_checked_on_calls_that_it_does_not_cover() -> None:
    def run(
        x: Tensor, weight: Tensor, bias: Tensor, relu: bool, stride: int, packed: Any
    ) -> Tensor:
        assert stride == 1
        return op.reference(x, weight, bias, relu, stride, packed)

    op = OPS["conv_bias_relu"]
    backend = Backend("some", "cpu", run, covers=lambda *arguments: arguments[4] == 1)
    result = check_backend(op, backend, "cpu", op.samples(), [FLOAT])
    assert (result.failure, result.errors.keys()) == (None, {"float32"})


def test_auto_skips_what_failed_and_names_it(make_op: MakeOp) -> None:
    op = make_op(Backend("triton", "cpu", lambda x: x, lambda x: "it is Tuesday"))
    x = torch.zeros(1, 3, 2, 2)
    with pytest.warns(RuntimeWarning, match="double skips backend triton: it is Tuesday"):
        assert accuracy.auto(op, [x]) == ("reference", {"triton": "it is Tuesday"})
    better = make_op(Backend("native", "cpu", lambda x: x))
    assert accuracy.auto(better, [x]) == ("native", {})


def test_samples_in_half_precision_keep_parameters_of_one_dimension_in_fp32() -> None:
    for op in OPS.values():
        for sample in op.samples():
            assert activations(with_dtype(sample, HALF))[1] == HALF
            assert op.work(with_dtype(sample, HALF)).bytes < op.work(sample).bytes
            assert isinstance(op.work(sample), Work)
