"""Backends compared with the reference in float64: before first use on a GPU, and in doctor.

A compiler or driver may get a kernel wrong on one GPU only. `auto` therefore compares a kernel
with the reference first, forward and backward, on random tensors with the call's channels and
dtype, and few small images. What passed is kept in the disk cache for this GPU, these versions and
these kernel sources. What failed is tried again by the next process.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.kernels.configs import tf32_allowed
from googlenet_fast.registry import OPS, UNKNOWN, Backend, Call, Op, record_calls
from googlenet_fast.selfcheck.cases import OpCall, activations, make_arguments, resized, with_dtype
from googlenet_fast.selfcheck.disk_cache import encode, read_record, write_record

IMAGES, SIZE = 2, (14, 14)
"""Images of the check before first use, their height and width: tiles of pixels and all borders."""

TOLERANCES = {
    torch.float32: (1e-5, 3e-5),
    torch.float16: (1e-2, 5e-2),
    torch.bfloat16: (2e-2, 5e-2),
}
"""Relative error (norm) of results, and of each gradient, allowed beyond twice the reference's own
in that dtype. A block's gradients pass through several Winograd convolutions. In half precision,
rounding moves many values across zero, where ReLU's gradient jumps."""

JUMP = 1e-2
"""A larger error of a gradient is no jump. In fp32, about one check in a hundred meets a value that
rounding moves across zero: one of 10^5 is an error of 3e-3."""

ATTEMPTS = 3
"""Sets of values, where one fails by what a jump may explain. A wrong kernel fails with each."""

RECORD = "checked-kernels"
"""Name of the record of what passed."""

_found: dict[tuple[str, str, str, Call, str], str | None] = {}


class Comparison(NamedTuple):
    """How a backend differs from the reference in float64."""

    error: float | None
    """Largest relative error of results and gradients; None if the backend does not run."""
    failure: str | None
    """How it is wrong; None if it is not."""
    may_be_jump: bool = False
    """True if one value across zero would explain the failure."""


def check(op: Op, backend: Backend, device: str, call: Call) -> Comparison:
    """Run a call by a backend and by the reference, in and beyond its dtype, and compare.

    Args:
        op: the op.
        backend: one of its backends, or its fallback.
        device: such as "cuda:0".
        call: as `registry.call_of` returns it; with gradients whatever it says.
    """
    with (
        _disable_current_modes(),
        torch.inference_mode(False),
        torch.enable_grad(),
        record_calls(None),
        # A caller's hooks, such as activation checkpointing's, must not see what this saves.
        torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x),
    ):
        try:
            for seed in range(ATTEMPTS):
                found = _compare(op, backend, device, (True, *call[1:]), seed)
                if not found.may_be_jump:
                    break
        except Exception as error:  # compilers fail in their own ways; all mean: do not use it
            return Comparison(None, first_line(error))
    return found


def _compare(op: Op, backend: Backend, device: str, call: Call, seed: int) -> Comparison:
    op_call = OpCall.of(op, call, device, seed)
    exact = op_call.double().run(op.fallback)
    own = relative_errors(op_call.run(op.fallback), exact)
    found = relative_errors(op_call.run(backend), exact)
    results = len(found) - len(op_call.leaves)
    dtype = activations(call)[1]
    of_results, of_gradients = TOLERANCES[effective_dtype(dtype, device)]
    for index, (error, reference) in enumerate(zip(found, own, strict=True)):
        gradient = index - results + 1
        allowed = 2 * reference + (of_gradients if gradient > 0 else of_results)
        if not error <= allowed:  # NaN fails too
            what = f"gradient {gradient}" if gradient > 0 else f"result {index}"
            failure = f"relative error {error:.1e} of {what} in {dtype}, allowed is {allowed:.1e}"
            return Comparison(error, failure, gradient > 0 and error <= JUMP)
    return Comparison(max(found), None)


