from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck

from googlenet_fast.ops import local_response_norm


@pytest.mark.parametrize("shape", [(2, 64, 14, 14), (1, 3, 7, 5), (2, 1, 3, 3), (0, 8, 5, 5)])
@pytest.mark.parametrize("size", [5, 4, 1])
def test_equals_pytorch(size: int, shape: tuple[int, ...]) -> None:
    x = (30 * torch.randn(shape)).requires_grad_()
    y, expected = local_response_norm(x, size), F.local_response_norm(x, size)
    torch.testing.assert_close(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(y)
    (ours,), (theirs,) = torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_parameters_are_those_of_pytorch() -> None:
    x = torch.randn(2, 9, 4, 4)
    torch.testing.assert_close(
        local_response_norm(x, 3, alpha=0.7, beta=0.4, k=2.5),
        F.local_response_norm(x, 3, alpha=0.7, beta=0.4, k=2.5),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_squares_of_halves_do_not_overflow_or_round(dtype: torch.dtype) -> None:
    x = (1000 * torch.randn(2, 16, 5, 5)).to(dtype)  # fp16 ends at 65504, the square of 256
    expected = F.local_response_norm(x.double(), 5).to(dtype)
    y = local_response_norm(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(local_response_norm(x.float()), y)


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(),
        lambda x: torch.cat([x, x], 1).to(memory_format=torch.channels_last)[:, 3:9],
    ],
    ids=["NCHW", "slice of channels"],
)
def test_any_layout(layout: Callable[[Tensor], Tensor]) -> None:
    x = layout(torch.randn(2, 6, 9, 11))
    torch.testing.assert_close(local_response_norm(x), F.local_response_norm(x, 5))


def test_gradcheck() -> None:
    x = torch.randn(1, 6, 3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: local_response_norm(x, alpha=0.5), x)


def test_compiles_whole() -> None:
    x = torch.randn(2, 6, 5, 5, requires_grad=True)
    compiled = torch.compile(local_response_norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), local_response_norm(x))


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_fake_tensors_need_no_gpu(device: str) -> None:
    with FakeTensorMode():
        y = local_response_norm(torch.empty(2, 8, 9, 9, device=device))
    assert (y.device.type, tuple(y.shape)) == (device, (2, 8, 9, 9))
