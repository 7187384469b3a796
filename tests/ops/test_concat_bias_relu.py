import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks

from googlenet_fast import extension, registry
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.ops import concat_bias_relu, use_impl
from googlenet_fast.ops.concat_bias_relu import concat_bias_relu_reference

Check = Callable[[Tensor, Tensor, Tensor], None]

needs_extension = pytest.mark.skipif(
    extension.UNAVAILABLE is not None, reason=str(extension.UNAVAILABLE)
)
WIDTHS = {
    "3a": ((64, 128, 32, 32), 28),
    "4d": ((112, 288, 64, 64), 14),
    "5b": ((384, 384, 128, 128), 7),
    "odd": ((3, 1, 7, 5), 13),
    "one pixel": ((9, 4), 1),
    "one branch": ((17,), 5),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def make_branches(widths: Sequence[int], size: int, batch: int = 2, **options: Any) -> list[Tensor]:
    """Random branches, channels_last."""
    shapes = [(batch, channels, size, size) for channels in widths]
    return [torch.randn(shape, **options).to(memory_format=torch.channels_last) for shape in shapes]


def make_biases(widths: Sequence[int], **options: Any) -> list[Tensor]:
    return [torch.randn(channels, **options) for channels in widths]


def gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], count: int, grad: Tensor
) -> list[Tensor]:
    """Output and gradients of a function of branches and biases, `count` of the former."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = function(leaves[:count], leaves[count:], True)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", WIDTHS)
def test_native_is_as_accurate_as_plain_pytorch(
    case: str, dtype: torch.dtype, check_accuracy: Check
) -> None:
    widths, size = WIDTHS[case]
    branches, biases = make_branches(widths, size, dtype=dtype), make_biases(widths)
    grad = torch.randn(2, sum(widths), size, size, dtype=dtype)
    tensors, count = [*branches, *biases], len(widths)
    exact = gradients(
        concat_bias_relu_reference, [tensor.double() for tensor in tensors], count, grad
    )
    plain = gradients(concat_bias_relu_reference, tensors, count, grad)
    with use_impl("native"):
        actual = gradients(concat_bias_relu, tensors, count, grad)
    assert actual[0].is_contiguous(memory_format=torch.channels_last)
    for ours, theirs, truth, tensor in zip(
        actual, plain, exact, [branches[0], *tensors], strict=True
    ):
        assert ours.dtype == tensor.dtype
        check_accuracy(ours, theirs, truth)


@needs_extension
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_optional_parts(relu: bool, with_bias: bool) -> None:
    branches = [branch.requires_grad_() for branch in make_branches((8, 3), 6)]
    biases = [bias.requires_grad_() for bias in make_biases((8, 3))] if with_bias else []
    y = concat_bias_relu(branches, biases or None, relu)
    expected = concat_bias_relu_reference(branches, biases, relu)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    grad = torch.randn_like(y)
    leaves = [*branches, *biases]
    for ours, theirs in zip(
        torch.autograd.grad(y, leaves, grad),
        torch.autograd.grad(expected, leaves, grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@needs_extension
def test_biases_in_the_dtype_of_the_branches() -> None:
    branches = make_branches((8, 4), 5, dtype=torch.bfloat16)
    biases = make_biases((8, 4), dtype=torch.bfloat16)
    leaves = [bias.requires_grad_() for bias in biases]
    y = concat_bias_relu(branches, leaves)
    torch.testing.assert_close(y, concat_bias_relu_reference(branches, leaves, True))
    y.sum().backward()
    assert leaves[0].grad is not None
    assert leaves[0].grad.dtype == torch.bfloat16


@needs_extension
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: torch.randn(2, 12, 5, 7).to(memory_format=torch.channels_last)[:, 4:10],
        lambda x: x.contiguous(),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: x[:, :, :, :1].expand(2, 6, 5, 7),
        lambda x: torch.randn(2, 6, 5, 9).to(memory_format=torch.channels_last)[..., 1:8],
        lambda x: torch.randn(2, 12, 5, 7).to(memory_format=torch.channels_last)[:, ::2],
    ],
    ids=["slice of channels", "NCHW", "transposed", "expanded", "slice of columns", "every second"],
)
def test_any_layout_of_inputs_and_gradients(layout: Callable[[Tensor], Tensor]) -> None:
    x = make_branches((6,), 7)[0][:, :, :5]
    odd = layout(x).requires_grad_()
    plain = odd.detach().clone(memory_format=torch.channels_last).requires_grad_()
    assert odd.shape == plain.shape == (2, 6, 5, 7)
    bias = torch.randn(6)
    ours, theirs = (
        concat_bias_relu([odd], [bias]),
        concat_bias_relu_reference([plain], [bias], True),
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    grad = layout(torch.randn(2, 6, 5, 7))
    torch.testing.assert_close(
        torch.autograd.grad(ours, odd, grad), torch.autograd.grad(theirs, plain, grad)
    )


@needs_extension
@pytest.mark.parametrize("shape", [(0, 4, 5, 5), (2, 4, 0, 5), (2, 0, 5, 5)])
def test_empty_input(shape: tuple[int, ...]) -> None:
    branch, bias = torch.empty(shape, requires_grad=True), torch.randn(shape[1], requires_grad=True)
    y = concat_bias_relu([branch, branch], [bias, bias])
    assert y.shape == (shape[0], 2 * shape[1], *shape[2:])
    y.sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [0] * shape[1]


@needs_extension
def test_nan_passes_forward_and_backward() -> None:
    branch = torch.tensor([1.0, float("nan"), -1.0]).view(1, 3, 1, 1).requires_grad_()
    y = concat_bias_relu([branch])
    expected = torch.relu(branch)
    torch.testing.assert_close(y, expected, equal_nan=True)
    for output in (y, expected):
        (grad,) = torch.autograd.grad(output.sum(), branch)
        assert grad.flatten().tolist() == [1, 1, 0]


@needs_extension
def test_gradients_in_float64_to_second_order() -> None:
    widths = (3, 1, 4, 2)
    tensors = [
        *make_branches(widths, 3, dtype=torch.float64),
        *make_biases(widths, dtype=torch.float64),
    ]
    leaves = tuple(tensor.requires_grad_() for tensor in tensors)

    def function(*tensors: Tensor) -> Tensor:
        return concat_bias_relu(tensors[:4], tensors[4:])

    with use_impl("native"):
        assert gradcheck(function, leaves)
        assert gradgradcheck(function, leaves)


@pytest.mark.parametrize("with_grad", [True, False])
def test_opcheck(with_grad: bool) -> None:
    branches = [branch.requires_grad_(with_grad) for branch in make_branches((8, 3), 4)]
    biases = [bias.requires_grad_(with_grad) for bias in make_biases((8, 3))]
    ops = torch.ops.googlenet_fast
    torch.library.opcheck(ops.concat_bias_relu.default, (branches, biases, True))
    torch.library.opcheck(
        ops.concat_bias_relu.default, ([b.contiguous() for b in branches], [], False)
    )
    grad, y = torch.randn(2, 11, 4, 4, requires_grad=with_grad), torch.randn(2, 11, 4, 4)
    torch.library.opcheck(ops.concat_bias_relu_backward.default, (grad, y, [8, 3], True))
    torch.library.opcheck(ops.concat_bias_relu_backward.default, (grad, None, [8, 3], False))


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_compiles_whole(implementation: str) -> None:
    branches = [branch.requires_grad_() for branch in make_branches((8, 3), 4)]
    biases = [bias.requires_grad_() for bias in make_biases((8, 3))]
    compiled = torch.compile(concat_bias_relu, fullgraph=True, backend="aot_eager")
    with use_impl(implementation):
        y, expected = compiled(branches, biases), concat_bias_relu(branches, biases)
        torch.testing.assert_close(y, expected, rtol=0, atol=0)
        leaves, grad = [*branches, *biases], torch.randn_like(y)
        torch.testing.assert_close(
            torch.autograd.grad(y, leaves, grad), torch.autograd.grad(expected, leaves, grad)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_autocast_casts_branches_and_keeps_biases(implementation: str, dtype: torch.dtype) -> None:
    branches, biases = make_branches((8, 3), 4), make_biases((8, 3))
    bias = biases[0].requires_grad_()
    with torch.autocast("cpu", dtype=dtype), use_impl(implementation):
        y = concat_bias_relu(branches, biases)
    assert y.dtype == dtype
    expected = concat_bias_relu_reference([branch.to(dtype) for branch in branches], biases, True)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    (grad,) = torch.autograd.grad(y.float().sum(), bias)
    assert grad.dtype == torch.float32


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
def test_fake_cuda_tensors_need_no_gpu() -> None:
    with FakeTensorMode():
        branches = [torch.empty(2, c, 5, 5, device="cuda", requires_grad=True) for c in (8, 3)]
        y = concat_bias_relu(branches, [torch.empty(c, device="cuda") for c in (8, 3)])
        grads, grad_bias = torch.ops.googlenet_fast.concat_bias_relu_backward(y, y, [8, 3], True)
    assert y.requires_grad
    for tensor, shape in zip([y, *grads], [(2, 11, 5, 5), (2, 8, 5, 5), (2, 3, 5, 5)], strict=True):
        assert (tensor.device.type, tuple(tensor.shape)) == ("cuda", shape)
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert tuple(grad_bias.shape) == (11,)


@needs_extension
def test_only_the_output_is_saved_and_only_for_relu() -> None:
    branch = make_branches((8,), 4)[0].requires_grad_()
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.no_grad():
            concat_bias_relu([branch])
        concat_bias_relu([branch], relu=False)
        assert saved == []
        y = concat_bias_relu([branch])
    assert [tensor.data_ptr() for tensor in saved] == [y.data_ptr()]


@needs_extension
def test_bias_gradients_do_not_depend_on_the_number_of_threads() -> None:
    grad, y = torch.randn(4, 37, 29, 31), torch.randn(4, 37, 29, 31)
    threads = torch.get_num_threads()
    sums = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            _, grad_bias = torch.ops.googlenet_fast.concat_bias_relu_backward(grad, y, [37], True)
            sums.append(grad_bias)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


@needs_extension
def test_more_branches_than_the_kernel_takes_fall_back_with_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_warned", set())
    branches = make_branches((2,) * 5, 3)
    with pytest.warns(RuntimeWarning, match="skips backend native: 5 branches"):
        y = concat_bias_relu(branches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        concat_bias_relu(branches)
    torch.testing.assert_close(y, concat_bias_relu_reference(branches, [], True))
    with (
        use_impl("native"),
        pytest.raises(GoogLeNetError, match=r"5 branches.*available: reference"),
    ):
        concat_bias_relu(branches)


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize(
    ("branches", "biases"),
    [
        ([], None),
        ([torch.ones(1, 2, 3, 3)], [torch.ones(2), torch.ones(2)]),
        ([torch.ones(1, 2, 3, 3), torch.ones(1, 2, 4, 3)], None),
        ([torch.ones(1, 2, 3, 3)], [torch.ones(3)]),
    ],
    ids=["no branches", "too many biases", "other size", "bias of another length"],
)
def test_arguments_that_do_not_fit_are_refused(
    implementation: str, branches: list[Tensor], biases: list[Tensor] | None
) -> None:
    with use_impl(implementation), pytest.raises((ValueError, RuntimeError)):
        concat_bias_relu(branches, biases)


@needs_extension
def test_branches_of_several_dtypes_are_refused() -> None:
    branches = [torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3, dtype=torch.bfloat16)]
    with pytest.raises(RuntimeError, match="branches must be of Float, not"):
        concat_bias_relu(branches)
