from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck
from torch.library import opcheck

from googlenet_fast import extension
from googlenet_fast.ops import bias_relu_pool, use_impl
from tests.helpers import TRITON

Check = Callable[[Tensor, Tensor, Tensor], None]
Keep = Callable[[list[Tensor]], Callable[[Tensor], Tensor]]

IMPLEMENTATIONS = ("reference", TRITON)
cuda = pytest.mark.skipif(
    extension.missing_part("cuda") is not None, reason=str(extension.missing_part("cuda"))
)


def definition(x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool) -> Tensor:
    if bias is not None:
        x = (x + bias.view(-1, 1, 1)).to(x.dtype)
    return F.max_pool2d(F.relu(x) if relu else x, 3, stride=2, ceil_mode=ceil_mode)


def after_pooling(x: Tensor, bias: Tensor | None, relu: bool, ceil_mode: bool) -> Tensor:
    """The same values; among inputs that rounding makes equal, the greatest gets the gradient."""
    y = F.max_pool2d(x, 3, stride=2, ceil_mode=ceil_mode)
    if bias is not None:
        y = (y + bias.view(-1, 1, 1)).to(x.dtype)
    return F.relu(y) if relu else y


def gradients(
    function: Callable[..., Tensor], x: Tensor, bias: Tensor, grad: Tensor
) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in (x, bias)]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


@pytest.mark.parametrize("size", [(24, 20), (13, 27), (4, 3)], ids=str)
@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_equals_its_definition(
    implementation: str,
    with_bias: bool,
    relu: bool,
    ceil_mode: bool,
    size: tuple[int, int],
    device: str,
) -> None:
    x = torch.randn(2, 5, *size, device=device, requires_grad=True)
    bias = torch.randn(5, device=device, requires_grad=True) if with_bias else None
    with use_impl(implementation):
        y, expected = bias_relu_pool(x, bias, relu, ceil_mode), definition(x, bias, relu, ceil_mode)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(y, expected)
        with torch.no_grad():
            assert torch.equal(bias_relu_pool(x, bias, relu, ceil_mode), expected)
        leaves = [x] if bias is None else [x, bias]
        grad = torch.randn_like(y)
        torch.testing.assert_close(
            torch.autograd.grad(y, leaves, grad), torch.autograd.grad(expected, leaves, grad)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 64, 192])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_is_as_accurate_as_plain_pytorch(
    implementation: str, channels: int, dtype: torch.dtype, device: str, check_accuracy: Check
) -> None:
    x, bias = torch.randn(2, channels, 17, 12, dtype=dtype), torch.randn(channels)
    # Multiples of 1/8 stay apart from each other and from zero when a bias is added.
    x, bias = (x * 8).round() / 8, (bias * 8).round() / 8 + 1 / 16
    grad = torch.randn_like(after_pooling(x, bias, True, True))

    def plain(x: Tensor, bias: Tensor) -> Tensor:
        return after_pooling(x, bias, True, True)

    exact = gradients(plain, x.double(), bias.double(), grad)
    expected = gradients(plain, x, bias, grad)
    with use_impl(implementation):
        actual = gradients(
            lambda x, bias: bias_relu_pool(x, bias, ceil_mode=True),
            *(t.to(device) for t in (x, bias, grad)),
        )
    for ours, theirs, truth in zip(actual, expected, exact, strict=True):
        assert ours.dtype == theirs.dtype
        check_accuracy(ours.cpu(), theirs, truth)


