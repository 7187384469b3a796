"""Every implementation of every fused op, checked against the reference in float64."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from googlenet_fast.errors import UserError
from googlenet_fast.ops import (
    bias_relu_pool,
    bn_relu_concat,
    concat_bias_relu,
    conv_bias_relu,
    dispatch,
    inception,
    local_response_norm,
    max_pool,
    use_impl,
)
from googlenet_fast.ops.verification import effective_dtype

TOLERANCES = {torch.float32: 1e-5, torch.float16: 5e-2}
"""Relative error (norm) allowed beyond twice the reference's own in that dtype. In fp16, rounding
moves some values across zero, where ReLU's gradient changes altogether."""


@dataclass(frozen=True)
class Case:
    """A call of a fused op to check it with."""

    function: Callable[..., Tensor]
    """The op's public function."""
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of its tensors; those of one dimension are biases, which stay fp32."""
    arguments: Callable[[list[Tensor]], tuple[Any, ...]]
    """Makes the function's arguments of these tensors."""


CASES = {
    "concat_bias_relu": Case(
        concat_bias_relu,
        (
            *((2, 112, 14, 14), (2, 288, 14, 14), (2, 64, 14, 14), (2, 64, 14, 14)),
            *((112,), (288,), (64,), (64,)),
        ),
        lambda t: (t[:4], t[4:], True),
    ),
    "bn_relu_concat": Case(
        bn_relu_concat,
        ((2, 112, 14, 14), (2, 288, 14, 14), (2, 64, 14, 14), (2, 64, 14, 14)),
        lambda t: (t, [nn.BatchNorm2d(x.size(1)).to(x) for x in t]),
    ),
    "inception": Case(
        inception,
        (
            (2, 192, 14, 14),
            *((176, 192, 1, 1), (176,)),
            *((128, 96, 3, 3), (128,)),
            *((32, 16, 5, 5), (32,)),
            *((32, 192, 1, 1), (32,)),
        ),
        lambda t: (*t, True),
    ),
    "conv_bias_relu": Case(
        conv_bias_relu,
        ((2, 64, 14, 14), (64, 64, 1, 1), (64,)),
        lambda t: (*t, True),
    ),
    "strided_conv_bias_relu": Case(
        conv_bias_relu,
        ((2, 3, 29, 30), (64, 3, 7, 7), (64,)),
        lambda t: (*t, True, 2),
    ),
    "bias_relu_pool": Case(
        bias_relu_pool, ((2, 64, 28, 28), (64,)), lambda t: (t[0], t[1], True, True)
    ),
    "max_pool": Case(max_pool, ((2, 64, 14, 14),), lambda t: (t[0],)),
    "local_response_norm": Case(
        local_response_norm, ((2, 64, 14, 14),), lambda t: (t[0], 5, 1e-4, 0.75, 1.0)
    ),
}
"""A case for each fused op, with shapes of the network."""


@dataclass(frozen=True)
class Result:
    """One implementation of one op on one type of device."""

    op: str
    device: str
    implementation: str
    reason: str | None
    """Why it is not available here; None if it is."""
    auto: bool
    """Whether `auto` takes it."""
    errors: dict[str, float]
    """Relative error, by dtype, of the output and the gradients: the largest of them."""
    failure: str | None
    """How its check failed; None if it passed or was not made."""
    passed_over: str | None = None
    """Why `auto` passes it over though it can run and is better; None if it does not."""


def check_all() -> list[Result]:
    """Check every implementation of every op on every type of device."""
    return [result for op in CASES for device in ("cpu", "cuda") for result in check(op, device)]


def check(op: str, device: str) -> list[Result]:
    """Check the implementations of an op, best first, on a type of device."""
    names = dict(dispatch.implementations(op, device))
    if device == "cpu":
        names.pop("triton", None)  # on CPUs it is interpreted, which diagnosis.interpreter does
    if device == "cuda" and not torch.cuda.is_available():
        return [Result(op, device, name, "no CUDA device", False, {}, None) for name in names]
    dtypes = [torch.float32, torch.float16] if device == "cuda" else [torch.float32]
    case = CASES[op]
    arguments = case.arguments(make_tensors(case, dtypes[0], device))
    taken, passed_over = auto(op, device, arguments)
    results = []
    for name, can_use in names.items():
        reason = can_use(*arguments)
        if reason is not None:
            results.append(Result(op, device, name, reason, False, {}, None))
            continue
        result = check_implementation(op, case, name, dtypes, device)
        results.append(replace(result, auto=name == taken, passed_over=passed_over.get(name)))
    return results


def auto(op: str, device: str, arguments: tuple[Any, ...]) -> tuple[str | None, dict[str, str]]:
    """Return the implementation that takes a call, and why `auto` passes over better ones.

    None takes it where GOOGLENET_FAST_IMPL asks for what cannot.
    """
    passed_over: dict[str, str] = {}
    for name, reason in dispatch.candidates(op, device, arguments):
        if reason is None:
            break
        passed_over[name] = reason
    try:
        return dispatch.choose(op, device, arguments), passed_over
    except UserError:
        return None, passed_over


def check_implementation(
    op: str, case: Case, name: str, dtypes: Sequence[torch.dtype], device: str
) -> Result:
    """Check an implementation that can run."""
    if name == "reference":
        return Result(op, device, name, None, False, {}, None)
    errors, failure = compare(case, name, dtypes, device)
    return Result(op, device, name, None, False, errors, failure)


def compare(
    case: Case, implementation: str, dtypes: Sequence[torch.dtype], device: str
) -> tuple[dict[str, float], str | None]:
    """Return the errors of an implementation, by dtype, and how it failed, or None."""
    errors: dict[str, float] = {}
    for dtype in dtypes:
        tensors = make_tensors(case, dtype, device)
        exact = outputs(case, "reference", [tensor.double() for tensor in tensors])
        own = error(outputs(case, "reference", tensors), exact)
        allowed = 2 * own + TOLERANCES[effective_dtype(dtype, device)]
        try:
            found = error(outputs(case, implementation, tensors), exact)
        except Exception as exception:  # compilers fail in their own ways
            return errors, f"{dtype}: {type(exception).__name__}: {exception}"
        errors[str(dtype).removeprefix("torch.")] = found
        if not found <= allowed:  # NaN fails too
            return errors, f"{dtype}: relative error {found:.1e}, allowed are {allowed:.1e}"
    return errors, None


def make_tensors(case: Case, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Random tensors of the case's shapes; weights are scaled so that outputs are of order 1."""
    generator = torch.Generator().manual_seed(0)
    tensors = []
    for index, shape in enumerate(case.shapes):
        tensor = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            tensors.append(tensor.to(device))
            continue
        if index > 0 and case.function in (inception, conv_bias_relu):
            tensor /= tensor[0].numel() ** 0.5
        tensors.append(tensor.to(device, dtype, memory_format=torch.channels_last))
    return tensors


def outputs(case: Case, implementation: str, tensors: list[Tensor]) -> list[Tensor]:
    """Output and gradients of all tensors, for a fixed random gradient of the output."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with use_impl(implementation):
        y = case.function(*case.arguments(leaves))
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.device, y.dtype))]


def error(actual: list[Tensor], exact: list[Tensor]) -> float:
    """The largest relative error, in norm, of several tensors."""
    return max(
        ((a.double() - e).norm() / e.norm()).item() for a, e in zip(actual, exact, strict=True)
    )
