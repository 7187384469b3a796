"""List a tree of class folders; the listing of a large tree is cached."""

import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from googlenet_fast.data.waiting import waiting_for
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.files import cache_dir, read_checked_json, write_checked_json

EXTENSIONS = (
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".pnm", ".tif",
    ".tiff",
)  # fmt: skip
"""Suffixes of image files, in lower or upper case; other files in class folders are counted."""
TOOLS_OWN = {
    "@eadir", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "lost+found", "$recycle.bin",
    "system volume information",
}  # fmt: skip
"""Files and folders, in lower case, that systems leave among a user's, with thumbnails in some."""
CACHED_FROM = 10_000
"""Least number of images whose listing is cached."""
SETTLED = 2.0
"""Seconds after which another change of a folder certainly gets another time stamp."""
NAMED = 3
"""Links and special files that are named; of others the number is told."""

_log = logging.getLogger("googlenet_fast")


@dataclass
class Listing:
    """The images below a folder, and time stamps that show if they changed."""

    images: dict[str, list[str]] = field(default_factory=dict)
    """Class name -> paths relative to its folder, sorted."""
    changed: dict[str, list[int]] = field(default_factory=dict)
    """Folder relative to the root -> times of modification and change in ns, taken before it was
    read."""
    passed_over: dict[str, int] = field(default_factory=Counter)
    """Suffix -> number of files that are no images by their names."""
    notes: list[str] = field(default_factory=list)
    """What else was passed over: links that lead back, pipes and devices."""
    problems: list[str] = field(default_factory=list)
    """Folders that cannot be listed, with the reason."""


def list_class_folders(root: Path) -> dict[str, list[str]]:
    """Return class name -> image paths relative to the class folder, sorted.

    Hidden files and what systems leave behind are ignored; a line tells what else is passed over.
    The listing of a large tree stays in the cache until a folder in it changes.

    Raises:
        GoogLeNetError: no such folder, an unreadable folder, or no folder in it.
    """
    if not root.is_dir():
        raise GoogLeNetError(f"{root}: no such folder")
    cache = cache_dir() / "listings" / f"{_digest(root)}.json"
    if listing := _load(cache, root):
        report_passed_over(root, listing)
        return listing.images
    started = time.time_ns()
    listing = scan_class_folders(root)
    if listing.problems:
        raise GoogLeNetError(listing.problems[0])
    if not listing.images:
        raise GoogLeNetError(f"{root}: holds no class folders; expected {root}/CLASS/IMAGE.jpg")
    report_passed_over(root, listing)
    settled = max(modified for modified, _ in listing.changed.values()) < started - SETTLED * 1e9
    if settled and sum(map(len, listing.images.values())) >= CACHED_FROM:
        write_checked_json(cache, vars(listing))
    return listing.images


def scan_class_folders(root: Path) -> Listing:
    """List the class folders in a folder; whatever cannot be listed is one of its `problems`."""
    listing = Listing()
    folders, files = _entries(root, "", listing)
    around = _identities([root.resolve(), *root.resolve().parents])
    for entry in folders:
        if entry.is_symlink() and not _identities([entry]).isdisjoint(around):
            listing.notes.append(f"{entry.path}: a link to a folder above it is no class")
            continue
        found = _scan(Path(entry), "", entry.name, listing, around.copy())
        listing.images[entry.name] = sorted(found)
    if beside := sum(is_image_name(entry.name) for entry in files):
        listing.notes.append(f"{root}: {beside} images beside the class folders")
    return listing


