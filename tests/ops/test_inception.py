import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from googlenet_fast import extension, registry
from googlenet_fast.ops import inception, use_impl
from tests.helpers import TRITON

needs_extension = pytest.mark.skipif(
    extension.UNAVAILABLE is not None, reason=str(extension.UNAVAILABLE)
)
Check = Callable[[Tensor, Tensor, Tensor], None]
Keep = Callable[[list[Tensor]], Callable[[Tensor], Tensor]]

# In channels, size, C1, C3r, C3, C5r, C5, Cp
BLOCKS = {
    "3a": (192, 28, 64, 96, 128, 16, 32, 32),
    "5b": (832, 7, 384, 192, 384, 48, 128, 128),
    "odd": (7, 13, 3, 5, 9, 1, 2, 1),
}
ALL_BLOCKS = {
    "3a": (192, 5, 64, 96, 128, 16, 32, 32),
    "3b": (256, 5, 128, 128, 192, 32, 96, 64),
    "4a": (480, 5, 192, 96, 208, 16, 48, 64),
    "4b": (512, 5, 160, 112, 224, 24, 64, 64),
    "4c": (512, 5, 128, 128, 256, 24, 64, 64),
    "4d": (512, 5, 112, 144, 288, 32, 64, 64),
    "4e": (528, 5, 256, 160, 320, 32, 128, 128),
    "5a": (832, 3, 256, 160, 320, 32, 128, 128),
    "5b": (832, 3, 384, 192, 384, 48, 128, 128),
}
IMPLEMENTATIONS = ("reference", "aten")
EVERY_IMPLEMENTATION = (*IMPLEMENTATIONS, TRITON)


def make_arguments(
    block: str | tuple[int, ...],
    kernel: int = 5,
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> list[Any]:
    """Random input, weights and biases, each output of order 1; biases in fp32 or wider."""
    widths = BLOCKS[block] if isinstance(block, str) else block
    c, size, c1, c3_reduce, c3, c5_reduce, c5, cp = widths
    arguments: list[Any] = [torch.randn(2, c, size, size, dtype=dtype)]
    for out, fan, k in (
        (c1 + c3_reduce + c5_reduce, c, 1),
        (c3, c3_reduce, 3),
        (c5, c5_reduce, kernel),
        (cp, c, 1),
    ):
        weight = torch.randn(out, fan, k, k, dtype=torch.float64) / (fan * k * k) ** 0.5
        arguments.append(weight.to(dtype, memory_format=torch.channels_last))
        wide = torch.promote_types(dtype, torch.float32)
        arguments.append(torch.randn(out, dtype=wide) if bias else None)
    return [None if a is None else a.to(device) for a in arguments]


def far_from_zero(arguments: list[Any]) -> list[Any]:
    """Shift what ReLU sees: where rounding moves a value across zero, its gradient changes."""
    x, w_in, b_in, w3, b3, w5, b5, wp, bp = arguments
    return [x, w_in, b_in + 10, w3 / 10, b3 + 10, w5 / 10, b5 + 10, wp, bp + 10]


def gradients(block: Callable[..., Tensor], arguments: list[Any], grad: Tensor) -> list[Tensor]:
    """Output and the gradients of all tensor arguments."""
    leaves = [a.detach().requires_grad_() for a in arguments]
    y = block(leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


def plain_block(arguments: list[Any], reduce_relu: bool) -> Tensor:
    """The block in plain PyTorch, biases added to the rounded convolutions as on a GPU."""
    x, w_in, b_in, w3, b3, w5, b5, wp, bp = arguments

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = F.conv2d(x, weight, padding=weight.size(2) // 2)
        return y if bias is None else (y + bias.view(-1, 1, 1)).to(y.dtype)

    c1 = w_in.size(0) - w3.size(1) - w5.size(1)
    y1, r3, r5 = conv(x, w_in, b_in).split([c1, w3.size(1), w5.size(1)], dim=1)
    if reduce_relu:
        r3, r5 = r3.relu(), r5.relu()
    yp = conv(F.max_pool2d(x, 3, 1, 1), wp, bp)
    return torch.cat([y1, conv(r3, w3, b3), conv(r5, w5, b5), yp], dim=1).relu()


def in_float64(arguments: list[Any]) -> list[Any]:
    return [None if a is None else a.detach().double() for a in arguments]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reduce_relu", [True, False])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_equals_the_four_branches(
    implementation: str, reduce_relu: bool, bias: bool, kernel: int
) -> None:
    arguments = make_arguments("odd", kernel, bias, torch.float64)
    with use_impl(implementation):
        y = inception(*[*arguments, reduce_relu])
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, plain_block(arguments, reduce_relu))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_aten_is_as_accurate_as_plain_pytorch(
    block: str, dtype: torch.dtype, check_accuracy: Check
) -> None:
    arguments = far_from_zero(make_arguments(block, dtype=dtype))
    grad = torch.randn_like(plain_block(arguments, True))
    exact = gradients(lambda tensors: plain_block(tensors, True), in_float64(arguments), grad)
    plain = gradients(lambda tensors: plain_block(tensors, True), arguments, grad)
    with use_impl("aten"):
        actual = gradients(lambda tensors: inception(*tensors), arguments, grad)
    for ours, theirs, truth in zip(actual, plain, exact, strict=True):
        check_accuracy(ours, theirs, truth)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradcheck(implementation: str) -> None:
    tensors = make_arguments("odd", dtype=torch.float64)
    small = [tensors[0][:1, :, :4, :5], *tensors[1:]]
    leaves = [t.detach().requires_grad_() for t in small if t is not None]
    with use_impl(implementation):
        assert gradcheck(inception, leaves, fast_mode=True)


@pytest.mark.parametrize("implementation", EVERY_IMPLEMENTATION)
def test_fp16_activations_with_fp32_biases(implementation: str, device: str) -> None:
    arguments = make_arguments("odd", dtype=torch.float16, device=device)
    with use_impl(implementation):
        y = inception(*arguments)
    assert y.dtype == torch.float16
    torch.testing.assert_close(
        y.double(), plain_block(in_float64(arguments), True), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("implementation", EVERY_IMPLEMENTATION)
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(),
        lambda x: torch.cat([x, x], dim=1).to(memory_format=torch.channels_last)[:, :7],
        lambda x: x[:0],
        lambda x: x[:1, :, :1, :1],
    ],
    ids=["NCHW", "slice of channels", "empty batch", "one pixel"],
)
def test_any_layout(implementation: str, layout: Callable[[Tensor], Tensor], device: str) -> None:
    x, *parameters = make_arguments("odd", dtype=torch.float32, device=device)
    odd = layout(x).requires_grad_()
    with use_impl(implementation):
        y = inception(odd, *parameters)
    expected = plain_block([odd, *parameters], True)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(y)
    (actual,), (wanted,) = (torch.autograd.grad(out, odd, grad) for out in (y, expected))
    torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", EVERY_IMPLEMENTATION)
