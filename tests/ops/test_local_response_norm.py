from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck
from torch.library import opcheck

from googlenet_fast import extension
from googlenet_fast.ops import local_response_norm, use_impl
from tests.helpers import TRITON

Check = Callable[[Tensor, Tensor, Tensor], None]
Keep = Callable[[list[Tensor]], Callable[[Tensor], Tensor]]

IMPLEMENTATIONS = ("reference", TRITON)
cuda = pytest.mark.skipif(
    extension.missing_part("cuda") is not None, reason=str(extension.missing_part("cuda"))
)


def gradient(function: Callable[..., Tensor], x: Tensor, grad: Tensor) -> list[Tensor]:
    """Output and input gradient."""
    leaf = x.detach().requires_grad_()
    y = function(leaf)
    return [y.detach(), *torch.autograd.grad(y, leaf, grad.to(y.dtype))]


@pytest.mark.parametrize("shape", [(2, 64, 7, 9), (1, 3, 7, 5), (2, 1, 3, 3), (0, 8, 5, 5)])
@pytest.mark.parametrize("size", [5, 4, 1])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_equals_pytorch(
    implementation: str, size: int, shape: tuple[int, ...], device: str
) -> None:
    x = (30 * torch.randn(shape, device=device)).requires_grad_()
    with use_impl(implementation):
        y, expected = local_response_norm(x, size), F.local_response_norm(x, size)
        torch.testing.assert_close(y, expected)
        assert y.is_contiguous(memory_format=torch.channels_last)
        grad = torch.randn_like(y)
        (ours,), (theirs,) = torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2, 192, 3, 5), (1, 100, 4, 7), (3, 9, 1, 1)], ids=str)
@pytest.mark.parametrize(("size", "beta"), [(5, 0.6), (5, 0.75), (2, 0.75), (7, 0.6)])
def test_triton_is_as_accurate_as_plain_pytorch(
    size: int,
    beta: float,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: str,
    check_accuracy: Check,
) -> None:
    x, grad = (10 * torch.randn(shape)).to(dtype), torch.randn(shape).to(dtype)

    def plain(x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)  # PyTorch on CPUs has no half precision
        return F.local_response_norm(x.to(wide), size, alpha=0.1, beta=beta, k=1.5).to(x.dtype)

    def fused(x: Tensor) -> Tensor:
        return local_response_norm(x, size, alpha=0.1, beta=beta, k=1.5)

    exact = gradient(plain, x.double(), grad)
    expected = gradient(plain, x, grad)
    with use_impl("triton"):
        actual = gradient(fused, x.to(device), grad.to(device))
    for ours, theirs, truth in zip(actual, expected, exact, strict=True):
        assert ours.dtype == dtype
        check_accuracy(ours.cpu(), theirs, truth)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_parameters_are_those_of_pytorch(implementation: str, device: str) -> None:
    x = torch.randn(2, 9, 4, 4, device=device)
    with use_impl(implementation):
        torch.testing.assert_close(
            local_response_norm(x, 3, alpha=0.7, beta=0.4, k=2.5),
            F.local_response_norm(x, 3, alpha=0.7, beta=0.4, k=2.5),
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_squares_of_halves_do_not_overflow_or_round(
    implementation: str, dtype: torch.dtype, device: str
) -> None:
    # fp16 ends at 65504, the square of 256.
    x = (1000 * torch.randn(2, 16, 5, 5, device=device)).to(dtype)
    expected = F.local_response_norm(x.double(), 5).to(dtype)
    with use_impl(implementation):
        y = local_response_norm(x)
        assert y.dtype == dtype
        torch.testing.assert_close(y, expected)
        with torch.autocast(device, dtype=dtype):
            leaf = x.float().requires_grad_()
            z = local_response_norm(leaf)
        assert torch.equal(z, y)
        assert torch.autograd.grad(z.sum(), leaf)[0].dtype == torch.float32


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(),
        lambda x: torch.cat([x, x], 1).to(memory_format=torch.channels_last)[:, 3:9],
        lambda x: x[:, :1].expand(-1, 6, -1, -1),
    ],
    ids=["NCHW", "slice of channels", "expanded"],
)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_any_layout(implementation: str, layout: Callable[[Tensor], Tensor], device: str) -> None:
    x = layout(torch.randn(2, 6, 9, 11, device=device)).requires_grad_()
    expected = F.local_response_norm(x, 5)
    with use_impl(implementation):
        y = local_response_norm(x)
    torch.testing.assert_close(y, expected)
    for grad in (
        torch.randn(y.shape, device=device),
        torch.randn(2, 9, 11, 12, device=device).permute(0, 3, 1, 2)[:, 3:9],
        torch.ones((), device=device).expand_as(y),
    ):
        torch.testing.assert_close(
            torch.autograd.grad(y, x, grad, retain_graph=True),
            torch.autograd.grad(expected, x, grad, retain_graph=True),
        )


