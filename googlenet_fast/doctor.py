"""What this machine can do and whether it does it right: `python -m googlenet_fast.doctor`.

Prints versions and devices, which implementations each fused op has here and why others are
missing, and checks every one that runs, forward and backward, against the reference in float64.
Exit status 1: a check failed.
"""

import argparse
import json
import platform
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import googlenet_fast
from googlenet_fast.errors import run_command
from googlenet_fast.ops import (
    bias_relu_pool,
    concat_bias_relu,
    conv_bias_relu,
    dispatch,
    extension,
    inception,
    local_response_norm,
    max_pool,
    use_impl,
)

PACKAGES = (
    "numpy",
    "triton",
    "torchvision",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
)
"""Distributions whose versions matter, besides torch."""

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


def main() -> None:
    """Print the report; exit with status 1 if a check failed."""
    parser = argparse.ArgumentParser(
        prog="python -m googlenet_fast.doctor",
        description="What this machine can run, and whether it computes it right.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    as_json = parser.parse_args().json
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report itself says what falls back
        results = check_all()
    about = {"versions": versions(), "devices": devices(), "extension": describe_extension()}
    if as_json:
        print(json.dumps({**about, "ops": [asdict(result) for result in results]}, indent=2))
    else:
        for title, facts in about.items():
            print(title, *(f"  {name:22} {fact}" for name, fact in facts.items()), sep="\n")
        print("ops", *(f"  {line(result)}" for result in results), sep="\n")
    if any(result.failure is not None for result in results):
        sys.exit(1)


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of what it stands on."""
    found = {
        "googlenet_fast": googlenet_fast.__version__,
        "python": platform.python_version(),
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none: a CPU build'})",
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def devices() -> dict[str, str]:
    """The CPU and the GPUs."""
    found = {
        "cpu": f"{cpu_name()}; {torch.get_num_threads()} threads;"
        f" {torch.backends.cpu.get_cpu_capability()}"
    }
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = (
            f"{gpu.name}; compute capability {gpu.major}.{gpu.minor};"
            f" {gpu.total_memory / 2**30:.0f} GiB; warps of {gpu.warp_size}"
        )
    return found


def cpu_name() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_extension() -> dict[str, str]:
    """Whether the compiled extension is loaded, and with which parts."""
    facts = {}
    for part in ("cpu", "cuda"):
        facts[f"{part} part"] = extension.missing_part(part) or "loaded"
    if extension.UNAVAILABLE is None:
        facts["built with torch"] = extension.BUILD_INFO["torch"]
        facts["built with CUDA"] = extension.BUILD_INFO.get("cuda", "none")
        facts["GPU architectures"] = extension.BUILD_INFO.get("architectures", "none")
    return facts


def check_all() -> list[Result]:
    """Check every implementation of every op on every type of device."""
    return [result for op in CASES for device in ("cpu", "cuda") for result in check(op, device)]


def check(op: str, device: str) -> list[Result]:
    """Check the implementations of an op, best first, on a type of device."""
    if device == "cuda" and not torch.cuda.is_available():
        names = dispatch.implementations(op, device)
        return [Result(op, device, name, "no CUDA device", False, {}, None) for name in names]
    dtypes = [torch.float32, torch.float16] if device == "cuda" else [torch.float32]
    case = CASES[op]
    results: list[Result] = []
    reasons = dispatch.can_use(op, device, case.arguments(make_tensors(case, dtypes[0], device)))
    for name, reason in reasons.items():
        errors: dict[str, float] = {}
        failure = None
        if reason is None and name != "reference":
            errors, failure = compare(case, name, dtypes, device)
        auto = reason is None and not any(result.auto for result in results)
        results.append(Result(op, device, name, reason, auto, errors, failure))
    return results


def compare(
    case: Case, implementation: str, dtypes: list[torch.dtype], device: str
) -> tuple[dict[str, float], str | None]:
    """Return the errors of an implementation, by dtype, and how it failed, or None."""
    errors: dict[str, float] = {}
    for dtype in dtypes:
        tensors = make_tensors(case, dtype, device)
        exact = outputs(case, "reference", [tensor.double() for tensor in tensors])
        allowed = 2 * error(outputs(case, "reference", tensors), exact) + TOLERANCES[dtype]
        try:
            found = error(outputs(case, implementation, tensors), exact)
        except RuntimeError as exception:
            return errors, f"{dtype}: {exception}"
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


def line(result: Result) -> str:
    """One line of the report."""
    if result.reason is not None:
        state = f"not available: {result.reason}"
    elif result.failure is not None:
        state = f"FAILED: {result.failure}"
    elif result.implementation == "reference":
        state = "what others are compared with"
    else:
        state = "ok, relative error " + ", ".join(
            f"{error:.1e} ({dtype})" for dtype, error in result.errors.items()
        )
    mark = "*" if result.auto else " "
    return f"{result.op:20} {result.device:5} {mark} {result.implementation:10} {state}"


if __name__ == "__main__":
    run_command(main)