def test_compiles_whole(implementation: str, device: str) -> None:
    arguments = [a.requires_grad_() for a in make_arguments("odd", device=device)]
    compiled = torch.compile(inception, fullgraph=True, backend="aot_eager")
    with use_impl(implementation):
        y, expected = compiled(*arguments), inception(*arguments)
        torch.testing.assert_close(y, expected)
        grad = torch.randn_like(y)
        torch.testing.assert_close(
            torch.autograd.grad(y, arguments, grad), torch.autograd.grad(expected, arguments, grad)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("implementation", EVERY_IMPLEMENTATION)
def test_autocast(implementation: str, dtype: torch.dtype, device: str) -> None:
    if implementation == "triton" and dtype == torch.bfloat16 and device == "cpu":
        pytest.skip("Triton's interpreter multiplies bfloat16 wrongly")
    arguments = [a.requires_grad_() for a in make_arguments("odd", device=device)]
    with torch.autocast(device, dtype=dtype), use_impl(implementation):
        y = inception(*arguments)
    assert y.dtype == dtype
    torch.testing.assert_close(
        y.double(), plain_block(in_float64(arguments), True), rtol=5e-2, atol=5e-2
    )
    for leaf, grad in zip(arguments, torch.autograd.grad(y.float().sum(), arguments), strict=True):
        assert grad.dtype == leaf.dtype == torch.float32


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
@pytest.mark.parametrize("implementation", EVERY_IMPLEMENTATION)
def test_fake_cuda_tensors_need_no_gpu(implementation: str) -> None:
    with FakeTensorMode(), use_impl(implementation):
        arguments: list[Any] = [
            torch.empty(a.shape, device="cuda") for a in make_arguments("odd") if a is not None
        ]
        y = inception(*arguments)
    assert (y.device.type, tuple(y.shape)) == ("cuda", (2, 15, 13, 13))
    assert y.is_contiguous(memory_format=torch.channels_last)


def check_triton(
    arguments: list[Any], device: str, check_accuracy: Check, reduce_relu: bool = True
) -> None:
    """Compare output and all gradients with plain PyTorch."""
    given = [a for a in arguments if a is not None]

    def call(block: Callable[..., Tensor], tensors: list[Any]) -> Tensor:
        rest = iter(tensors)
        return block([None if a is None else next(rest) for a in arguments])

    def plain(tensors: list[Any]) -> Tensor:
        return call(lambda full: plain_block(full, reduce_relu), tensors)

    def fused(tensors: list[Any]) -> Tensor:
        return call(lambda full: inception(*[*full, reduce_relu]), tensors)

    grad = torch.randn_like(plain(given))
    exact = gradients(plain, in_float64(given), grad.double())
    expected = gradients(plain, given, grad)
    on_device = [a.to(device) for a in given]
    with use_impl("triton"):
        actual = gradients(fused, on_device, grad.to(device))
    for ours, theirs, truth in zip(actual, expected, exact, strict=True):
        check_accuracy(ours.cpu(), theirs, truth)


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.parametrize(
    ("block", "dtype"),
    [*((block, torch.float16) for block in ALL_BLOCKS), ("3a", torch.float32)],
    ids=str,
)
@pytest.mark.usefixtures("fast_interpreter")
def test_triton_on_every_block(
    block: str, dtype: torch.dtype, device: str, check_accuracy: Check
) -> None:
    x, *parameters = far_from_zero(make_arguments(ALL_BLOCKS[block], dtype=dtype))
    images = 1 if dtype == torch.float16 else 2  # fewer programs to interpret
    check_triton([x[:images], *parameters], device, check_accuracy)


@pytest.mark.triton
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reduce_relu", [True, False])
@pytest.mark.usefixtures("fast_interpreter")
def test_triton_with_every_flag(
    reduce_relu: bool, bias: bool, kernel: int, device: str, check_accuracy: Check
) -> None:
    x, *parameters = make_arguments("odd", kernel, bias)
    # A small grid of integers: products and sums are exact, so ReLU's masks cannot differ.
    tensors = [None if t is None else (t * 2).round().clamp(-3, 3) for t in (x[:1], *parameters)]
    check_triton(tensors, device, check_accuracy, reduce_relu)


@pytest.mark.triton
@pytest.mark.parametrize(
    "shape",
    [(1, 17, 7, 7), (3, 40, 13, 1), (2, 24, 1, 9), (1, 8, 2, 2)],
    ids=str,
)
def test_triton_on_adversarial_shapes(
    shape: tuple[int, ...], device: str, check_accuracy: Check
) -> None:
    arguments = make_arguments((shape[1], 1, 17, 9, 33, 24, 40, 65))
    arguments[0] = torch.randn(shape)
    check_triton(far_from_zero(arguments), device, check_accuracy)


@pytest.mark.triton
def test_triton_pools_ties_as_pytorch_does(device: str, keep_in: Keep) -> None:
    x = torch.randint(0, 3, (2, 16, 6, 7)).float()
    x[0, 3, 2, 2] = float("nan")
    x[1, 4] = float("-inf")
    weights = [torch.zeros(48, 16, 1, 1), torch.zeros(16, 16, 3, 3), torch.zeros(16, 16, 5, 5)]
    wp = torch.eye(16).view(16, 16, 1, 1)  # the pool branch alone, as it is
    leaf, grad = x.clone().requires_grad_(), torch.randint(1, 9, (2, 16, 6, 7)).float()
    expected = torch.autograd.grad(F.max_pool2d(leaf, 3, 1, 1), leaf, grad)[0]
    y_bias = torch.full((16,), 1.0, device=device)
    none = torch.zeros(16, device=device)
    ours = x.to(device).requires_grad_()
    with use_impl("triton"):
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(keep_in(saved), lambda t: t):
            w_in, w3, w5 = (w.to(device) for w in weights)
            inception(ours, w_in, none.repeat(3), w3, none, w5, none, wp.to(device), y_bias)
    (index,) = (t for t in saved if t.dtype == torch.uint8)
    rows = index.cpu().long() // 3 - 1 + torch.arange(6).view(6, 1)
    columns = index.cpu().long() % 3 - 1 + torch.arange(7)
    actual = torch.zeros(2, 16, 42).scatter_add_(
        2, (rows * 7 + columns).flatten(2), grad.flatten(2)
    )
    assert torch.equal(actual.view_as(expected), expected)


@pytest.mark.triton
@pytest.mark.usefixtures("fast_interpreter")
def test_triton_gives_the_same_bits_twice(device: str) -> None:
    arguments = [a.to(device) for a in make_arguments((32, 9, 16, 16, 24, 16, 16, 16))]
    with use_impl("triton"):
        grad = torch.randn_like(inception(*arguments))
        first, second = (
            gradients(lambda tensors: inception(*tensors), arguments, grad) for _ in range(2)
        )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.triton
@pytest.mark.parametrize("split", [1, 3, 9])
@pytest.mark.usefixtures("fast_interpreter")
def test_triton_sums_over_splits(
    split: int, device: str, monkeypatch: pytest.MonkeyPatch, check_accuracy: Check
) -> None:
    from googlenet_fast.kernels import split_k

    monkeypatch.setattr(split_k, "splits", lambda *arguments: split)
    arguments = far_from_zero(make_arguments((24, 6, 16, 16, 24, 16, 16, 16)))
    check_triton(arguments, device, check_accuracy)


@pytest.mark.triton
@pytest.mark.usefixtures("fast_interpreter")
def test_triton_computes_only_the_gradients_asked_for(device: str) -> None:
    arguments = [a.to(device) for a in make_arguments((16, 4, 16, 16, 16, 16, 16, 16))]
    with use_impl("triton"):
        leaves = [a.detach().requires_grad_() for a in arguments]
        expected = torch.autograd.grad(inception(*leaves).sum(), leaves)
        x = arguments[0].detach().requires_grad_()
        assert torch.equal(
            torch.autograd.grad(inception(x, *arguments[1:]).sum(), x)[0], expected[0]
        )
        weights = [a.detach().requires_grad_() for a in arguments[1:]]
        actual = torch.autograd.grad(inception(arguments[0], *weights).sum(), weights)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected[1:], strict=True))