def first_line(error: Exception) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype without "torch."."""
    return str(dtype).removeprefix("torch.")


def relative_errors(actual: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    """Return the relative error of each tensor, in norm; of nothing but zeros, any error is inf."""
    errors = []
    for a, e in zip(actual, exact, strict=True):
        error = (a.double() - e).norm()
        errors.append((error / e.norm()).item() if error != 0 else 0.0)
    return errors


def effective_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """Return the dtype whose rounding a product of `dtype` has on a device.

    Where PyTorch's convolutions are allowed tf32, the kernels are too; tf32 has the 10 bits of
    fp16's mantissa. cuDNN makes use of it for some shapes only.
    """
    tf32 = dtype == torch.float32 and device.startswith("cuda") and tf32_allowed()
    return torch.float16 if tf32 else dtype


def distrust(op: str, backend: str, device: str, layer: Call) -> str | None:
    """Return None if a backend is right on a GPU, how it is wrong, or `UNKNOWN`.

    Unknown is what was not checked before, without a GPU or while a CUDA graph is captured.
    """
    call = resized((True, *layer[1:]), IMAGES, SIZE)
    rounding = dtype_name(effective_dtype(activations(call)[1], device))
    question = op, backend, device, call, rounding
    if question not in _found:
        if not torch.cuda.is_available():
            return UNKNOWN
        entry = json.dumps([op, backend, encode(call), rounding])
        passed = {known for known in read_record(RECORD, device) if isinstance(known, str)}
        if entry not in passed and torch.cuda.is_current_stream_capturing():
            return UNKNOWN
        _found[question] = None if entry in passed else _first_use(op, backend, device, call, entry)
    return _found[question]


def _first_use(op: str, name: str, device: str, call: Call, entry: str) -> str | None:
    backends = OPS[op].on(torch.device(device).type)
    backend = next(backend for backend in backends if backend.name == name)
    failure = check(OPS[op], backend, device, call).failure
    if failure is not None:
        return f"it failed its check on {device}: {failure}; run python -m googlenet_fast.doctor"
    passed = {known for known in read_record(RECORD, device) if isinstance(known, str)}
    write_record(RECORD, device, sorted({*passed, entry}))
    return None


@dataclass(frozen=True)
class Result:
    """One backend of one op on one type of device."""

    op: str
    device: str
    backend: str
    reason: str | None = None
    """Why it is not available here; None if it is."""
    auto: bool = False
    """True if `auto` takes it, for the op's first sample."""
    errors: dict[str, float] = field(default_factory=dict)
    """Largest relative error of results and gradients, by dtype."""
    failure: str | None = None
    """How its check failed; None if it passed or was not made."""
    skipped: str | None = None
    """Why `auto` skips it though it can run and comes earlier; None if it does not."""


def check_all() -> list[Result]:
    """Check every backend of every op on every type of device."""
    devices = ("cpu", "cuda")
    return [result for op in OPS.values() for device in devices for result in _on(op, device)]


def _on(op: Op, device: str) -> list[Result]:
    """Check the backends of an op on a type of device, best first; the reference is the last."""
    # On CPUs Triton's kernels are interpreted: selfcheck/interpreter.py checks these.
    backends = [b for b in op.on(device) if (b.device, b.name) != ("cpu", "triton")]
    names = [*(backend.name for backend in backends), op.fallback.name]
    if device == "cuda" and not torch.cuda.is_available():
        return [Result(op.name, device, name, "no CUDA device") for name in names]
    samples = list(op.samples())
    dtypes = [torch.float32, torch.float16] if device == "cuda" else [torch.float32]
    taken, skipped = auto(op, make_arguments(samples[0], device))
    return [
        check_backend(op, backend, device, samples, dtypes, backend.name == taken, skipped)
        for backend in (*backends, op.fallback)
    ]


def auto(op: Op, arguments: Sequence[Any]) -> tuple[str | None, dict[str, str]]:
    """Return the backend that takes a call, and why `auto` skips those before it.

    None takes it where GOOGLENET_FAST_IMPL requests one that cannot.
    """
    skipped: dict[str, str] = {}
    for backend, reason, _ in op.candidates(arguments):
        if reason is None:
            break
        skipped[backend.name] = reason
    try:
        return op.choose(*arguments).name, skipped
    except GoogLeNetError:
        return None, skipped


def check_backend(
    op: Op,
    backend: Backend,
    device: str,
    samples: Iterable[Call],
    dtypes: Sequence[torch.dtype],
    taken: bool = False,
    skipped: dict[str, str] | None = None,
) -> Result:
    """Check a backend on the samples that it covers and supports, in each dtype."""
    reason, failure = None, None
    errors: dict[str, float] = {}
    calls = [(dtype, with_dtype(sample, dtype)) for sample in samples for dtype in dtypes]
    for dtype, call in calls if backend is not op.fallback else []:
        arguments = make_arguments(call, device)
        if not backend.covers(*arguments):
            continue
        unsupported = backend.supports(*arguments)
        if unsupported is not None:
            reason = reason or unsupported
            continue
        error, failure, _ = check(op, backend, device, call)
        if failure is not None:
            break
        assert error is not None
        name = dtype_name(dtype)
        errors[name] = max(error, errors.get(name, 0.0))
    if errors or failure is not None:
        reason = None
    why = (skipped or {}).get(backend.name) if reason is None else None
    return Result(op.name, device, backend.name, reason, taken, errors, failure, why)
