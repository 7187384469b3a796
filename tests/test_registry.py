"""The choice between backends, with ops that are made up."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from googlenet_fast import registry
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.registry import (
    UNKNOWN,
    Backend,
    Call,
    Op,
    Work,
    call_of,
    constant,
    install_policy,
    layer_of,
    record_calls,
    use_impl,
)

ON_CPU = torch.zeros(3)


def at_most_nine(x: Tensor) -> str | None:
    return f"{x.size(0)} is more than 9" if x.size(0) > 9 else None


def make_op(name: str, *backends: Backend) -> Op:
    return Op(name, lambda x, *_: x * 2, backends, samples=tuple, work=lambda call: Work(0, 0))


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep ops, warnings and hooks of a test to the test."""
    monkeypatch.setattr(registry, "OPS", {})
    monkeypatch.setattr(registry, "_warned", set())
    monkeypatch.setattr(registry, "_order", registry._keep_order)
    monkeypatch.setattr(registry, "_distrust", registry._trust_none)


@pytest.fixture
def double() -> Op:
    """An op with two backends on CPUs, of which `native` is better but limited."""
    make_op("half", Backend("aten", "cpu", lambda x: x + 3))
    return make_op(
        "double",
        Backend("native", "cpu", lambda x: x + 1, at_most_nine),
        Backend("triton", "cuda", lambda x: x + 2),
    )


@pytest.fixture
def on_gpu() -> Iterator[Tensor]:
    """A tensor on a GPU that this machine may not have."""
    with FakeTensorMode():
        yield torch.empty(2, 3, 7, 6, device="cuda:1")


def test_auto_takes_the_best_that_can(double: Op) -> None:
    assert double.choose(ON_CPU).name == "native"
    assert torch.equal(double.choose(ON_CPU).run(ON_CPU), ON_CPU + 1)


def test_auto_falls_back_and_warns_once_with_the_reason(double: Op) -> None:
    with pytest.warns(RuntimeWarning, match="double skips backend native: 10 is more than 9"):
        assert double.choose(torch.zeros(10)).name == "reference"
    registry.invalidate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double.choose(torch.zeros(10)).name == "reference"


def test_a_second_backend_takes_what_the_first_cannot_without_a_warning() -> None:
    op = make_op(
        "op",
        Backend("native", "cpu", lambda x: x, at_most_nine),
        Backend("aten", "cpu", lambda x: x),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert op.choose(torch.zeros(10)).name == "aten"


def test_other_devices_have_the_reference_without_a_warning(double: Op) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double.choose(torch.zeros(10, device="meta")).name == "reference"


def test_a_requested_backend_that_cannot_run_is_an_error_that_lists_what_can(double: Op) -> None:
    make_op("other", Backend("imaginary", "xpu", lambda x: x))
    with use_impl("native"), pytest.raises(GoogLeNetError) as error:
        double.choose(torch.zeros(10))
    assert "native: 10 is more than 9; available: reference" in str(error.value)
    with use_impl("triton"), pytest.raises(GoogLeNetError) as error:
        double.choose(ON_CPU)
    assert "it does not run on cpu; available: native, reference" in str(error.value)


def test_a_requested_backend_leaves_ops_without_it_to_auto(double: Op) -> None:
    with use_impl("native"):
        assert registry.OPS["half"].choose(ON_CPU).name == "aten"


def test_reference_is_for_every_op(double: Op) -> None:
    with use_impl("reference"):
        for op in registry.OPS.values():
            assert op.choose(ON_CPU) is op.fallback
            assert op.fallback.run is op.reference


def test_use_impl_ends_with_its_block_and_nests(double: Op) -> None:
    with use_impl("reference"):
        with use_impl("native"):
            assert double.choose(ON_CPU).name == "native"
        assert double.choose(ON_CPU).name == "reference"
        with pytest.raises(KeyError), use_impl("native"):
            raise KeyError
        assert double.choose(ON_CPU).name == "reference"
    assert double.choose(ON_CPU).name == "native"


@pytest.mark.parametrize("name", ["nativ", "cuda", ""])
def test_names_that_no_op_has_are_refused(name: str, double: Op) -> None:
    names = "choose from auto, reference, aten, native, triton"
    with pytest.raises(GoogLeNetError, match=names), use_impl(name):
        pass


def test_compiled_code_follows_use_impl(double: Op) -> None:
    def function(x: Tensor) -> Tensor:
        return double.choose(x).run(x)

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    one = torch.ones(1)
    assert compiled(one).item() == 2
    with use_impl("reference"):
        assert compiled(one).item() == 2 * one.item()
    with use_impl("native"):
        assert compiled(one).item() == 2
    three = torch.full((1,), 3.0)
    assert compiled(three).item() == 4
    with use_impl("reference"):
        assert compiled(three).item() == 6


def test_a_fall_back_warns_while_compiling(double: Op) -> None:
    def function(x: Tensor) -> Tensor:
        return double.choose(x).run(x)

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    with pytest.warns(RuntimeWarning, match="double skips backend native"):
        y = compiled(torch.full((10,), 3.0))
    assert y.max() == 6


def test_transforms_run_the_reference(double: Op) -> None:
    """Also while compiling and in compiled code; outside them, compiled code has its backend."""

    def function(x: Tensor) -> Tensor:
        return double.choose(x).run(x)

    x = torch.full((2, 3), 5.0)
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    inside = torch.compile(torch.func.vmap(function), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x[0]), x[0] + 1)
    for mapped in (torch.func.vmap(function), torch.func.vmap(compiled), inside):
        assert torch.equal(mapped(x), 2 * x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x[0], torch.ones(3))
        assert torch.equal(forward_ad.unpack_dual(function(dual)).tangent, torch.full((3,), 2.0))
        assert torch.equal(compiled(x[0]), 2 * x[0])  # of dual inputs Dynamo itself says no
    assert torch.equal(function(x[0]), x[0] + 1)
    assert torch.equal(compiled(x[0]), x[0] + 1)


