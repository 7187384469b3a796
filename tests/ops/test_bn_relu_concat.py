import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck
from torch.autograd.graph import saved_tensors_hooks

from googlenet_fast import extension
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.ops import bn_relu_concat, inception_bn, use_impl

Check = Callable[[Tensor, Tensor, Tensor], None]
Keep = Callable[[list[Tensor]], Callable[[Tensor], Tensor]]
ops = torch.ops.googlenet_fast

needs_extension = pytest.mark.skipif(
    extension.UNAVAILABLE is not None, reason=str(extension.UNAVAILABLE)
)
WIDTHS = {
    "3a": ((64, 128, 32, 32), 28),
    "4d": ((112, 288, 64, 64), 14),
    "5b": ((384, 384, 128, 128), 7),
    "odd": ((3, 1, 7, 5), 13),
    "two pixels": ((9, 4), 1),
    "one branch": ((17,), 5),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def make_branches(widths: Sequence[int], size: int, batch: int = 2, **options: Any) -> list[Tensor]:
    """Random branches, channels_last."""
    shapes = [(batch, channels, size, size) for channels in widths]
    return [torch.randn(shape, **options).to(memory_format=torch.channels_last) for shape in shapes]


def make_norms(widths: Sequence[int], **options: Any) -> list[nn.BatchNorm2d]:
    """Norms with random parameters, some weights negative, and running statistics."""
    norms = [nn.BatchNorm2d(channels, eps=1e-3, **options) for channels in widths]
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        if norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return norms


def make_grad(branches: Sequence[Tensor], norms: Sequence[nn.BatchNorm2d]) -> Tensor:
    """A random gradient of the output, zero where rounding can change what ReLU passes."""
    normalized = [
        copy.deepcopy(norm).double()(x.double()) for x, norm in zip(branches, norms, strict=True)
    ]
    inputs = torch.cat(normalized, dim=1)
    return torch.randn_like(inputs).where(inputs.abs() > 1e-4, 0).to(branches[0].dtype)


def results(
    implementation: str,
    branches: Sequence[Tensor],
    norms: Sequence[nn.BatchNorm2d],
    grad: Tensor,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Output, gradients and running statistics, which start as those of `norms`."""
    norms = [copy.deepcopy(norm).to(dtype) for norm in norms]
    leaves = [x.detach().to(dtype).requires_grad_() for x in branches]
    with use_impl(implementation):
        y = bn_relu_concat(leaves, norms)
    parameters = [p for norm in norms for p in norm.parameters()]
    gradients = torch.autograd.grad(y, [*leaves, *parameters], grad.to(y.dtype))
    return [y.detach(), *gradients, *(b for norm in norms for b in norm.buffers())]


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", WIDTHS)
def test_native_is_as_accurate_as_plain_pytorch(
    case: str, dtype: torch.dtype, check_accuracy: Check
) -> None:
    widths, size = WIDTHS[case]
    branches, norms = make_branches(widths, size, dtype=dtype), make_norms(widths)
    grad = make_grad(branches, norms)
    exact = results("reference", branches, norms, grad, torch.float64)
    plain = results("reference", branches, norms, grad)
    actual = results("native", branches, norms, grad)
    assert actual[0].is_contiguous(memory_format=torch.channels_last)
    for ours, theirs, truth in zip(actual, plain, exact, strict=True):
        assert ours.dtype == theirs.dtype
        check_accuracy(ours, theirs, truth)


@needs_extension
def test_a_mean_far_from_zero_costs_no_digits() -> None:
    x = (torch.randn(4, 8, 14, 14) + 1000).to(memory_format=torch.channels_last)
    mean, variance = ops.bn_relu_concat_statistics([x])
    exact = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean.double(), exact.mean(1), rtol=2e-7, atol=0)
    torch.testing.assert_close(variance.double(), exact.var(1, correction=0), rtol=2e-5, atol=0)


@needs_extension
@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_running_statistics_over_several_batches(momentum: float | None) -> None:
    norms = make_norms((8, 3), momentum=momentum)
    theirs = copy.deepcopy(norms)
    for _ in range(4):
        branches = make_branches((8, 3), 6, batch=3)
        bn_relu_concat(branches, norms)
        for norm, x in zip(theirs, branches, strict=True):
            norm(x)
    for ours, reference in zip(norms, theirs, strict=True):
        for name, buffer in reference.named_buffers():
            torch.testing.assert_close(ours.get_buffer(name), buffer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_norms_without_running_statistics(implementation: str) -> None:
    norms = make_norms((8,), track_running_stats=False)
    (x,) = make_branches((8,), 5)
    with use_impl(implementation):
        y = bn_relu_concat([x], norms)
    torch.testing.assert_close(y, torch.relu(norms[0](x)))


@needs_extension
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: torch.randn(2, 12, 5, 7).to(memory_format=torch.channels_last)[:, 4:10],
        lambda x: x.contiguous(),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.randn(2, 6, 5, 9).to(memory_format=torch.channels_last)[..., 1:8],
        lambda x: torch.randn(2, 12, 5, 7).to(memory_format=torch.channels_last)[:, ::2],
    ],
    ids=["slice of channels", "NCHW", "transposed", "slice of columns", "every second"],
)
def test_any_layout_of_inputs_and_gradients(layout: Callable[[Tensor], Tensor]) -> None:
    plain, grad = torch.randn(2, 6, 5, 7), torch.randn(2, 6, 5, 7)
    odd, odd_grad = layout(plain), layout(grad)
    assert odd.shape == plain.shape
    norms = make_norms((6,))
    dense = odd.clone(memory_format=torch.channels_last)
    actual = results("native", [odd], norms, odd_grad)
    expected = results("native", [dense], norms, odd_grad.contiguous())
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("before", "after"), [(8, 16), (1, 2), (8, 3)], ids=["aligned", "misaligned", "odd rows"]
)
def test_slices_of_channels_are_read_alone(
    before: int, after: int, dtype: torch.dtype, check_accuracy: Check
) -> None:
    def inside_wider(x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        wide = x.new_full((n, height, width, before + channels + after), float("nan"))
        view = wide.permute(0, 3, 1, 2)[:, before : before + channels]
        return view.copy_(x)

    widths = (16, 24)
    branches = [inside_wider(x) for x in make_branches(widths, 9, dtype=dtype)]
    norms = make_norms(widths)
    grad = inside_wider(make_grad(branches, norms))
    exact = results("reference", branches, norms, grad, torch.float64)
    plain = results("reference", branches, norms, grad)
    actual = results("native", branches, norms, grad)
    for ours, theirs, truth in zip(actual, plain, exact, strict=True):
        check_accuracy(ours, theirs, truth)


@needs_extension
def test_the_same_bits_every_time() -> None:
    branches, norms = make_branches((37, 8), 14), make_norms((37, 8))
    grad = torch.randn(2, 45, 14, 14)
    first, second = (results("native", branches, norms, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@needs_extension
def test_nan_stays_in_its_channel() -> None:
    (x,) = make_branches((4,), 3)
    x[0, 1, 2, 2] = float("nan")
    actual, expected = (
        results(implementation, [x], make_norms((4,)), torch.ones(2, 4, 3, 3))[:2]
        for implementation in ("native", "reference")
    )
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())


@needs_extension
def test_gradients_in_float64() -> None:
    widths = (3, 1, 4, 2)
    norms = [norm.double() for norm in make_norms(widths, track_running_stats=False)]
    branches = [x.requires_grad_() for x in make_branches(widths, 3, dtype=torch.float64)]
    parameters = [p for norm in norms for p in norm.parameters()]

    def function(*tensors: Tensor) -> Tensor:
        return bn_relu_concat(tensors[:4], norms)

    with use_impl("native"):
        assert gradcheck(function, (*branches, *parameters))


def opcheck_arguments() -> dict[str, tuple[Any, ...]]:
    """Arguments of each op, of branches of several layouts."""
    branches = [*make_branches((8, 3), 4), torch.randn(2, 5, 4, 4)]
    widths = [8, 3, 5]
    statistics = torch.stack([torch.randn(16), torch.rand(16)]).split(widths, dim=1)
    weights, biases = torch.randn(16).split(widths), torch.randn(16).split(widths)
    normalized = (branches, list(statistics), list(weights), list(biases), 1e-3)
    grads = [*torch.randn(2, 11, 4, 4).split(widths[:2], dim=1), torch.randn(2, 5, 4, 4)]
    sums = list(torch.randn(2, 16).split(widths, dim=1))
    return {
        "bn_relu_concat_statistics": (branches,),
        "bn_relu_concat": (*normalized, False),
        "bn_relu_concat_sums": (grads, *normalized),
        "bn_relu_concat_backward": (grads, *normalized, sums, 32.0, True),
    }


@needs_extension
@pytest.mark.parametrize("op", opcheck_arguments())
def test_opcheck(op: str) -> None:
    torch.library.opcheck(getattr(ops, op).default, opcheck_arguments()[op])


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_compiles_whole(implementation: str) -> None:
    branches, norms = make_branches((8, 3), 4), make_norms((8, 3))
    compiled = torch.compile(bn_relu_concat, fullgraph=True, backend="aot_eager")
    outcomes = []
    for function in (compiled, bn_relu_concat):
        twins = copy.deepcopy(norms)
        leaves = [x.clone().requires_grad_() for x in branches]
        with use_impl(implementation):
            y = function(leaves, twins)
        y.square().sum().backward()
        grads = [x.grad for x in [*leaves, *(p for norm in twins for p in norm.parameters())]]
        outcomes.append([y, *grads, *(b for norm in twins for b in norm.buffers())])
    torch.testing.assert_close(*outcomes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_autocast_casts_branches_and_keeps_statistics(
    implementation: str, dtype: torch.dtype
) -> None:
    branches, norms = make_branches((8, 3), 4), make_norms((8, 3))
    with torch.autocast("cpu", dtype=dtype), use_impl(implementation):
        y = bn_relu_concat(branches, norms)
    assert y.dtype == dtype
    y.float().sum().backward()
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_mean.dtype == torch.float32
        assert norm.weight.grad is not None
        assert norm.weight.grad.dtype == torch.float32


@needs_extension
def test_no_result_is_saved(keep_in: Keep) -> None:
    (x,) = make_branches((8,), 4)
    x.requires_grad_()
    saved: list[Tensor] = []
    with saved_tensors_hooks(keep_in(saved), lambda tensor: tensor):
        y = bn_relu_concat([x], make_norms((8,)))
    assert y.requires_grad
    assert sorted(tensor.numel() for tensor in saved) == [8, 8, 16, x.numel()]


@needs_extension
def test_statistics_of_nothing_are_zero() -> None:
    assert ops.bn_relu_concat_statistics([torch.empty(0, 3, 4, 4)]).tolist() == [[0.0] * 3] * 2


@needs_extension
def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    branches, norms = make_branches((37, 5), 29, batch=4), make_norms((37, 5))
    grad = torch.randn(4, 42, 29, 29)
    threads = torch.get_num_threads()
    try:
        outcomes = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outcomes.append(results("native", branches, norms, grad))
    finally:
        torch.set_num_threads(threads)
    for other in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize(
    ("branches", "norms", "message"),
    [
        ([], [], "0 branches and 0 norms"),
        ([torch.ones(1, 2, 3, 3)], make_norms((2, 2)), "1 branches and 2 norms"),
        ([torch.ones(1, 2, 3, 3)], [nn.BatchNorm2d(2, affine=False)], "affine=True"),
        ([torch.ones(1, 2, 3, 3)], [nn.BatchNorm2d(2).eval()], "in inference mode"),
        ([torch.ones(2, 2, 3, 3)] * 2, [nn.BatchNorm2d(2), *make_norms((2,))], "several eps"),
        ([torch.ones(1, 2, 1, 1)], make_norms((2,)), "one value per channel"),
        ([torch.ones(0, 2, 3, 3)], make_norms((2,)), "one value per channel"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    implementation: str, branches: list[Tensor], norms: list[nn.BatchNorm2d], message: str
) -> None:
    with use_impl(implementation), pytest.raises(ValueError, match=message):
        bn_relu_concat(branches, norms)


@needs_extension
def test_more_branches_than_the_kernel_takes() -> None:
    branches, norms = make_branches((2,) * 5, 3), make_norms((2,) * 5)
    with (
        use_impl("native"),
        pytest.raises(GoogLeNetError, match=r"5 branches.*available: reference"),
    ):
        bn_relu_concat(branches, norms)


@needs_extension
@pytest.mark.parametrize(
    ("changed", "value", "message"),
    [
        (
            0,
            [torch.ones(2, 8, 4, 4), torch.ones(2, 3, 4, 5)],
            r"branches must be .*, not \(2, 3, 4, 5\)",
        ),
        (1, [torch.ones(2, 8)], "statistics must be 2, one per branch, not 1"),
        (1, [torch.ones(2, 8), torch.ones(2, 4)], r"statistics must be \(2, 3\), not \(2, 4\)"),
        (1, [torch.ones(2, 8), torch.ones(2, 3).half()], "statistics must be of Float, not Half"),
        (2, [torch.ones(8), torch.ones(4)], r"weights must be \(3\), not \(4\)"),
    ],
)
def test_the_op_refuses_what_does_not_fit(changed: int, value: list[Tensor], message: str) -> None:
    arguments: list[Any] = [
        *([torch.ones(2, 8, 4, 4), torch.ones(2, 3, 4, 4)], [torch.ones(2, 8), torch.ones(2, 3)]),
        *([torch.ones(8), torch.ones(3)], [torch.ones(8), torch.ones(3)], 1e-3, True),
    ]
    arguments[changed] = value
    with pytest.raises(RuntimeError, match=message):
        ops.bn_relu_concat(*arguments)


BLOCK = (5, 4, 6, 3, 7, 2)
"""Channels of a block's branch 1, 3x3 reduction, 3x3, 5x5 reduction, 5x5 and projection."""


def block_arguments(
    dtype: torch.dtype, device: str = "cpu"
) -> tuple[list[Tensor], list[nn.BatchNorm2d]]:
    c1, c3r, c3, c5r, c5, cp = BLOCK
    make = partial(torch.randn, dtype=dtype, device=device)
    tensors = [make(2, 8, 6, 5), make(c1 + c3r + c5r, 8, 1, 1)]
    tensors += [make(c3, c3r, 3, 3), make(c5, c5r, 3, 3), make(cp, 8, 1, 1)]
    tensors = [x.to(memory_format=torch.channels_last).requires_grad_() for x in tensors]
    norms = make_norms((c1 + c3r + c5r, c3, c5, cp), device=device)
    return tensors, norms


def block_results(
    function: Callable[..., Tensor], tensors: list[Tensor], norms: list[nn.BatchNorm2d]
) -> list[Tensor]:
    norms = copy.deepcopy(norms)
    y = function(*tensors, norms)
    parameters = [p for norm in norms for p in norm.parameters()]
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y.dtype)
    gradients = torch.autograd.grad(y, [*tensors, *parameters], grad)
    return [y.detach(), *gradients, *(b for norm in norms for b in norm.buffers())]


@needs_extension
def test_a_block_in_one_node_equals_one_thing_after_the_other_in_float64() -> None:
    tensors, norms = block_arguments(torch.float64)
    norms = [norm.double() for norm in norms]
    outcomes = []
    for implementation in ("native", "reference"):
        with use_impl(implementation):
            outcomes.append(block_results(inception_bn, tensors, norms))
    torch.testing.assert_close(*outcomes)


@needs_extension
def test_a_blocks_gradients_in_float64() -> None:
    tensors, _ = block_arguments(torch.float64)
    c1, c3r, c3, c5r, c5, cp = BLOCK
    norms = make_norms((c1 + c3r + c5r, c3, c5, cp), track_running_stats=False)
    norms = [norm.double() for norm in norms]

    def function(x: Tensor, w_in: Tensor, w3: Tensor, w5: Tensor, wp: Tensor) -> Tensor:
        return inception_bn(x, w_in, w3, w5, wp, norms)

    with use_impl("native"):
        assert gradcheck(function, tensors, fast_mode=True)


@needs_extension
def test_frozen_convolutions_in_a_block() -> None:
    tensors, norms = block_arguments(torch.float32)
    x, w_in, w3, w5, wp = tensors
    frozen: Any = [weight.detach() for weight in (w_in, w3, w5, wp)]
    inception_bn(*[x, *frozen, norms]).square().sum().backward()
    assert x.grad is not None
    assert all(weight.grad is None for weight in tensors[1:])
    inception_bn(x.detach(), w_in, w3, w5, wp, norms).square().sum().backward()
    assert all(weight.grad is not None for weight in tensors[1:])


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_a_block_compiles_whole(implementation: str) -> None:
    tensors, norms = block_arguments(torch.float32)
    compiled = torch.compile(inception_bn, fullgraph=True, backend="aot_eager")
    with use_impl(implementation):
        actual = block_results(compiled, tensors, norms)
        expected = block_results(inception_bn, tensors, norms)
    torch.testing.assert_close(actual, expected)


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
def test_fake_cuda_tensors_need_no_gpu() -> None:
    with FakeTensorMode():
        tensors, norms = block_arguments(torch.float16, "cuda")
        x, w_in, w3, w5, wp = tensors
        y = inception_bn(x, w_in, w3, w5, wp, norms)
        assert y.requires_grad
        x, norm = tensors[0].detach(), make_norms((8,), device="cuda")[0]
        weight, bias = norm.weight.detach(), norm.bias.detach()
        statistics = ops.bn_relu_concat_statistics([x])
        arguments = ([x], [x], [statistics], [weight], [bias], 1e-3)
        sums = ops.bn_relu_concat_sums(*arguments)
        (grad,) = ops.bn_relu_concat_backward(*arguments, [sums], 60.0, True)
    for tensor, shape in ((y, (2, 20, 6, 5)), (grad, (2, 8, 6, 5))):
        assert (tensor.device.type, tuple(tensor.shape)) == ("cuda", shape)
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert (tuple(sums.shape), sums.dtype) == ((2, 8), torch.float32)
