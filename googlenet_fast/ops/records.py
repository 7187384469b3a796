"""What was found out about kernels on this machine, kept in the cache directory between runs.

A record is a JSON file that holds for one GPU, these versions and these kernel sources only. One
that is damaged or from elsewhere is ignored, with a line that names it, and made anew.
"""

import hashlib
import json
import tempfile
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from googlenet_fast.files import cache_dir


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
    """Replace a record at once; where the directory cannot be written, nothing is kept."""
    about = environment(device)
    path = _path(kind, about)
    text = json.dumps({"environment": about, "entries": entries}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
        Path(file.name).replace(path)
    except OSError as error:
        warnings.warn(f"{path} cannot be written: {error}", RuntimeWarning, stacklevel=2)


@cache
def environment(device: str) -> dict[str, str]:
    """All that a record's entries depend on besides themselves."""
    about = {
        "device": torch.device(device).type,
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "triton": _version("triton"),
        "googlenet_fast": _version("googlenet-fast"),
        "kernels": _digest(),
    }
    if torch.device(device).type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
        about["capability"] = "{}.{}".format(*torch.cuda.get_device_capability(device))
    return about


def _digest() -> str:
    """Hash of the Triton kernels' sources."""
    kernels = find_spec("googlenet_fast.kernels")
    folders = kernels.submodule_search_locations if kernels else None
    sources = sorted(path for folder in folders or [] for path in Path(folder).glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _path(kind: str, about: dict[str, str]) -> Path:
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / f"{kind}-{key}.json"


def _ignored(path: Path, reason: str) -> list[Any]:
    warnings.warn(f"{path} is ignored and made anew: {reason}", RuntimeWarning, stacklevel=3)
    return []