def test_choices_are_remembered_until_invalidated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def supports(x: Tensor) -> None:
        asked.append(x.shape)

    op = make_op("op", Backend("native", "cpu", lambda x: x, supports))
    for _ in range(2):
        assert op.choose(ON_CPU).name == "native"
    assert len(asked) == 1
    with torch.no_grad():
        op.choose(ON_CPU)
    op.choose(torch.zeros(4))
    op.choose(torch.zeros(3).half())
    with use_impl("native"):
        op.choose(ON_CPU)
    assert len(asked) == 5
    registry.invalidate()
    op.choose(ON_CPU)
    assert len(asked) == 6
    monkeypatch.setattr(registry, "MEMO_LIMIT", 4)
    for size in range(20):
        op.choose(torch.zeros(size))
        assert len(op._memo) <= 4


def test_symbolic_sizes_work(double: Op) -> None:
    def function(x: Tensor) -> Tensor:
        return double.choose(x).run(x)

    traced = torch.fx.experimental.proxy_tensor.make_fx(function, tracing_mode="symbolic")(ON_CPU)
    assert torch.equal(traced(torch.ones(5)), torch.full((5,), 2.0))


def install(
    order: Any = registry._keep_order, distrust: Any = registry._trust_none
) -> list[tuple[Any, ...]]:
    """Install hooks that note their questions."""
    asked: list[tuple[Any, ...]] = []

    @constant
    def noted_order(*question: Any) -> Any:
        asked.append(("order", *question))
        return order(*question)

    @constant
    def noted_distrust(*question: Any) -> Any:
        asked.append(("distrust", *question))
        return distrust(*question)

    install_policy(noted_order, noted_distrust)
    return asked


def gpu_op() -> Op:
    return make_op(
        "op",
        Backend("triton", "cuda", lambda x, *_: x + 1, check_first=True),
        Backend("aten", "cuda", lambda x, *_: x + 2),
        Backend("native", "cpu", lambda x, *_: x),
    )


def test_the_policy_orders_and_checks_on_gpus_only(on_gpu: Tensor) -> None:
    op = gpu_op()
    layer: Call = (True, ((3, 7, 6), torch.float32), 4)
    asked = install(distrust=lambda *question: None)
    assert op.choose(on_gpu, 4).name == "triton"
    assert asked == [
        ("order", "op", ("triton", "aten"), "cuda:1", layer, 2),
        ("distrust", "op", "triton", "cuda:1", layer),
    ]
    asked = install(order=lambda op, names, *_: names[::-1])
    assert op.choose(on_gpu, 4).name == "aten"
    assert op.choose(torch.empty(1, 2, 3, 4), 4).name == "native"
    assert [question[0] for question in asked] == ["order"]


def test_a_backend_that_failed_its_check_is_named_once(on_gpu: Tensor) -> None:
    op = gpu_op()
    asked = install(distrust=lambda *question: "it failed")
    with pytest.warns(RuntimeWarning, match="op skips backend triton: it failed") as caught:
        assert [op.choose(on_gpu, n).name for n in (1, 2, 1)] == ["aten"] * 3
    assert len(caught) == 1
    assert len(asked) == 4  # twice for each of two calls
    with use_impl("triton"):
        assert op.choose(on_gpu, 1).name == "triton"
    assert len(asked) == 4


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_checked_is_skipped_silently_and_asked_again(on_gpu: Tensor) -> None:
    op = gpu_op()
    answers = [UNKNOWN, UNKNOWN, None]
    install(distrust=lambda *question: answers.pop(0))
    assert [op.choose(on_gpu).name for _ in range(4)] == ["aten", "aten", "triton", "triton"]
    assert not answers


@pytest.mark.filterwarnings("error")
def test_without_a_policy_nothing_unchecked_runs(on_gpu: Tensor) -> None:
    assert gpu_op().choose(on_gpu).name == "aten"


