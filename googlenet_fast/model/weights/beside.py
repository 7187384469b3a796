"""FILE.json: what a weight file says about its network, for formats that hold tensors alone."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.weights.weight_file import Description, WeightFile

FORMAT = "googlenet_fast.description"
"""Value of the key "format"; another program's file of that name is left alone."""
_MOST_BYTES = 1 << 24


def beside(path: Path) -> Path:
    """Return the path of the description of a weight file."""
    return path.with_name(f"{path.name}.json")


def description_beside(values: dict[str, Any], content: bytes) -> bytes:
    """Return the file that describes the weight file with this content."""
    digest = hashlib.sha256(content).hexdigest()
    document = {"format": FORMAT, "sha256": digest, **values}
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode(errors="replace")


def with_description_beside(file: WeightFile, content: bytes) -> WeightFile:
    """Return a weight file with the description beside it, if there is one.

    Raises:
        GoogLeNetError: the description is damaged, or of other weights.
    """
    path = beside(file.path)
    values = _read(path)
    if values is None:
        return file
    if values.get("sha256", digest := hashlib.sha256(content).hexdigest()) != digest:
        raise GoogLeNetError(
            f"weights {file.path}: is damaged, or {path.name} describes other weights; export "
            f"again, or remove {path.name} if the weights are good"
        )
    described = Description.checked(path, values)
    if described.preset is None:
        described = replace(described, preset=file.description.preset)
    if file.description.preset not in (None, described.preset):
        raise GoogLeNetError(
            f"weights {path}: field preset cannot be {described.preset}, {file.path.name} is of"
            f" preset {file.description.preset}"
        )
    return replace(file, description=described)


def remove_description(file: Path) -> None:
    """Remove the description beside a weight file, but no other program's file."""
    try:
        described = _read(beside(file)) is not None
    except GoogLeNetError:  # damaged
        return
    if described:
        beside(file).unlink()


def _read(path: Path) -> dict[str, Any] | None:
    """Return the description in a file; None if there is none."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise GoogLeNetError(
            f"weights {path}: cannot be read ({type(error).__name__}); repair or remove it"
        ) from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return None
    return values
