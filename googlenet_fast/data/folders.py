"""List a tree of class folders; the listing of a large tree is cached."""

import hashlib
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from googlenet_fast.errors import UserError
from googlenet_fast.files import cache_dir, write_json

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".pnm", ".tif", ".tiff")
"""Suffixes of image files, in lower or upper case; other files in class folders are skipped."""
CACHED_FROM = 10_000
"""Least number of images whose listing is cached."""
SETTLED = 2.0
"""Seconds after which another change of a folder certainly gets another time stamp."""

_log = logging.getLogger("googlenet_fast")


@dataclass
class _Listing:
    """The images below a folder, and time stamps that show if they changed."""

    images: dict[str, list[str]]
    """Class name -> paths relative to its folder, sorted."""
    changed: dict[str, int]
    """Folder relative to the root -> modification time in ns, taken before it was read."""


def list_class_folders(root: Path) -> dict[str, list[str]]:
    """Return class name -> image paths relative to the class folder, sorted.

    The listing of a large tree stays in the cache until a folder in it changes.

    Raises:
        UserError: no such folder, an unreadable folder, or no folder in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    cache = cache_dir() / "listings" / f"{_digest(root)}.json"
    if listing := _load(cache, root):
        return listing.images
    started = time.time_ns()
    try:
        listing = _scan(root)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})") from None
    if not listing.images:
        raise UserError(f"{root}: holds no class folders; expected {root}/CLASS/IMAGE.jpg")
    settled = max(listing.changed.values()) < started - SETTLED * 1e9
    if settled and sum(map(len, listing.images.values())) >= CACHED_FROM:
        write_json(cache, vars(listing))
    return listing.images


def _scan(root: Path) -> _Listing:
    listing = _Listing({}, {"": root.stat().st_mtime_ns})
    with os.scandir(root) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    for name in names:
        listing.images[name] = sorted(_scan_class(root / name, "", name, listing.changed))
    return listing


def _scan_class(folder: Path, prefix: str, name: str, changed: dict[str, int]) -> list[str]:
    """Return the images below a folder as prefix + path; add its time stamps to `changed`."""
    images = []
    changed[name] = folder.stat().st_mtime_ns
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(EXTENSIONS):
                images.append(prefix + entry.name)
            elif entry.is_dir(follow_symlinks=False):  # a link could lead back here
                below = f"{prefix}{entry.name}/"
                images += _scan_class(Path(entry), below, f"{name}/{entry.name}", changed)
    return images


def _digest(root: Path) -> str:
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]


def _load(cache: Path, root: Path) -> _Listing | None:
    """Return the cached listing if no folder has changed since."""
    try:
        listing = _Listing(**json.loads(cache.read_text(encoding="utf-8")))
        if not listing.images.keys() < listing.changed.keys():
            raise ValueError("incomplete")
        unchanged = all(
            os.stat(root / folder).st_mtime_ns == changed  # noqa: PTH116 (thousands of them)
            for folder, changed in listing.changed.items()
        )
    except FileNotFoundError:  # no cache, or a folder that is gone
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _log.warning("%s: ignored, the folders are listed again (%s)", cache, error)
        return None
    return listing if unchanged else None