@pytest.mark.parametrize("dynamic", [None, True])
def test_the_policy_is_asked_while_compiling(
    dynamic: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About constants, for every size."""
    op = gpu_op()
    monkeypatch.setattr(registry, "device_of", lambda arguments: torch.device("cuda:0"))
    asked = install(
        lambda op, names, device, layer, batch: names[::-1] if layer[1][0] == (3, 7, 5) else names,
        lambda *question: None,
    )

    def function(x: Tensor, weight: Tensor) -> Tensor:
        others = weight, [weight], (), None, True, False, 1e-3, "text"
        return op.choose(x, *others).run(x, *others)

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="eager", dynamic=dynamic)
    weight = torch.zeros(4, 3, 1, 1)
    with torch.no_grad():
        found = [
            compiled(torch.zeros(n, 3, h, 5), weight).max().item()
            for n in (1, 2, 3)
            for h in (7, 8, 9, 7)
        ]
    assert found == [2, 1, 1, 2] * 3
    described = ((4, 3, 1, 1), torch.float32)
    others = described, (described,), (), None, True, False, 1e-3, "text"
    assert asked[0][:4] == ("order", "op", ("triton", "aten"), "cuda:0")
    assert asked[0][4] == (False, ((3, 7, 5), torch.float32), *others)
    assert {question[5] for question in asked if question[0] == "order"} == {None}
    assert {type(value) for value in asked[0][4][1][0]} == {int}


def test_a_call_is_shapes_dtypes_values_and_gradients() -> None:
    x, weight, bias = torch.randn(2, 5, 7, 6), torch.randn(4, 5, 3, 3), torch.randn(4)
    f32 = torch.float32
    call = call_of((x, weight, [bias, bias], None, 0.5, "text", torch.Generator()))
    assert call == (
        *(True, ((2, 5, 7, 6), f32), ((4, 5, 3, 3), f32), (((4,), f32), ((4,), f32))),
        *(None, 0.5, "text", torch.Generator),
    )
    arguments = x, weight, bias, True
    call = call_of(arguments)
    with torch.no_grad():
        assert call_of(arguments) == (False, *call[1:])
    for other in ((x.half(), *arguments[1:]), (x[:, :, 1:], *arguments[1:]), (x, weight, None, 1)):
        assert call_of(other) != call
    assert call_of((x[:1], *arguments[1:])) != call
    assert layer_of((x[:1], *arguments[1:])) == layer_of(arguments)
    assert layer_of(arguments)[1] == ((5, 7, 6), f32)
    assert layer_of(arguments)[-1] is True


def test_calls_are_recorded_again_and_again(double: Op) -> None:
    calls: list[tuple[str, Call]] = []

    def record(op: Op, arguments: Any) -> None:
        calls.append((op.name, call_of(arguments)))

    with record_calls(record):
        double.choose(ON_CPU)
        double.choose(ON_CPU)
        with record_calls(None):
            double.choose(ON_CPU)
        double.choose(torch.zeros(4))
    double.choose(ON_CPU)
    f32 = torch.float32
    assert calls == [("double", (True, ((n,), f32))) for n in (3, 3, 4)]


@pytest.mark.parametrize(
    ("value", "expected"), [("reference", "ok"), ("", "ok"), ("fastest", "choose from auto")]
)
def test_environment_variable(value: str, expected: str) -> None:
    program = (
        "import torch\n"
        "from googlenet_fast.errors import GoogLeNetError\n"
        "from googlenet_fast.ops import local_response_norm\n"
        "try:\n"
        "    local_response_norm(torch.ones(1, 2, 3, 3))\n"
        "    print('ok')\n"
        "except GoogLeNetError as error:\n"
        "    print(error)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program],
        env={"GOOGLENET_FAST_IMPL": value, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert expected in child.stdout, child.stderr


def test_a_backend_on_request_is_never_chosen_by_auto() -> None:
    op = make_op(
        "op",
        Backend("native", "cpu", lambda x: x + 1, at_most_nine),
        Backend("triton", "cpu", lambda x: x + 2, on_request=True),
    )
    x = torch.zeros(10)
    with pytest.warns(RuntimeWarning, match="op skips backend native"):
        assert op.choose(x) is op.fallback
    with use_impl("triton"):
        assert op.choose(x).name == "triton"


def test_a_request_leaves_calls_that_a_backend_does_not_cover_to_auto() -> None:
    op = make_op(
        "op",
        Backend("triton", "cpu", lambda x: x + 2, covers=lambda x: x.numel() < 5),
        Backend("native", "cpu", lambda x: x + 1),
    )
    with use_impl("triton"):
        assert op.choose(torch.zeros(3)).name == "triton"
        assert op.choose(torch.zeros(9)).name == "native"
    assert op.choose(torch.zeros(9)).name == "native"
