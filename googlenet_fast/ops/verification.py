"""The check of a Triton kernel on this GPU, made once, before `auto` takes it.

A compiler or driver may get a kernel wrong on one GPU only. So `auto` compares it first, forward
and backward, with the reference, on fresh random tensors with the call's channels and dtype, and
few and small images. What passed is remembered in the cache directory, for this GPU, these
versions and these kernel sources; what failed is tried again by the next process.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from googlenet_fast.cache import cache_dir

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

Signature = tuple[Any, ...]
"""An op's arguments as constants: for a tensor its shape and dtype, anything else as it is."""


@torch._dynamo.assume_constant_result
def can_verify() -> bool:
    """Whether there is a GPU to check kernels on, free to run them: no CUDA graph is captured."""
    return torch.cuda.is_available() and not torch.cuda.is_current_stream_capturing()


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
    return _remembered(op, implementation, device, call)


@cache
def _remembered(op: str, implementation: str, device: str, call: Signature) -> str | None:
    environment = _environment(device)
    path = _record_path(environment)
    name = f"{op} {implementation} {call}"
    if name in _read(path):
        return None
    failure = compare(op, implementation, device, call)
    if failure is None:
        _write(path, environment, sorted({*_read(path), name}))
        return None
    return f"it failed its check on {device}: {failure}; run python -m googlenet_fast.doctor"


def compare(op: str, implementation: str, device: str, call: Signature) -> str | None:
    """Run an implementation beside the reference, in and beyond its dtype; say how it differs."""
    dtype = call[1]
    weights = [value[1] for value in call[2:] if isinstance(value, tuple) and len(value[0]) == 4]
    mixed = dtype if any(weight != dtype for weight in weights) else None
    with _disable_current_modes(), torch.inference_mode(False), torch.enable_grad():
        try:
            arguments = _random_arguments(call, device)
            exact = _run(op, "reference", [_double(value) for value in arguments], None)
            own = _errors(_run(op, "reference", arguments, mixed), exact)
            found = _errors(_run(op, implementation, arguments, mixed), exact)
        except Exception as error:  # compilers fail in their own ways; all mean: do not use it
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    of_output, of_gradients = FLOORS[dtype]
    floors = [of_output, *[of_gradients] * (len(found) - 1)]
    for index, (off, reference, floor) in enumerate(zip(found, own, floors, strict=True)):
        if not off <= 2 * reference + floor:  # NaN fails too
            what = "output" if index == 0 else f"gradient {index}"
            return f"relative error {off:.1e} of the {what} in {dtype}"
    return None


def _random_arguments(call: Signature, device: str) -> list[Any]:
    """Tensors as described, of a scale that keeps outputs of order 1; the caller's seed stays."""
    generator = torch.Generator().manual_seed(0)
    shape, dtype, *rest = call
    values: list[Any] = []
    for value in ((shape, dtype), *rest):
        if not isinstance(value, tuple):
            values.append(value)
            continue
        size, of = value
        tensor = torch.randn(size, generator=generator)
        if len(size) == 4 and values:  # a weight
            tensor /= tensor[0].numel() ** 0.5
        values.append(tensor.to(device, of))
    return values


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) else value


def _run(
    op: str, implementation: str, arguments: Sequence[Any], autocast: torch.dtype | None
) -> list[Tensor]:
    """Output and gradients of all tensors, for a fixed random gradient of the output.

    `autocast`: the dtype of products, where weights are kept in another; None turns it off.
    """
    ops = import_module("googlenet_fast.ops")  # which imports this module
    values = [v.detach().requires_grad_() if isinstance(v, Tensor) else v for v in arguments]
    enabled, device_type = autocast is not None, values[0].device.type
    context = torch.autocast(device_type, autocast, enabled=enabled, cache_enabled=False)
    with ops.use_impl(implementation), context:
        y = getattr(ops, op)(*values)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.device, y.dtype)
    leaves = [value for value in values if isinstance(value, Tensor)]
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def _errors(actual: list[Tensor], exact: list[Tensor]) -> list[float]:
    """Relative errors in norm."""
    return [((a.double() - e).norm() / e.norm()).item() for a, e in zip(actual, exact, strict=True)]


def _environment(device: str) -> dict[str, str]:
    """All that a result depends on, besides the call."""
    kernels = find_spec("googlenet_fast.kernels")
    folders = kernels.submodule_search_locations if kernels else None
    sources = sorted(path for folder in folders or [] for path in Path(folder).glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    about = {
        "device": torch.device(device).type,
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "triton": _version("triton"),
        "googlenet_fast": _version("googlenet-fast"),
        "kernels": digest,
    }
    if torch.device(device).type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
        about["capability"] = "{}.{}".format(*torch.cuda.get_device_capability(device))
    return about


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _record_path(environment: dict[str, str]) -> Path:
    key = hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / f"checked-kernels-{key}.json"


def _read(path: Path) -> list[str]:
    """Calls that passed; none where the file is absent or not one of ours."""
    try:
        passed = json.loads(path.read_text())["passed"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in passed if isinstance(name, str)] if isinstance(passed, list) else []


def _write(path: Path, environment: dict[str, str], passed: list[str]) -> None:
    """Replace the file at once; where the directory cannot be written, the check runs again."""
    text = json.dumps({**environment, "passed": passed}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
        Path(file.name).replace(path)
    except OSError:
        return
