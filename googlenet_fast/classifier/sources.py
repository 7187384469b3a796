"""Find the images that a user names: files, folders, URLs, and `-` for standard input."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from googlenet_fast.data.folders import list_images
from googlenet_fast.data.tar_members import Location
from googlenet_fast.download import fetch, is_url
from googlenet_fast.errors import GoogLeNetError, printable
from googlenet_fast.limits import IMAGE_SECONDS, MOST_IMAGE_BYTES

STDIN = "-"
"""Name of the image whose bytes are standard input."""


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
        folder: where images that are not files are stored.
    """
    found: list[Location] = []
    missing: list[Unreadable] = []
    brought: dict[str, Location | Unreadable] = {}
    for name in map(str, names):
        if not is_url(name) and name != STDIN:
            images, problems = local_images(name)
            found += images
            missing += problems
            continue
        if name not in brought:  # in this thread, which Ctrl-C interrupts
            brought[name] = _bring(name, folder / f"{len(brought)}")
        outcome = brought[name]
        if isinstance(outcome, Unreadable):
            missing.append(outcome)
        else:
            found.append(outcome)
    return found, missing


def local_images(name: str) -> tuple[list[Location], list[Unreadable]]:
    """Return a file, or the sorted images below a folder; and what is missing."""
    path = Path(name)
    if path.is_file():
        return [Location(name, name)], []
    if not path.is_dir():
        what = "is not a regular file" if path.exists() else "no such file or folder"
        return [], [Unreadable(name, f"{name}: {what}")]
    images, problems = list_images(path)
    if not images and not problems:
        problems = [f"{name}: no image in this folder or below it"]
    found = [Location(str(image), str(image)) for image in images]
    return found, [Unreadable(name, problem) for problem in problems]


def fetch_image(url: str, file: Path) -> Location:
    """Download an image to a file.

    Raises:
        GoogLeNetError: names the URL and the reason.
    """
    content = fetch(url, most_bytes=MOST_IMAGE_BYTES, seconds=IMAGE_SECONDS, any_http=True)
    file.write_bytes(content)
    return Location(url, str(file))


def _bring(name: str, file: Path) -> Location | Unreadable:
    try:
        return fetch_image(name, file) if name != STDIN else _read_stdin(file)
    except GoogLeNetError as error:
        return Unreadable(name, str(error))
    except OSError as error:
        reason = f"{printable(name)}: cannot be stored in {file.parent}: {error.strerror or error}"
        return Unreadable(name, reason)


def _read_stdin(file: Path) -> Location:
    if sys.stdin is None or sys.stdin.isatty():
        raise GoogLeNetError("-: reads an image from standard input; direct a file there")
    content = sys.stdin.buffer.read(MOST_IMAGE_BYTES + 1)
    if not content:
        raise GoogLeNetError("-: standard input is empty")
    if len(content) > MOST_IMAGE_BYTES:
        raise GoogLeNetError(f"-: standard input has more than {MOST_IMAGE_BYTES:,} bytes")
    file.write_bytes(content)
    return Location(STDIN, str(file))