def list_images(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the images below a folder, sorted, and a line for each folder that cannot be listed.

    Another line tells what is passed over.
    """
    listing = Listing()
    around = _identities([folder.resolve(), *folder.resolve().parents])
    images = [folder / name for name in _scan(folder, "", "", listing, around)]
    report_passed_over(folder, listing)
    return sorted(images), listing.problems


def is_image_name(name: str) -> bool:
    """Return True if a file is an image by its suffix."""
    return name.lower().endswith(EXTENSIONS)


def report_passed_over(root: Path, listing: Listing) -> None:
    """Log the files of other kinds, and each link and special file."""
    if count := sum(listing.passed_over.values()):
        kinds = sorted(listing.passed_over.items(), key=lambda kind: (-kind[1], kind[0]))
        shown = ", ".join(f"{number} {suffix}" for suffix, number in kinds)
        _log.warning("%s: %d files passed over: %s", root, count, shown)
    for note in listing.notes[:NAMED]:
        _log.warning("%s; passed over", note)
    if (more := len(listing.notes) - NAMED) > 0:
        _log.warning("%s: %d more links or special files passed over", root, more)


def _entries(
    folder: Path, name: str, listing: Listing
) -> tuple[list["os.DirEntry[str]"], list["os.DirEntry[str]"]]:
    """Return the folders and the other entries of a folder, links last; add its time stamps."""
    folders: list[os.DirEntry[str]] = []
    files: list[os.DirEntry[str]] = []
    try:
        with waiting_for(lambda: [str(folder)]):
            status = folder.stat()
            listing.changed[name] = [status.st_mtime_ns, status.st_ctime_ns]
            entries = list(os.scandir(folder))
        if entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in TOOLS_OWN:
                    continue
                try:
                    (folders if entry.is_dir() else files).append(entry)
                except OSError as error:  # a link that leads to itself
                    listing.notes.append(f"{entry.path}: {error.strerror}")
    except OSError as error:
        listing.problems.append(f"{folder}: cannot be listed ({error.strerror})")
    return sorted(folders, key=lambda entry: (entry.is_symlink(), entry.name)), files


def _scan(
    folder: Path, prefix: str, name: str, listing: Listing, seen: set[tuple[int, int]]
) -> list[str]:
    """Return the images below a folder as prefix + path.

    Args:
        folder: Where to look.
        prefix: What the paths begin with.
        name: The folder relative to the root.
        listing: Gets what else there is.
        seen: Folders that a link may not lead to: those around this one, and those listed before.
    """
    images = []
    folders, files = _entries(folder, name, listing)
    seen |= _identities([folder])
    for file in files:
        if not is_image_name(file.name):
            listing.passed_over[_suffix(file.name)] += 1
        elif file.is_file() or (file.is_symlink() and not os.path.exists(file)):  # noqa: PTH110
            images.append(prefix + file.name)  # a broken link is named when it is read
        else:
            listing.notes.append(f"{file.path}: not a regular file")
    for below in folders:
        if below.is_symlink() and not _identities([below]).isdisjoint(seen):
            listing.notes.append(f"{below.path}: a link to a folder that is listed already")
            continue
        images += _scan(
            Path(below), f"{prefix}{below.name}/", f"{name}/{below.name}", listing, seen
        )
    return images


def _identities(folders: Iterable["Path | os.DirEntry[str]"]) -> set[tuple[int, int]]:
    """Return device and inode of folders; links are followed."""
    found = set()
    for folder in folders:
        try:
            status = os.stat(folder)  # noqa: PTH116 (also of directory entries)
        except OSError:  # its listing fails too, and names it
            continue
        found.add((status.st_dev, status.st_ino))
    return found


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without suffix"  # noqa: PTH122


def _digest(root: Path) -> str:
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]


def _load(cache: Path, root: Path) -> Listing | None:
    """Return the cached listing if no folder has changed since."""
    try:
        listing = Listing(**read_checked_json(cache))
        for folder, times in listing.changed.items():
            status = os.stat(root / folder)  # noqa: PTH116 (thousands of them)
            if [status.st_mtime_ns, status.st_ctime_ns] != times:
                return None
    except FileNotFoundError:  # no cache, or a folder that is gone
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _log.warning("%s: ignored, the folders are listed again (%s)", cache, error)
        return None
    return listing
