import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck
from torch.autograd.graph import saved_tensors_hooks
from torch.library import opcheck

from googlenet_fast import extension
from googlenet_fast.model import GoogLeNet
from googlenet_fast.ops import bn_relu_pool, use_impl
from googlenet_fast.registry import record_calls

Check = Callable[[Tensor, Tensor, Tensor], None]
Keep = Callable[[list[Tensor]], Callable[[Tensor], Tensor]]
ops = torch.ops.googlenet_fast

needs_extension = pytest.mark.skipif(
    extension.UNAVAILABLE is not None, reason=str(extension.UNAVAILABLE)
)
IMPLEMENTATIONS = ("reference", pytest.param("native", marks=needs_extension))


def make_norm(channels: int, dtype: torch.dtype = torch.float32) -> nn.BatchNorm2d:
    """Weights of both signs, one of them zero: the maximum of a window is not that of its input."""
    norm = nn.BatchNorm2d(channels, eps=1e-3).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    if channels > 2:
        nn.init.zeros_(norm.weight[2:3])
    return norm


def plain(x: Tensor, norm: nn.BatchNorm2d, ceil_mode: bool = False) -> Tensor:
    return F.max_pool2d(F.relu(norm(x)), 3, stride=2, ceil_mode=ceil_mode)


def results(
    function: Callable[..., Tensor], x: Tensor, norm: nn.BatchNorm2d, ceil_mode: bool, grad: Tensor
) -> list[Tensor]:
    norm, x = copy.deepcopy(norm), x.detach().requires_grad_()
    y = function(x, norm, ceil_mode)
    grads = torch.autograd.grad(y, [x, *norm.parameters()], grad.to(y.dtype))
    return [y.detach(), *grads, *norm.buffers()]


@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize("shape", [(2, 37, 13, 10), (3, 4, 3, 4), (1, 8, 5, 5), (2, 1, 9, 3)])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_equals_its_definition_in_float64(
    implementation: str, shape: tuple[int, ...], ceil_mode: bool
) -> None:
    x, norm = torch.randn(shape, dtype=torch.float64), make_norm(shape[1], torch.float64)
    grad = torch.randn_like(plain(x, copy.deepcopy(norm), ceil_mode))
    expected = results(plain, x, norm, ceil_mode, grad)
    with use_impl(implementation):
        actual = results(bn_relu_pool, x, norm, ceil_mode, grad)
    assert actual[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual, expected)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_native_is_as_accurate_as_plain_pytorch(dtype: torch.dtype, check_accuracy: Check) -> None:
    # Integers over a power of two, each once a channel: no two values of a window are near.
    x = torch.stack([torch.randperm(2 * 14 * 13) for _ in range(24)]).view(24, 2, 14, 13)
    x = ((x.transpose(0, 1) - 182) / 64).to(dtype)
    norm = make_norm(24)
    nn.init.constant_(norm.weight[2:3], -1.0)
    nn.init.constant_(norm.bias, 8.0)  # far from zero, where ReLU's mask would depend on rounding
    grad = torch.randn(2, 24, 7, 6).to(dtype)
    exact = results(plain, x.double(), copy.deepcopy(norm).double(), True, grad)
    theirs = results(plain, x, norm, True, grad)
    with use_impl("native"):
        ours = results(bn_relu_pool, x, norm, True, grad)
    for a, b, truth in zip(ours[:4], theirs[:4], exact[:4], strict=True):
        check_accuracy(a, b, truth)


@needs_extension
def test_gradients_in_float64() -> None:
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    norm = make_norm(3, torch.float64)
    norm.track_running_stats = False
    norm.running_mean = norm.running_var = None
    with use_impl("native"):
        assert gradcheck(lambda x: bn_relu_pool(x, norm), x, fast_mode=True)


@needs_extension
def test_nan_passes_and_clipped_windows_give_nothing() -> None:
    x, norm = torch.randn(1, 2, 5, 5), make_norm(2)
    nn.init.constant_(norm.bias, -100.0)
    leaf = x.clone().requires_grad_()
    y = bn_relu_pool(leaf, norm)
    assert torch.equal(y, torch.zeros_like(y))
    (grad,) = torch.autograd.grad(y.sum(), leaf)
    assert torch.equal(grad, torch.zeros_like(grad))
    x[0, 1, 2, 2] = float("nan")
    assert bn_relu_pool(x, norm)[0, 1].isnan().all()


