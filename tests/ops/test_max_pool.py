from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck

from googlenet_fast import extension
from googlenet_fast.ops import max_pool, use_impl


def definition(x: Tensor) -> Tensor:
    padded = F.pad(x, (1, 1, 1, 1), value=float("-inf"))
    return padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).amax(4)


native = pytest.mark.skipif(
    extension.missing_part("cpu") is not None, reason=str(extension.missing_part("cpu"))
)
IMPLEMENTATIONS = ("reference", pytest.param("native", marks=native))


@pytest.mark.parametrize(
    "shape", [(2, 5, 7, 4), (1, 3, 1, 1), (2, 4, 1, 6), (1, 37, 9, 2)], ids=str
)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_equals_its_definition(implementation: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    with use_impl(implementation):
        y, expected = max_pool(x), definition(x)
        assert torch.equal(max_pool(x.detach()), y)
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn(shape)
    (ours,), (theirs,) = torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(ours, theirs)


@native
def test_native_chooses_among_ties_as_pytorch_does() -> None:
    x = torch.randint(-2, 2, (3, 21, 9, 8)).float()
    x[0, 3, 2:4, 2:4] = float("nan")
    x[1, 4] = float("-inf")
    x[2, 5, 3:8] = float("inf")
    grad = torch.randint(1, 9, x.shape).float()
    found = []
    for implementation in ("native", "reference"):
        leaf = x.clone().requires_grad_()
        with use_impl(implementation):
            y = max_pool(leaf)
        found.append([y.detach(), *torch.autograd.grad(y, leaf, grad)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_any_layout(implementation: str, layout: Callable[[Tensor], Tensor]) -> None:
    x = layout(torch.randn(2, 6, 9, 11)).requires_grad_()
    expected = definition(x)
    with use_impl(implementation):
        y = max_pool(x)
    assert torch.equal(y, expected)
    for grad in (layout(torch.randn(2, 6, 9, 11)), torch.ones(()).expand_as(y)):
        torch.testing.assert_close(
            torch.autograd.grad(y, x, grad, retain_graph=True),
            torch.autograd.grad(expected, x, grad, retain_graph=True),
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_casts(dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 6, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        y = max_pool(x)
    assert y.dtype == dtype
    assert torch.equal(y, definition(x.to(dtype)))
    assert torch.autograd.grad(y.sum(), x)[0].dtype == torch.float32


def test_gradcheck() -> None:
    assert gradcheck(max_pool, torch.randn(1, 3, 5, 4, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("implementation", ["reference", "cuda"])
def test_fake_cuda_tensors_need_no_gpu(implementation: str) -> None:
    missing = extension.missing_part("cuda")
    if implementation == "cuda" and missing is not None:
        pytest.skip(missing)
    with FakeTensorMode(), use_impl(implementation):
        x = torch.empty(2, 8, 9, 9, device="cuda", dtype=torch.float16, requires_grad=True)
        y = max_pool(x)
        index = torch.empty_like(y, dtype=torch.uint8)
        grad = torch.ops.googlenet_fast.max_pool_backward.default(y, index, None)
    assert y.requires_grad
    for tensor in (y, grad):
        assert (tensor.device.type, tensor.dtype, tensor.shape) == ("cuda", x.dtype, x.shape)
        assert tensor.is_contiguous(memory_format=torch.channels_last)
