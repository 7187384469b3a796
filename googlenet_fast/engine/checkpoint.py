"""Checkpoints: complete, written atomically, and loaded without running code."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.files import write_atomically
from googlenet_fast.model.weights.archive import check_archive
from googlenet_fast.model.weights.weight_file import CHECKPOINT_FORMAT

_RENAMED = {"position": "images_seen", "bad_steps": "nonfinite_steps"}
"""Keys of checkpoints of older versions -> the present ones."""


def save_checkpoint(
    path: Path, state: dict[str, Any], *, keep_as: Path | None = None, copies: Sequence[Path] = ()
) -> None:
    """Write `state` (tensors and plain values) to `path` atomically.

    Args:
        path: the file.
        state: its content.
        keep_as: new path of the checkpoint at `path`, renamed once the new one is on the disk.
        copies: more files for `state`. They are written first, so `path` is never newer.

    Raises:
        GoogLeNetError: the disk is full, or the folder cannot be written to.
    """
    buffer = io.BytesIO()
    torch.save({"format": CHECKPOINT_FORMAT, **state}, buffer)
    for copy in copies:
        write_atomically(copy, buffer.getbuffer())
    write_atomically(path, buffer.getbuffer(), keep_as=keep_as)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        GoogLeNetError: no such file, or not a complete googlenet_fast checkpoint.
    """
    try:
        with path.open("rb") as file:
            check_archive(file)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise GoogLeNetError(f"checkpoint {path}: no such file") from None
    except (
        Exception
    ) as error:  # zipfile's and torch.load's errors on bad bytes have no common class
        raise GoogLeNetError(
            f"checkpoint {path}: cannot be read ({type(error).__name__}); "
            "it is damaged or not a checkpoint"
        ) from None
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise GoogLeNetError(
            f"checkpoint {path}: not a googlenet_fast checkpoint; "
            "start from other weights with --model.weights"
        )
    for old, new in _RENAMED.items():
        if old in state:
            state[new] = state.pop(old)
    return state