@pytest.mark.triton
def test_triton_saves_input_reductions_output_and_index_alone(device: str, keep_in: Keep) -> None:
    arguments = [a.to(device).requires_grad_() for a in make_arguments("odd")]
    saved: list[Tensor] = []
    with (
        use_impl("triton"),
        torch.autograd.graph.saved_tensors_hooks(keep_in(saved), lambda t: t),
    ):
        y = inception(*arguments)
        activations = [t for t in saved if all(t is not a for a in arguments[1:])]
        shapes = [(tuple(t.shape), t.dtype) for t in activations]
        saved.clear()
        with torch.no_grad():
            inception(*arguments)
    x = arguments[0]
    assert shapes == [
        (tuple(x.shape), x.dtype),
        ((2, 6, 13, 13), x.dtype),
        (tuple(y.shape), x.dtype),
        (tuple(x.shape), torch.uint8),
    ]
    assert not saved


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.usefixtures("fast_interpreter")
def test_triton_passes_opcheck(device: str) -> None:
    arguments = [a.to(device) for a in make_arguments((16, 4, 16, 16, 16, 16, 16, 16))]
    opcheck(torch.ops.googlenet_fast.inception_triton, (*arguments, True, []))
    leaves = [a.requires_grad_() for a in arguments]
    opcheck(torch.ops.googlenet_fast.inception_triton, (*leaves, True, []))
    with torch.no_grad():
        y, r, index = torch.ops.googlenet_fast.inception_triton_training(*arguments, True)
    x, weights = arguments[0].detach(), [a.detach() for a in arguments[1::2]]
    for need_x, need_parameters in ((True, True), (False, True), (True, False)):
        opcheck(
            torch.ops.googlenet_fast.inception_triton_backward,
            (torch.randn_like(y), x, r, y, index, *weights, True, need_x, need_parameters),
        )


