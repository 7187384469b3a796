"""Describe this machine: versions, devices, and the compiled extension."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import googlenet_fast
from googlenet_fast import extension
from googlenet_fast.kernels.configs import warp_lanes

PACKAGES = (
    "numpy",
    "triton",
    "torchvision",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
)
"""Distributions to list besides torch."""


def versions() -> dict[str, str]:
    """Return the versions of this package, Python and the packages that matter."""
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
    """Describe the CPU and the GPUs."""
    found = {
        "cpu": f"{cpu_name()}; {torch.get_num_threads()} threads;"
        f" {torch.backends.cpu.get_cpu_capability()}"
    }
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        lanes = warp_lanes(torch.device("cuda", index)) or "unknown size"
        found[f"cuda:{index}"] = (
            f"{gpu.name}; compute capability {gpu.major}.{gpu.minor};"
            f" {gpu.total_memory / 2**30:.0f} GiB; warps of {lanes}"
        )
    return found


def cpu_name() -> str:
    """Return the name of the processor, as far as the system knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_extension() -> dict[str, str]:
    """Describe the compiled extension and its parts."""
    facts = {}
    for part in ("cpu", "cuda"):
        facts[f"{part} part"] = extension.missing_part(part) or "loaded"
    if extension.UNAVAILABLE is None:
        facts["CPU instruction set"] = extension.instruction_set() or "none"
        facts["built with torch"] = extension.BUILD_INFO["torch"]
        facts["built with CUDA"] = extension.BUILD_INFO.get("cuda", "none")
        facts["GPU architectures"] = extension.BUILD_INFO.get("architectures", "none")
    return facts
