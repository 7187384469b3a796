"""What the ops share: autocast, layouts, what backends support, and calls below autograd."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.amp import is_autocast_available

from googlenet_fast import extension
from googlenet_fast.kernels.configs import INTERPRETED
from googlenet_fast.registry import (
    LIBRARY,
    NAMESPACE,
    Call,
    Kernels,
    Work,
    constant,
    define,
    transforms_active,
)

TRITON_INSTALLED = find_spec("triton") is not None
"""CPU builds of torch come without Triton."""

HALF_AND_SINGLE = (torch.float16, torch.bfloat16, torch.float32)
"""What the kernels for GPUs take."""

CONVOLUTION_DTYPES = (torch.float32, torch.bfloat16)
"""What the kernels for CPUs that compute in fp32 take."""

POINTWISE_DTYPES = (*HALF_AND_SINGLE, torch.float64)
"""What the kernels for CPUs that only move, add and scale values take."""

Described = tuple[str, Callable[..., Any]]
"""Schema of a registered op without its name, "(Tensor x) -> Tensor", and its fake kernel."""


@constant
def _has_autocast(device_type: str) -> bool:
    """Return `is_autocast_available`, which Dynamo of torch before 2.13 does not trace."""
    return is_autocast_available(device_type)


def autocast(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Cast to the autocast dtype where autocast is on; float64 stays, as in PyTorch's own ops."""
    device_type = tensors[0].device.type
    if not _has_autocast(device_type) or not torch.is_autocast_enabled(device_type):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device_type)
    return [x if x.dtype == torch.float64 else x.to(dtype) for x in tensors]


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Return a context in which autocast is off for tensors on the device of `x`."""
    device_type = x.device.type
    if not _has_autocast(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def channels_last(x: Tensor) -> Tensor:
    """Return (N, C, H, W) in channels_last; unchanged under torch.func, which has no layouts."""
    return x if transforms_active() else x.contiguous(memory_format=torch.channels_last)


def empty_channels_last(
    like: Tensor, channels: int, size: Sequence[int] | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Return an uninitialised (N, channels, H, W), channels_last, with N of `like`.

    Args:
        like: (N, C, H, W).
        channels: of the result.
        size: height and width of the result; None: those of `like`.
        dtype: of the result; None: that of `like`.
    """
    return torch.empty(
        (like.size(0), channels, *(like.shape[2:] if size is None else size)),
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def sum_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which kernels sum values of `x`."""
    return torch.promote_types(x.dtype, torch.float32)


def native_supports(op: str, x: Tensor, cpu_dtypes: Sequence[torch.dtype]) -> str | None:
    """Return None if the extension's kernel of an op takes activations like `x`, else why not.

    Args:
        op: name of the registered op.
        x: the activations.
        cpu_dtypes: what the kernel for CPUs takes.
    """
    device_type = x.device.type
    if device_type not in ("cpu", "cuda"):
        return "its kernels are for CPUs and GPUs"
    missing = extension.missing_part(device_type)
    if missing is not None:
        return missing
    if not _has_kernel(op, device_type):
        return "the extension has no kernel of it for this device"
    on_gpu = device_type == "cuda" or extension.BUILD_INFO.get("emulates") == "cuda"
    if x.dtype not in (HALF_AND_SINGLE if on_gpu else cpu_dtypes):
        return f"it does not take {x.dtype}"
    return None


@constant
def _has_kernel(op: str, device_type: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op}", device_type.upper())


def triton_supports(x: Tensor, *arguments: Any) -> str | None:
    """Return None if Triton kernels take activations like `x`, (N, C, H, W), else why not."""
    if not TRITON_INSTALLED:
        return "triton is not installed"
    if x.dtype not in HALF_AND_SINGLE:
        return f"it does not take {x.dtype}"
    if x.device.type == "cpu" and not INTERPRETED:
        return "it runs on GPUs (and, with TRITON_INTERPRET=1, in Triton's interpreter)"
    if x.size(0) * x.size(2) * x.size(3) >= 2**31:
        return "2^31 pixels or more"
    return None


def define_kernels(
    name: str,
    *,
    forward: Described,
    backward: Described,
    autograd: Callable[..., Any],
    training: Described | None = None,
    functions: Sequence[Callable[..., Any]] = (),
) -> Kernels:
    """Define the registered ops `name`, `name_training` and `name_backward` of one backend.

    Args:
        name: of the op.
        forward: of inference.
        backward: takes the gradient and what training saved.
        autograd: takes the `Kernels` and the arguments of `forward`.
        training: returns also what backward reads; None: `forward` serves.
        functions: what computes forward, training (where there is one) and backward, on CPUs and
            GPUs. By default the extension has them.
    """
    described = [("", forward), ("_training", training), ("_backward", backward)]
    present = [(suffix, each) for suffix, each in described if each is not None]
    ops = {}
    for i, (suffix, (schema, fake)) in enumerate(present):
        implementation = {key: functions[i] for key in ("CPU", "CUDA") if functions}
        ops[suffix] = define(f"{name}{suffix}{schema}", fake, **implementation)
    kernels = Kernels(ops[""], ops.get("_training", ops[""]), ops["_backward"], autograd)
    LIBRARY.impl(name, partial(autograd, kernels), "Autograd")
    return kernels


def needs_gradient(tensors: Iterable[Tensor | None]) -> bool:
    """Return True if autograd records a call with these tensors.

    Raises:
        NotImplementedError: one of them has a tangent. An Autograd kernel has no rule for it, and
            would return zero tangents silently.
    """
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    needed = False
    for tensor in tensors:
        if tensor is None:
            continue
        needed = needed or tensor.requires_grad
        if forward_mode and torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                "a registered op has no forward-mode derivative; call the function in"
                " googlenet_fast.ops, or use_impl('reference')"
            )
    return needed and torch.is_grad_enabled()


def below_autograd(op: Callable[..., Any], *arguments: Any) -> Any:
    """Call a registered op from its own Autograd kernel, without entering that kernel again."""
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse create_graph=True in the backward of an autograd.Function.

    PyTorch's decorator of this name raises only if the output's gradient requires grad. Otherwise
    second derivatives with respect to saved tensors silently count as zero.
    """

    @wraps(backward)
    def checked(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this backend's gradient has no derivative (create_graph=True): compute it under"
                " googlenet_fast.ops.use_impl('reference')"
            )
        return backward(ctx, *grads)

    return checked


def gradients_or_empty(
    grad_y: Tensor, grad_x: Tensor | None, grads: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Replace gradients that were not wanted by empty tensors: a schema has no optional results."""
    return (
        grad_y.new_empty(0) if grad_x is None else grad_x,
        grad_y.new_empty(0, dtype=torch.float32) if grads is None else grads,
    )


def weight_and_bias(row: Tensor, start: int, weight: Tensor) -> tuple[Tensor, Tensor]:
    """View a convolution's gradients in the row that holds all of them.

    Args:
        row: from `start` on a weight's gradient, (outputs, T, T, inputs), then its bias's.
        start: index of the first element.
        weight: (outputs, inputs, T, T).

    Returns:
        The weight's gradient with its shape and the strides of a channels_last parameter, which
        DDP and optimizers prefer, and the bias's.
    """
    outputs, inputs, taps, _ = shape = weight.shape
    strides = (taps * taps * inputs, 1, taps * inputs, inputs)
    if taps == 1:
        strides = (inputs, 1, 1, 1)
    end = start + weight.numel()
    return row.as_strided(shape, strides, start), row.as_strided((outputs,), (1,), end)


def convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the library's gradients of a "same" convolution with stride 1, those that are needed.

    Args:
        grad: (N, K, H, W), of the convolution's output.
        x: (N, C, H, W), its input.
        weight: (K, C, T, T) with odd T.
        need_x: compute the gradient of `x`.
        need_weight: compute that of `weight`.
    """
    if not (need_x or need_weight):
        return None, None
    padding = [weight.size(2) // 2] * 2
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward.default(
        *(grad, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1),
        [need_x, need_weight, False],
    )
    return grad_x, grad_weight


def convolution_work(call: Call, weight: tuple[int, ...], stride: int = 1) -> Work:
    """Return the work of a convolution with "same" padding on a call's images.

    In training both gradients are counted; they read the output's gradient and the output, which
    is ReLU's mask. Weight gradients are fp32.
    """
    training, ((n, _, height, width), dtype), *_ = call
    outputs, channels, taps, _ = weight
    numel, itemsize = outputs * channels * taps * taps, dtype.itemsize
    pixels, out_pixels = n * height * width, n * -(-height // stride) * -(-width // stride)
    x, y = pixels * channels * itemsize, out_pixels * outputs * itemsize
    forward = Work(2 * out_pixels * numel, x + y + numel * itemsize)
    if not training:
        return forward
    backward = 2 * x + 4 * y + numel * (itemsize + 4)
    return Work(3 * forward.operations, forward.bytes + backward)