def test_some_biases_are_refused() -> None:
    arguments = make_arguments("odd")
    arguments[4] = None
    with pytest.raises(ValueError, match="all four biases or none"):
        inception(*arguments)


def test_weights_that_do_not_fit_are_refused() -> None:
    arguments = make_arguments("odd")
    arguments[1] = torch.randn(6, 7, 1, 1)
    with pytest.raises(ValueError, match=r"\(6, 7, 1, 1\).*do not fit together"):
        inception(*arguments)


class Launches(TorchDispatchMode):
    """Names of the operations that run kernels, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if not func.is_view and packet not in (torch.ops.aten.detach, torch.ops.aten.empty):
            self.names.append(packet.__name__)
        return func(*args, **(kwargs or {}))


FORWARD = ["convolution", "bias_relu", *["convolution"] * 3, "concat_bias_relu"]
BACKWARD = [
    *("bias_relu_backward", *["convolution_backward"] * 3),
    *("bias_relu_backward", "convolution_backward", "max_pool_backward"),
]


@needs_extension
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reduce_relu", [True, False])
@pytest.mark.parametrize("nchw", [True, False])
def test_aten_concatenates_adds_and_copies_nothing(
    nchw: bool, reduce_relu: bool, bias: bool
) -> None:
    x, *parameters = make_arguments("3a", bias=bias)
    leaves: list[Any] = [None if p is None else p.requires_grad_() for p in (x, *parameters)]
    with use_impl("aten"):
        block = x if nchw else x.detach().to(memory_format=torch.channels_last).requires_grad_()
        with Launches() as forward:
            y = inception(*[block, *leaves[1:], reduce_relu])
        grad = torch.randn_like(y)
        with Launches() as backward:
            torch.autograd.grad(
                y, [leaf for leaf in (block, *leaves[1:]) if leaf is not None], grad
            )
        with torch.no_grad(), Launches() as inference:
            inception(*[block, *leaves[1:], reduce_relu])
    assert forward.names == ["clone"] * nchw + ["max_pool_training"] + FORWARD
    assert backward.names == BACKWARD
    assert inference.names == ["clone"] * nchw + ["max_pool"] + FORWARD


@needs_extension
@pytest.mark.parametrize("reduce_relu", [True, False])
@pytest.mark.parametrize("needed", [*([i] for i in range(9)), [0, 3, 7], [4, 6], [1, 2]], ids=str)
def test_aten_computes_the_gradients_asked_for(needed: list[int], reduce_relu: bool) -> None:
    arguments = make_arguments("odd", dtype=torch.float64)
    leaves = [a.requires_grad_(i in needed) for i, a in enumerate(arguments)]
    wanted = [leaves[i] for i in needed]
    expected = plain_block(leaves, reduce_relu)
    grad = torch.randn_like(expected)
    with use_impl("aten"):
        y = inception(*[*leaves, reduce_relu])
    with Launches() as backward:
        actual = torch.autograd.grad(y, wanted, grad)
    torch.testing.assert_close(actual, torch.autograd.grad(expected, wanted, grad))
    convolutions = {0: 4, 1: 3, 2: 2, 3: 1, 4: 0, 5: 1, 6: 0, 7: 1, 8: 0}
    if len(needed) == 1:
        assert backward.names.count("convolution_backward") == convolutions[needed[0]]


@needs_extension
def test_aten_used_twice_adds_its_gradients() -> None:
    leaves = [a.requires_grad_() for a in make_arguments("odd", dtype=torch.float64)]
    first, second = (torch.randn(2, 7, 5, 6, dtype=torch.float64) for _ in range(2))

    def loss(block: Callable[..., Tensor]) -> Tensor:
        inputs = [leaves[0][:, :, :5, :6], first, second]
        return torch.stack([block(x, *leaves[1:]).square().sum() for x in inputs]).sum()

    expected = torch.autograd.grad(loss(lambda *a: plain_block(list(a), True)), leaves)
    with use_impl("aten"):
        torch.testing.assert_close(torch.autograd.grad(loss(inception), leaves), expected)


@needs_extension
def test_aten_saves_inputs_of_convolutions_the_output_and_an_index(keep_in: Keep) -> None:
    arguments = [a.requires_grad_() for a in make_arguments("3a")]
    arguments[0] = arguments[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    saved: list[Tensor] = []
    with use_impl("aten"), torch.autograd.graph.saved_tensors_hooks(keep_in(saved), lambda t: t):
        y = inception(*arguments)
    activations = [t for t in saved if t.shape[2:] == y.shape[2:]]
    assert sorted((t.size(1), str(t.dtype)) for t in activations) == [
        *((16, "torch.float32"), (96, "torch.float32"), (192, "torch.float32")),
        *((192, "torch.float32"), (192, "torch.uint8"), (256, "torch.float32")),
    ]


@needs_extension
def test_aten_has_no_second_derivative() -> None:
    leaves = [a.requires_grad_() for a in make_arguments("odd", dtype=torch.float64)]
    with use_impl("aten"):
        y = inception(*leaves)
    with pytest.raises(RuntimeError, match="use_impl\\('reference'\\)"):
        torch.autograd.grad(y.sum(), leaves, create_graph=True)


def test_aten_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = [a.requires_grad_() for a in make_arguments("odd", dtype=torch.float64)]
    monkeypatch.setattr(extension, "missing_part", lambda device: "absent")
    registry.invalidate()
    with use_impl("aten"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = inception(*leaves)
    registry.invalidate()
    expected = plain_block(leaves, True)
    grad = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, leaves, grad), torch.autograd.grad(expected, leaves, grad)
    )
