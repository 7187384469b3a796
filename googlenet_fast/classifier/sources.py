"""Find the images that a user names: files, folders, URLs, and `-` for standard input."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from googlenet_fast.data.folders import list_images
from googlenet_fast.data.tar_members import Location
from googlenet_fast.download import fetch, is_url
from googlenet_fast.errors import UserError, printable
from googlenet_fast.limits import IMAGE_SECONDS, MOST_IMAGE_BYTES

STDIN = "-"
"""Name of the image whose bytes are standard input."""
DOWNLOADS = 8
"""Images that are downloaded at a time."""


@dataclass(frozen=True)
class Unreadable:
    """An image or folder without predictions."""

    name: str
    """As the user wrote it, or a file below such a folder."""
    reason: str
    """One line that names the image."""


def find_images(
    names: Sequence[str | Path], folder: Path
) -> tuple[list[Location], list[Unreadable]]:
    """Return the images named, and those below folders, sorted; and what is missing.

    Args:
        names: files, folders, URLs, and "-".
        folder: where images that are no files are put.
    """
    elsewhere = [str(n) for n in dict.fromkeys(names) if is_url(n) or str(n) == STDIN]
    places = [folder / f"{i}" for i in range(len(elsewhere))]
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        brought = dict(zip(elsewhere, pool.map(_bring, elsewhere, places), strict=True))
    found: list[Location] = []
    missing: list[Unreadable] = []
    for name in map(str, names):
        if name in brought:
            outcome = brought[name]
            (missing if isinstance(outcome, Unreadable) else found).append(outcome)  # type: ignore[arg-type]
        elif Path(name).is_dir():
            images, problems = list_images(Path(name))
            found += [Location(str(path), str(path)) for path in images]
            missing += [Unreadable(name, problem) for problem in problems]
            if not images and not problems:
                missing.append(Unreadable(name, f"{name}: no image in this folder or below it"))
        elif Path(name).is_file():
            found.append(Location(name, name))
        elif Path(name).exists():
            missing.append(Unreadable(name, f"{name}: is not a regular file"))
        else:
            missing.append(Unreadable(name, f"{name}: no such file or folder"))
    return found, missing


def fetch_image(url: str, file: Path) -> Location:
    """Download an image to a file.

    Raises:
        UserError: names the URL and the reason.
    """
    content = fetch(url, most_bytes=MOST_IMAGE_BYTES, seconds=IMAGE_SECONDS, any_http=True)
    file.write_bytes(content)
    return Location(url, str(file))


def _bring(name: str, file: Path) -> Location | Unreadable:
    try:
        return fetch_image(name, file) if name != STDIN else _read_stdin(file)
    except UserError as error:
        return Unreadable(name, str(error))
    except OSError as error:
        reason = f"{printable(name)}: cannot be stored in {file.parent}: {error.strerror or error}"
        return Unreadable(name, reason)


def _read_stdin(file: Path) -> Location:
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("-: reads an image from standard input; direct a file there")
    content = sys.stdin.buffer.read(MOST_IMAGE_BYTES + 1)
    if not content:
        raise UserError("-: standard input is empty")
    if len(content) > MOST_IMAGE_BYTES:
        raise UserError(f"-: standard input has more than {MOST_IMAGE_BYTES:,} bytes")
    file.write_bytes(content)
    return Location(STDIN, str(file))