@needs_extension
def test_any_layout(layout: Callable[[Tensor], Tensor]) -> None:
    x, norm = layout(torch.randn(2, 6, 9, 11)), make_norm(6)
    if x.size(0) == 0:
        with pytest.raises(ValueError, match="one value per channel"):
            bn_relu_pool(x, norm)
        return
    y = plain(x, copy.deepcopy(norm))
    for grad in (torch.randn(y.shape), torch.ones(()).expand_as(y)):
        expected, actual = (results(f, x, norm, False, grad) for f in (plain, bn_relu_pool))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@needs_extension
def test_frozen_input_gets_no_gradient_and_saves_one_byte_per_window(keep_in: Keep) -> None:
    x, norm = torch.randn(2, 8, 9, 9).to(memory_format=torch.channels_last), make_norm(8)
    saved: list[Tensor] = []
    with saved_tensors_hooks(keep_in(saved), lambda t: t):
        y = bn_relu_pool(x, norm)
    assert [t.dtype for t in saved if t.shape == y.shape] == [torch.uint8]
    y.sum().backward()
    assert norm.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_autocast(implementation: str, dtype: torch.dtype) -> None:
    x, norm = torch.randn(2, 5, 7, 7, requires_grad=True), make_norm(5)
    with torch.autocast("cpu", dtype=dtype), use_impl(implementation):
        y = bn_relu_pool(x, norm)
    assert y.dtype == dtype
    grads = torch.autograd.grad(y.float().sum(), [x, *norm.parameters()])
    assert {grad.dtype for grad in grads} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_compiles_whole(implementation: str) -> None:
    x, norm, grad = torch.randn(2, 8, 9, 9), make_norm(8), torch.randn(2, 8, 4, 4)
    compiled = torch.compile(bn_relu_pool, fullgraph=True, backend="aot_eager")
    with use_impl(implementation):
        actual, expected = (results(f, x, norm, False, grad) for f in (compiled, bn_relu_pool))
    torch.testing.assert_close(actual, expected)


@needs_extension
@pytest.mark.slow
def test_opcheck() -> None:
    x, norm = torch.randn(2, 8, 9, 8), make_norm(8)
    weight, bias = norm.weight.detach(), norm.bias.detach()
    statistics = ops.bn_relu_concat_statistics([x])
    opcheck(ops.bn_relu_pool.default, (x, statistics, weight, bias, 1e-3, True))
    y, index = ops.bn_relu_pool(x, statistics, weight, bias, 1e-3, True)
    opcheck(ops.bn_relu_pool_sums.default, (y, index, x, statistics, 1e-3))
    sums = ops.bn_relu_pool_sums(y, index, x, statistics, 1e-3)
    opcheck(
        ops.bn_relu_pool_backward.default,
        (y, index, x, statistics, weight, 1e-3, sums, 144.0),
    )


def test_too_small_and_wrong_norms_are_refused() -> None:
    with pytest.raises(ValueError, match="no window of 3x3"):
        bn_relu_pool(torch.randn(2, 3, 2, 5), make_norm(3))
    with pytest.raises(ValueError, match="inference mode"):
        bn_relu_pool(torch.randn(2, 3, 5, 5), make_norm(3).eval())


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
@pytest.mark.filterwarnings("ignore:.*skips backend")
def test_fake_cuda_tensors_need_no_gpu() -> None:
    with FakeTensorMode():
        x = torch.empty(2, 8, 9, 9, device="cuda", requires_grad=True)
        y = bn_relu_pool(x, nn.BatchNorm2d(8, device="cuda"), True)
    assert (y.device.type, tuple(y.shape)) == ("cuda", (2, 8, 4, 4))


def test_the_stem_uses_it_in_training_alone() -> None:
    net, x = GoogLeNet("torchvision", 10, aux=False), torch.randn(2, 3, 64, 64)
    seen: list[str] = []
    with record_calls(lambda op, arguments: seen.append(op.name)):
        net(x)
        assert seen.count("bn_relu_pool") == 2
        seen.clear()
        net.eval()(x)
    assert "bn_relu_pool" not in seen
