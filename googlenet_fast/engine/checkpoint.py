"""Checkpoints: complete, atomic, and readable without unpickling arbitrary objects."""

import io
import os
from pathlib import Path
from typing import Any

import torch

from googlenet_fast.errors import UserError

FORMAT = "googlenet_fast.checkpoint"
"""Value of a checkpoint's "format" entry."""


def save_checkpoint(path: Path, state: dict[str, Any], *copies: Path) -> None:
    """Write `state` (tensors and plain values) to `path` and to `copies`, each whole or not at all.

    The bytes go to a temporary file beside each path that replaces it once it is safely on the
    disk, so an older checkpoint survives whatever happens.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    for target in (path, *copies):
        write_atomically(target, buffer.getbuffer())


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replace the content of `path`, whole or not at all; raise `UserError` where that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        kept = "; the previous one is unharmed" if path.exists() else ""
        raise UserError(f"cannot save {path}: {error.strerror or error}{kept}") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        UserError: no such file, or not a whole checkpoint of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path}: no such file") from None
    except Exception as error:  # torch.load's errors on bad bytes have no common class
        raise UserError(
            f"checkpoint {path}: cannot be read ({type(error).__name__}); "
            "it is damaged or not a checkpoint"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(
            f"checkpoint {path}: not a checkpoint of this trainer; "
            "start from foreign weights with --model.weights"
        )
    return state
