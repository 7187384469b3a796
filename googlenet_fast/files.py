"""Write files whole or not at all, find the cache directory, and hash source files.

setup.py imports this module before torch is installed: the standard library alone is used here.
"""

import hashlib
import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any

from googlenet_fast.errors import GoogLeNetError

_log = logging.getLogger("googlenet_fast")


def write_atomically(
    path: Path, content: bytes | memoryview, *, keep_as: Path | None = None
) -> None:
    """Replace the content of `path`, whole or not at all.

    Args:
        path: the file.
        content: its new bytes.
        keep_as: where the old file goes, once the new one is safe; a file there is replaced.

    Raises:
        GoogLeNetError: the disk is full, or the folder cannot be written to.
    """
    existed = path.exists()
    try:
        _replace(path, content, keep_as if existed else None)
    except OSError as error:
        kept = "; the previous one is unharmed" if existed else ""
        raise GoogLeNetError(f"cannot save {path}: {error.strerror or error}{kept}") from None


def csv_cell(value: object) -> object:
    """Return a cell that spreadsheets do not take for a formula, quoted as OWASP advises."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


def unfinished(path: Path) -> Path:
    """Return a name beside a file for its content while it is written: `.NAME.NUMBER`.

    The number is random: threads, and processes on several hosts, may write the same file.
    `remove_unfinished` finds what a killed writer has left.
    """
    return path.with_name(f".{path.name}.{secrets.randbits(63)}")


def _replace(path: Path, content: bytes | memoryview, keep_as: Path | None = None) -> None:
    """Write an unfinished file beside it, sync that to disk, and rename it."""
    if path.exists() and not path.is_file():  # a device, which a file would take the place of
        raise OSError(None, "it is not a regular file")
    temporary = unfinished(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep_as is not None:
            path.replace(keep_as)
        temporary.replace(path)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove the temporary files of killed writers from `folder`; no writer may be active there.

    Returns:
        The temporary files that were removed.
    """
    unfinished = [path for path in folder.glob(".*.*") if path.suffix[1:].isdecimal()]
    for path in unfinished:
        path.unlink()
    return unfinished


def cache_dir() -> Path:
    """$GOOGLENET_FAST_CACHE, else googlenet_fast in the user's cache folder; it may not exist.

    Raises:
        GoogLeNetError: HOME is not set, and the system does not know the user's home folder.
    """
    if own := os.environ.get("GOOGLENET_FAST_CACHE"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "googlenet_fast"
    try:
        return Path.home() / ".cache" / "googlenet_fast"
    except RuntimeError:
        raise GoogLeNetError(
            "HOME is not set, and this user has no home folder; set HOME, or GOOGLENET_FAST_CACHE "
            "to a folder for cached files"
        ) from None


def write_cache(path: Path, content: bytes | memoryview) -> None:
    """Write a file of the cache, whole or not at all; a failed write is logged and ignored."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
    except OSError as error:
        _log.warning("%s: not cached (%s)", path, error.strerror or error)


def write_json(path: Path, value: object) -> None:
    """Write a value to a file of the cache as JSON; a failed write is logged and ignored."""
    write_cache(path, json.dumps(value).encode())


def write_checked_json(path: Path, value: object) -> None:
    """Write a value to a file of the cache so that `read_checked_json` notices any damage."""
    text = json.dumps(value).encode()
    write_cache(path, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def read_checked_json(path: Path) -> Any:
    """Read what `write_checked_json` wrote.

    Raises:
        OSError: no such file, or an unreadable one.
        ValueError: not the bytes that were written.
    """
    digest, _, text = path.read_bytes().partition(b"\n")
    if digest != hashlib.sha256(text).hexdigest().encode():
        raise ValueError("it is damaged")
    return json.loads(text)


def sources_digest(folder: Path) -> str:
    """Return the SHA-256 of the C++, CUDA and Python files in `folder`, names included."""
    digest = hashlib.sha256()
    sources = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.suffix in (".cpp", ".cu", ".h", ".py")
    }
    for name, path in sorted(sources.items()):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
