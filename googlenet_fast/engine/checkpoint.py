"""Checkpoints: complete, atomic, and readable without unpickling arbitrary objects."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from googlenet_fast.errors import UserError
from googlenet_fast.files import write_atomically
from googlenet_fast.model.weights.weight_file import CHECKPOINT_FORMAT


def save_checkpoint(
    path: Path, state: dict[str, Any], *, keep_as: Path | None = None, copies: Sequence[Path] = ()
) -> None:
    """Write `state` (tensors and plain values) to `path`, whole or not at all.

    Args:
        path: the file.
        state: what it will hold.
        keep_as: where the checkpoint at `path` goes, once the new one is safely on the disk.
        copies: other files for `state`, written first: whoever finds `path` finds them too.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    buffer = io.BytesIO()
    torch.save({"format": CHECKPOINT_FORMAT, **state}, buffer)
    for copy in copies:
        write_atomically(copy, buffer.getbuffer())
    write_atomically(path, buffer.getbuffer(), keep_as=keep_as)


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
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise UserError(
            f"checkpoint {path}: not a checkpoint of this trainer; "
            "start from foreign weights with --model.weights"
        )
    return state
