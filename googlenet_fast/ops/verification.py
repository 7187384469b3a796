"""The check of a Triton kernel on this GPU, made once, before `auto` takes it.

A compiler or driver may get a kernel wrong on one GPU only. So `auto` compares it first, forward
and backward, with the reference, on fresh random tensors with the call's channels and dtype, and
few and small images. What passed is remembered in the cache directory, for this GPU, these
versions and these kernel sources; what failed is tried again by the next process.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from googlenet_fast.ops.records import read_record, write_record
from googlenet_fast.ops.selection import calls_seen
from googlenet_fast.ops.trial import Signature, Trial, random_arguments

IMAGES, SIZE = 2, 14
"""Images of the check, and their height and width: several tiles of pixels and all borders."""

FLOORS = {
    torch.float32: (1e-5, 1e-2),
    torch.float16: (1e-2, 5e-2),
    torch.bfloat16: (2e-2, 5e-2),
}
"""Relative error (norm) of the output, and of each gradient, allowed beyond twice the reference's
own in that dtype. Rounding moves some values across zero, where ReLU's gradient changes
altogether: one of 10^5 is an error of 3e-3, even in fp32."""

RECORD = "checked-kernels"
"""Name of the record of what passed."""

_found: dict[tuple[str, str, str, Signature], str | None] = {}
"""Answers of `why_not_verified` in this process."""


@torch._dynamo.assume_constant_result
def can_verify(op: str, implementation: str, device: str, call: Signature) -> bool:
    """Whether there is a GPU to check a kernel on, free to run it, or it was checked before.

    A GPU is not free while a CUDA graph is captured.
    """
    if not torch.cuda.is_available():
        return False
    known = (op, implementation, device, call) in _found
    return known or not torch.cuda.is_current_stream_capturing()


def signature(arguments: Sequence[Any]) -> Signature:
    """Describe an op's arguments; the first is its activations, (N, C, H, W)."""
    x, *rest = arguments
    return (IMAGES, x.size(1), SIZE, SIZE), x.dtype, *(_describe(value) for value in rest)


def _describe(value: Any) -> Any:
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value


@torch._dynamo.assume_constant_result
def why_not_verified(op: str, implementation: str, device: str, call: Signature) -> str | None:
    """Return None if the implementation is right on this device, else how it is wrong.

    Args:
        op: name of the op, and of its public function.
        implementation: its name.
        device: such as "cuda:0".
        call: what `signature` gives.
    """
    question = op, implementation, device, call
    if question not in _found:
        _found[question] = _ask(*question)
    return _found[question]


def _ask(op: str, implementation: str, device: str, call: Signature) -> str | None:
    name = f"{op} {implementation} {call}"
    if name in read_record(RECORD, device):
        return None
    failure = compare(op, implementation, device, call)
    if failure is None:
        passed = {entry for entry in read_record(RECORD, device) if isinstance(entry, str)}
        write_record(RECORD, device, sorted({*passed, name}))
        return None
    return f"it failed its check on {device}: {failure}; run python -m googlenet_fast.doctor"


def compare(op: str, implementation: str, device: str, call: Signature) -> str | None:
    """Run an implementation beside the reference, in and beyond its dtype; say how it differs."""
    return deviation(op, implementation, device, call)[1]


def deviation(
    op: str, implementation: str, device: str, call: Signature
) -> tuple[float | None, str | None]:
    """Return the largest relative error of an implementation, and how it is wrong, or None each."""
    dtype = call[1]
    weights = [value[1] for value in call[2:] if isinstance(value, tuple) and len(value[0]) == 4]
    mixed = dtype if any(weight != dtype for weight in weights) else None
    with (
        _disable_current_modes(),
        torch.inference_mode(False),
        torch.enable_grad(),
        calls_seen(),  # so that the caller's does not see these
    ):
        try:
            arguments = random_arguments(call, device)
            exact = Trial(op, [_double(value) for value in arguments], None).run("reference")
            trial = Trial(op, arguments, mixed)
            own = _errors(trial.run("reference"), exact)
            found = _errors(trial.run(implementation), exact)
        except Exception as error:  # compilers fail in their own ways; all mean: do not use it
            return None, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    of_output, of_gradients = FLOORS[effective_dtype(dtype, device)]
    floors = [of_output, *[of_gradients] * (len(found) - 1)]
    for index, (off, reference, floor) in enumerate(zip(found, own, floors, strict=True)):
        if not off <= 2 * reference + floor:  # NaN fails too
            what = "output" if index == 0 else f"gradient {index}"
            return off, f"relative error {off:.1e} of the {what} in {dtype}"
    return max(found), None


def effective_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """Return the dtype whose rounding a product of `dtype` has on a device.

    Where PyTorch's convolutions are allowed tf32, which has the 10 bits of fp16's mantissa, so are
    the kernels'; cuDNN makes use of it for some shapes only.
    """
    tf32 = dtype == torch.float32 and device.startswith("cuda") and torch.backends.cudnn.allow_tf32
    return torch.float16 if tf32 else dtype


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) else value


def _errors(actual: list[Tensor], exact: list[Tensor]) -> list[float]:
    """Relative errors in norm."""
    return [((a.double() - e).norm() / e.norm()).item() for a, e in zip(actual, exact, strict=True)]
