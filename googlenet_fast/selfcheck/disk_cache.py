"""What was found out about kernels on this machine, kept in the cache directory between runs.

A record is a JSON file, valid for one GPU and driver, these versions and sources, and these flags
of PyTorch. One that is damaged or from elsewhere is ignored, with a line that names it, and
replaced.
"""

import hashlib
import json
import logging
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from googlenet_fast import extension
from googlenet_fast.files import cache_dir, sources_digest, write_json
from googlenet_fast.kernels.configs import tf32_allowed

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
"""Where Linux tells the release of NVIDIA's driver, on its first line."""

_PACKAGE = Path(__file__).parents[1]

_log = logging.getLogger("googlenet_fast")


def read_record(kind: str, device: str) -> list[Any]:
    """Return the entries of a record, as JSON has them; none where there is no usable file.

    Args:
        kind: what the record is of; its file is named after it.
        device: such as "cuda:0".
    """
    about = environment(device)
    path = _path(kind, about)
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        return _ignored(path, f"it cannot be read ({error})")
    if not isinstance(record, dict) or not isinstance(record.get("entries"), list):
        return _ignored(path, "it is not a record")
    if record.get("environment") != about:
        return _ignored(path, "it is from another GPU or other versions")
    return record["entries"]


def write_record(kind: str, device: str, entries: list[Any]) -> None:
    """Replace a record at once; a failed write is logged and ignored."""
    about = environment(device)
    write_json(_path(kind, about), {"environment": about, "entries": entries})


def environment(device: str) -> dict[str, str]:
    """Return all that a record's entries depend on besides themselves."""
    return {**_machine(device), **_flags()}


@cache
def _machine(device: str) -> dict[str, str]:
    """Return what does not change in a process."""
    about = {
        "device": torch.device(device).type,
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "triton": _version("triton"),
        "googlenet_fast": _version("googlenet-fast"),
        "kernels": sources_digest(_PACKAGE / "kernels"),
        "ops": sources_digest(_PACKAGE / "ops"),
        "csrc": extension.BUILD_INFO.get("csrc", "none"),
    }
    if torch.device(device).type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
        about["capability"] = "{}.{}".format(*torch.cuda.get_device_capability(device))
        about["driver"] = _driver()
    return about


def _flags() -> dict[str, str]:
    """Return the settings by which PyTorch chooses algorithms and rounds."""
    cudnn = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    return {
        "cudnn.benchmark": str(cudnn.benchmark),
        "deterministic": str(cudnn.deterministic or torch.are_deterministic_algorithms_enabled()),
        "cudnn.tf32": str(tf32_allowed()),
        "matmul precision": torch.get_float32_matmul_precision(),
        "matmul fp16 reduction": str(matmul.allow_fp16_reduced_precision_reduction),
        "matmul bf16 reduction": str(matmul.allow_bf16_reduced_precision_reduction),
    }


def encode(value: Any) -> Any:
    """Convert a call into values that JSON has."""
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    return str(value) if isinstance(value, torch.dtype) else value


def decode(value: Any) -> Any:
    """Convert what JSON gives back into a call.

    Raises:
        ValueError: it has what no call has.
    """
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if isinstance(value, str):
        dtype = getattr(torch, value.removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"no dtype {value}")
        return dtype
    if value is None or isinstance(value, bool | int | float):
        return value
    raise ValueError(f"{value!r} in a call")


def _driver() -> str:
    """Return the release of the GPU's driver."""
    try:
        return NVIDIA_DRIVER.read_text().partition("\n")[0]
    except (OSError, ValueError):
        return "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _path(kind: str, about: dict[str, str]) -> Path:
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / f"{kind}-{key}.json"


def _ignored(path: Path, reason: str) -> list[Any]:
    _log.warning("%s is ignored and will be replaced: %s", path, reason)
    return []
