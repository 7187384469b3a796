"""Writing files so that none is ever left half-written under its name."""

import os
from pathlib import Path

from googlenet_fast.errors import UserError


def write_atomically(
    path: Path, content: bytes | memoryview, *, keep_as: Path | None = None
) -> None:
    """Replace the content of `path`, whole or not at all.

    The bytes go to a temporary file beside it, `.NAME.PID`, which takes its place once it is
    safely on the disk.

    Args:
        path: the file.
        content: its new bytes.
        keep_as: where the old file goes, once the new one is safe; whatever is there is dropped.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    existed = path.exists()
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep_as is not None and existed:
            path.replace(keep_as)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        kept = "; the previous one is unharmed" if existed else ""
        raise UserError(f"cannot save {path}: {error.strerror or error}{kept}") from None


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove what writers that were killed left in `folder`, where none may be writing now.

    Returns:
        The temporary files that were removed.
    """
    unfinished = [path for path in folder.glob(".*.*") if path.suffix[1:].isdecimal()]
    for path in unfinished:
        path.unlink()
    return unfinished