def test_gradcheck() -> None:
    x = torch.randn(1, 6, 3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: local_response_norm(x, alpha=0.5), x)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_compiles_whole(implementation: str, device: str) -> None:
    x = torch.randn(2, 6, 5, 5, device=device, requires_grad=True)
    compiled = torch.compile(local_response_norm, fullgraph=True, backend="aot_eager")
    with use_impl(implementation):
        y, expected = compiled(x), local_response_norm(x)
        torch.testing.assert_close(y, expected)
        grad = torch.randn_like(y)
        torch.testing.assert_close(
            torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, x, grad)
        )


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
@pytest.mark.parametrize(
    ("kind", "implementation"),
    [
        ("meta", "reference"),
        ("cuda", "reference"),
        pytest.param("cuda", "triton", marks=pytest.mark.triton),
        pytest.param("cuda", "cuda", marks=cuda),
    ],
)
def test_fake_tensors_need_no_gpu(kind: str, implementation: str) -> None:
    with FakeTensorMode(), use_impl(implementation):
        y = local_response_norm(torch.empty(2, 8, 9, 9, device=kind, requires_grad=True))
    assert y.requires_grad
    assert (y.device.type, tuple(y.shape)) == (kind, (2, 8, 9, 9))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.triton
def test_triton_gives_the_same_bits_twice(device: str) -> None:
    x, grad = (torch.randn(2, 40, 5, 7, device=device) for _ in range(2))
    with use_impl("triton"):
        first, second = (gradient(local_response_norm, x, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.triton
def test_triton_saves_the_input_alone(device: str, keep_in: Keep) -> None:
    x = torch.randn(2, 6, 5, 5, device=device, requires_grad=True)
    saved: list[Tensor] = []
    with (
        use_impl("triton"),
        torch.autograd.graph.saved_tensors_hooks(keep_in(saved), lambda t: t),
    ):
        local_response_norm(x)
        assert len(saved) == 1
        assert saved[0].data_ptr() == x.data_ptr()
        saved.clear()
        local_response_norm(x.detach())
        with torch.no_grad():
            local_response_norm(x)
    assert not saved


@pytest.mark.triton
def test_triton_launches_once_each_way(device: str) -> None:
    from googlenet_fast.kernels.launch import Launch, observe

    names: list[str] = []

    def note(launch: Launch, run: Callable[[], None]) -> None:
        names.append(launch.kernel.fn.__name__)
        run()

    x = torch.randn(2, 6, 5, 5, device=device, requires_grad=True)
    with use_impl("triton"), observe(note):
        local_response_norm(x).sum().backward()
    assert names == [f"_local_response_norm_{way}_kernel" for way in ("forward", "backward")]


@pytest.mark.triton
def test_triton_passes_opcheck(device: str) -> None:
    x = torch.randn(2, 6, 4, 5, device=device)
    parameters = (5, 0.1, 0.75, 1.0)
    ops = torch.ops.googlenet_fast
    opcheck(ops.local_response_norm_triton, (x, *parameters))
    opcheck(ops.local_response_norm_triton, (x.clone().requires_grad_(), *parameters))
    opcheck(ops.local_response_norm_triton_backward, (torch.randn_like(x), x, *parameters))