@pytest.mark.triton
@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_triton_chooses_among_ties_as_pytorch_does(
    dtype: torch.dtype, relu: bool, ceil_mode: bool, device: str
) -> None:
    x = torch.randint(-2, 2, (3, 8, 11, 14)).to(dtype)
    x[0, 3, 2:4, 2:4] = float("nan")
    x[1, 4] = float("-inf")
    x[2, 5, 3:8] = float("inf")
    bias = torch.tensor([-1, 0, 1, 0, 0, 0, 1, 2]).to(dtype)

    def plain(x: Tensor, bias: Tensor) -> Tensor:
        return after_pooling(x, bias, relu, ceil_mode)

    grad = torch.randint(1, 9, plain(x, bias).shape).to(dtype)
    expected = gradients(plain, x, bias, grad)
    with use_impl("triton"):
        actual = gradients(
            lambda x, bias: bias_relu_pool(x, bias, relu, ceil_mode),
            *(t.to(device) for t in (x, bias, grad)),
        )
    for ours, theirs in zip(actual[:2], expected[:2], strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=0, equal_nan=True)
    clipped = plain(x, bias) <= 0 if relu else torch.zeros_like(grad, dtype=torch.bool)
    sums = torch.where(clipped, 0, grad).double().sum((0, 2, 3))
    assert torch.equal(actual[2].cpu(), sums.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_halves_with_a_bias_in_fp32(implementation: str, dtype: torch.dtype, device: str) -> None:
    x = torch.randn(2, 8, 9, 9, dtype=dtype, device=device)
    bias = torch.randn(8, device=device)
    if dtype == torch.bfloat16:  # to which Triton's interpreter truncates: let sums be exact
        x, bias = (x * 8).round() / 8, (bias * 8).round() / 8
    with use_impl(implementation):
        y = bias_relu_pool(x, bias)
        assert y.dtype == dtype
        assert torch.equal(y, definition(x.float(), bias, True, False).to(dtype))
        with torch.autocast(device, dtype=dtype):
            leaves = (x.float().requires_grad_(), bias.requires_grad_())
            z = bias_relu_pool(*leaves)
        assert torch.equal(z, y)
        assert [g.dtype for g in torch.autograd.grad(z.sum(), leaves)] == [torch.float32] * 2


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_any_layout(implementation: str, layout: Callable[[Tensor], Tensor], device: str) -> None:
    x, bias = layout(torch.randn(2, 6, 9, 11, device=device)), torch.randn(6, device=device)
    leaves = [x.requires_grad_(), bias.requires_grad_()]
    expected = definition(x, bias, True, True)
    with use_impl(implementation):
        y = bias_relu_pool(x, bias, ceil_mode=True)
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    wide = torch.randn(x.size(0), 12, *y.shape[2:], device=device)
    one = torch.ones((), device=device)
    for grad in (
        torch.randn(y.shape, device=device),
        wide.to(memory_format=torch.channels_last)[:, 3:9],
        wide.mT.contiguous().mT[:, ::2],
        one.expand_as(y),
    ):
        torch.testing.assert_close(
            torch.autograd.grad(y, leaves, grad, retain_graph=True),
            torch.autograd.grad(expected, leaves, grad, retain_graph=True),
        )


def test_gradcheck() -> None:
    x = torch.randn(1, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, bias: bias_relu_pool(x, bias, ceil_mode=True), (x, bias))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_compiles_whole(implementation: str, device: str) -> None:
    x = torch.randn(2, 5, 9, 9, device=device, requires_grad=True)
    bias = torch.randn(5, device=device, requires_grad=True)
    compiled = torch.compile(bias_relu_pool, fullgraph=True, backend="aot_eager")
    with use_impl(implementation):
        y, expected = compiled(x, bias), bias_relu_pool(x, bias)
        assert torch.equal(y, expected)
        grad = torch.randn_like(y)
        torch.testing.assert_close(
            torch.autograd.grad(y, [x, bias], grad), torch.autograd.grad(expected, [x, bias], grad)
        )


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
@pytest.mark.parametrize(
    ("implementation", "op"),
    [
        ("reference", "bias_relu_pool"),
        pytest.param("triton", "bias_relu_pool_triton", marks=pytest.mark.triton),
        pytest.param("cuda", "bias_relu_pool", marks=cuda),
    ],
)
def test_fake_cuda_tensors_need_no_gpu(implementation: str, op: str) -> None:
    with FakeTensorMode(), use_impl(implementation):
        x = torch.empty(2, 8, 9, 9, device="cuda", requires_grad=True)
        y = bias_relu_pool(x, torch.empty(8, device="cuda"))
        grad, sums = getattr(torch.ops.googlenet_fast, f"{op}_backward")(
            y, torch.empty_like(y, dtype=torch.uint8), 9, 9, True
        )
    assert (type(y.grad_fn).__name__ == "_BiasReluPoolBackward") == (implementation != "reference")
    assert (y.device.type, tuple(y.shape)) == ("cuda", (2, 8, 4, 4))
    assert (grad.shape, tuple(sums.shape), sums.dtype) == (x.shape, (8,), torch.float32)
    assert grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.triton
def test_triton_sums_over_many_tiles_in_a_fixed_order(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from googlenet_fast.kernels import bias_relu_pool as kernels

    monkeypatch.setattr(kernels, "programs", lambda device: 2)
    monkeypatch.setattr(kernels, "TILE", 256)
    x, bias = torch.randn(2, 100, 15, 16, device=device), torch.randn(100, device=device)
    grad = torch.randn_like(definition(x, bias, True, False))
    with use_impl("triton"):
        first, second = (gradients(bias_relu_pool, x, bias, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    expected = gradients(lambda x, b: definition(x, b, True, False), x, bias, grad)
    torch.testing.assert_close(first, expected)


@pytest.mark.triton
def test_triton_saves_the_index_alone(device: str, keep_in: Keep) -> None:
    x = torch.randn(2, 5, 9, 9, device=device, requires_grad=True)
    bias = torch.randn(5, device=device, requires_grad=True)
    saved: list[Tensor] = []
    with (
        use_impl("triton"),
        torch.autograd.graph.saved_tensors_hooks(keep_in(saved), lambda t: t),
    ):
        y = bias_relu_pool(x, bias)
        assert [(t.dtype, t.shape) for t in saved] == [(torch.uint8, y.shape)]
        saved.clear()
        bias_relu_pool(x.detach(), bias.detach())
        with torch.no_grad():
            bias_relu_pool(x, bias)
    assert not saved


@pytest.mark.triton
@pytest.mark.parametrize("with_bias", [True, False])
def test_triton_launches_once_forward_and_once_or_twice_backward(
    with_bias: bool, device: str
) -> None:
    from googlenet_fast.kernels.launch import Launch, observe

    names: list[str] = []

    def note(launch: Launch, run: Callable[[], None]) -> None:
        names.append(launch.kernel.fn.__name__)
        run()

    x = torch.randn(2, 5, 9, 9, device=device, requires_grad=True)
    bias = torch.randn(5, device=device, requires_grad=True) if with_bias else None
    with use_impl("triton"), observe(note):
        bias_relu_pool(x, bias).sum().backward()
    expected = ["_bias_relu_pool_forward_kernel", "_bias_relu_pool_backward_kernel"]
    assert names == expected + ["_reduce_kernel"] * with_bias


@pytest.mark.triton
def test_triton_passes_opcheck(device: str) -> None:
    x, bias = torch.randn(2, 5, 9, 8, device=device), torch.randn(5, device=device)
    ops = torch.ops.googlenet_fast
    opcheck(ops.bias_relu_pool_triton, (x, bias, True, True))
    opcheck(ops.bias_relu_pool_triton, (x.clone().requires_grad_(), None, False, False))
    leaves = (x.clone().requires_grad_(), bias.clone().requires_grad_())
    opcheck(ops.bias_relu_pool_triton, (*leaves, True, False))
    y, index = ops.bias_relu_pool_triton_training(x, bias, True, True)
    for need_bias in (True, False):
        opcheck(ops.bias_relu_pool_triton_backward, (torch.randn_like(y), index, 9, 8, need_bias))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_smallest_images(implementation: str, device: str) -> None:
    with use_impl(implementation):
        x = torch.randn(1, 4, 2, 2, device=device)
        assert torch.equal(bias_relu_pool(x, ceil_mode=True), definition(x, None, True, True))
        with pytest.raises(ValueError, match=r"no window of 3x3 in an input of \(1, 4, 2, 2\)"):
            bias_relu_pool(x)
