"""Read lists of images (PaddleClas' train_list.txt) and files of class names."""

import codecs
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.data.tar_members import TarMembers
from googlenet_fast.data.waiting import waiting_for
from googlenet_fast.errors import GoogLeNetError

_log = logging.getLogger("googlenet_fast")

CLASS_NAMES = "class_names.txt"
"""File beside shards with one class name per line; the shards hold numbers only."""


@dataclass(frozen=True, eq=False)
class ImageList:
    """Images and labels of a list file or of shards, labels as written."""

    source: Path
    """List file, or name of the shards."""
    root: Path
    """Folder that `files` are relative to."""
    files: list[str]
    """Paths of the images."""
    labels: NDArray[np.int64]
    """Labels, >= 0, (len(files),)."""
    tar_members: TarMembers | None = None
    """Where the images are if they are members of tar files."""

    def classes(self) -> NDArray[np.int64]:
        """Return the labels that occur, sorted."""
        return np.unique(self.labels)

    def class_names(self, classes: NDArray[np.int64] | None = None) -> list[str]:
        """Return the names of all labels, or of `classes`.

        Names are the images' folders if each class has its own folder, otherwise the labels. Names
        of shards come from the file beside them, if there is one.
        """
        file = self.root / CLASS_NAMES
        if self.tar_members is not None and classes is None and file.is_file():
            return self._names_of(file)
        folders: dict[int, str] = {}
        distinct = {
            (os.path.dirname(file), label)  # noqa: PTH120 (a million times)
            for file, label in zip(self.files, self.labels.tolist(), strict=True)
        }
        for folder, label in distinct:
            folders[label] = os.path.basename(folder)  # noqa: PTH119
        ambiguous = len(folders) < len(distinct) or len(set(folders.values())) < len(folders)
        if ambiguous or self.tar_members is not None:
            folders = {}
        if classes is None:
            classes = np.arange(self.labels.max() + 1)
        return [folders.get(label) or str(label) for label in classes.tolist()]

    def _names_of(self, file: Path) -> list[str]:
        names = read_class_names(file)
        if len(names) <= (last := int(self.labels.max())):
            raise GoogLeNetError(
                f"{file}: has {len(names)} names, but {self.source} has an image with label "
                f"{last}; complete or remove it"
            )
        return list(names)


def read_image_list(
    list_file: Path, root: Path | str | None = None, delimiter: str = " "
) -> ImageList:
    """Read a list with one line "path<delimiter>label" per image.

    Paths are relative to the root, or absolute and below it. A space as the delimiter stands for
    any number of spaces and tabs. Backslashes separate folders, as on Windows, if no file has such
    a name.

    Raises:
        GoogLeNetError: names the file and the line.
    """
    root = list_file.parent if root is None else Path(root)
    if not root.is_dir():
        raise GoogLeNetError(f"{root}: the image root of {list_file} is not a folder")
    files: list[str] = []
    labels: list[int] = []
    numbers: list[int] = []
    for number, line in enumerate(_read_lines(list_file), start=1):
        if not (line := line.strip()):
            continue
        file, label = _divided(line, delimiter)
        # isdecimal() alone would let other scripts' digits and numbers past int64 through.
        if not file or not (label.isascii() and label.isdecimal() and len(label) < 19):
            hint = _delimiter_hint(line, delimiter)
            raise GoogLeNetError(
                f"{list_file}, line {number}: expected 'relative/path{delimiter}label' with a "
                f"label of 0 or more, but found {line[:80]!r}{hint}"
            )
        files.append(_normalized(file, root))
        labels.append(int(label))
        numbers.append(number)
    if not files:
        raise GoogLeNetError(f"{list_file}: holds no image")
    _replace_backslashes(list_file, root, files, numbers)
    _check_files(list_file, root, files, numbers)
    _check_repeats(list_file, files, labels, numbers)
    return ImageList(list_file, root, files, np.array(labels, dtype=np.int64))


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read lines of "name", or of "index name" (PaddleClas' class_id_map_file).

    Raises:
        GoogLeNetError: a file that cannot be read or holds no name.
    """
    lines = [line.strip() for line in _read_lines(path) if line.strip()]
    if not all(map(_is_utf8, lines)):
        number = next(i for i, line in enumerate(_read_lines(path)) if not _is_utf8(line)) + 1
        raise GoogLeNetError(f"{path}, line {number}: is not in UTF-8; save the file as such")
    if not lines:
        raise GoogLeNetError(f"{path}: holds no class name")
    if all(line.split()[0] == str(i) and len(line.split()) > 1 for i, line in enumerate(lines)):
        lines = [line.split(maxsplit=1)[1] for line in lines]
    return tuple(lines)


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a text file in UTF-8, or in UTF-16 with a byte order mark.

    Bytes that are not UTF-8 stay as they are: names of files may have them.
    """
    try:
        with waiting_for(lambda: [str(path)]):
            content = path.read_bytes()
    except OSError as error:
        raise GoogLeNetError(f"{path}: cannot be read ({error.strerror})") from None
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig", errors="surrogateescape")
    except UnicodeDecodeError:
        text = "\0"
    # UTF-16 without a mark is full of null characters.
    if "\0" in text and (not _is_utf8(text) or text.count("\0") * 8 > len(text)):
        raise GoogLeNetError(f"{path}: is not a text file in UTF-8; save it as one")
    return re.split(r"\r\n?|\n", text)


def _is_utf8(text: str) -> bool:
    """Return False for text with bytes that were not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _divided(line: str, delimiter: str) -> tuple[str, str]:
    """Return the path and the label of a line; the path is empty if there is no delimiter."""
    if delimiter != " ":
        file, _, label = line.rpartition(delimiter)
        return file.strip(), label.strip()
    words = line.rsplit(maxsplit=1)
    return (words[0], words[1]) if len(words) == 2 else ("", line)


def _delimiter_hint(line: str, delimiter: str) -> str:
    """Return a hint at the delimiter that the line has, if it has another one."""
    found = re.fullmatch(r".*\S\s*([,;:|\t ])\s*[0-9]+", line)
    return f"; set the delimiter to {found[1]!r}" if found and found[1] != delimiter else ""


def _replace_backslashes(list_file: Path, root: Path, files: list[str], numbers: list[int]) -> None:
    """Replace the backslashes of a list from Windows, unless a file has one in its name."""
    first = next((i for i, file in enumerate(files) if "\\" in file), None)
    if first is None or (root / files[first]).is_file():
        return
    for i in range(first, len(files)):
        if re.match(r"[A-Za-z]:\\|\\\\", files[i]):
            raise GoogLeNetError(
                f"{list_file}, line {numbers[i]}: {files[i]}: is a path of another computer; "
                f"write it relative to {root}"
            )
        files[i] = _normalized(files[i].replace("\\", "/"), root)


def _normalized(file: str, root: Path) -> str:
    """Return the path relative to the root in its simplest form; outside the root, unchanged."""
    if not file.startswith(("/", "./")) and "//" not in file and "/./" not in file:
        return file
    if file.startswith("/"):
        top = os.path.abspath(root).rstrip("/") + "/"  # noqa: PTH100 (a million times)
        if not file.startswith(top):
            return file
        file = file[len(top) :]
    return "/".join(part for part in file.split("/") if part not in ("", "."))


def _check_files(list_file: Path, root: Path, files: list[str], numbers: list[int]) -> None:
    """Check that the files exist below root; list each folder once instead of a million stats."""
    missing: list[int] = []
    folders: dict[str, list[int]] = {}
    for i, file in enumerate(files):
        folders.setdefault(file.rpartition("/")[0], []).append(i)
    for folder, indices in folders.items():
        above = ".." in folder.split("/")
        if outside := [i for i in indices if above or files[i].startswith("/")]:
            line = f"{list_file}, line {numbers[outside[0]]}"
            raise GoogLeNetError(
                f"{line}: {files[outside[0]]}: must be a path below the root {root}, without '..'"
            )
        present = _files_in(root / folder)
        missing += [i for i in indices if files[i].rpartition("/")[2] not in present]
    if missing:
        first, others = min(missing), len(missing) - 1
        more = f" (nor those of {others} other lines)" if others else ""
        line = f"{list_file}, line {numbers[first]}"
        path = root / files[first]
        if "\0" not in files[first] and path.exists():
            raise GoogLeNetError(f"{line}: {path}: is not a regular file; remove the line")
        if not _is_utf8(files[first]):
            raise GoogLeNetError(
                f"{line}: {files[first]!r}: there is no such file; the list is not in UTF-8: "
                "save it as such"
            )
        raise GoogLeNetError(
            f"{line}: there is no file {path}{more}; "
            "remove the line or set the root that the paths start from"
        )


def _files_in(folder: Path) -> set[str]:
    """Return the names of regular files in a folder, also of those that links lead to."""
    try:
        with waiting_for(lambda: [str(folder)]), os.scandir(folder) as entries:
            return {entry.name for entry in entries if _is_file(entry)}
    except (OSError, ValueError):  # a null character in the path
        return set()


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _check_repeats(
    list_file: Path, files: list[str], labels: list[int], numbers: list[int]
) -> None:
    """Refuse an image with two labels; warn about repeated lines."""
    if len(set(files)) == len(files):
        return
    first: dict[str, int] = {}
    for i, file in enumerate(files):
        if labels[earlier := first.setdefault(file, i)] != labels[i]:
            raise GoogLeNetError(
                f"{list_file}, line {numbers[i]}: {file} has label {labels[i]}, but label "
                f"{labels[earlier]} in line {numbers[earlier]}; remove one"
            )
    _log.warning(
        "%s: %d lines repeat an earlier one; such images count once per line",
        list_file, len(files) - len(first),
    )  # fmt: skip


def place_in(source: Path, file: str) -> str:
    """Return "list, line N: file" for an image of a list, otherwise "source: file"."""
    if source.is_file() and source.suffix != ".tar":
        for number, line in enumerate(_read_lines(source), start=1):
            if re.fullmatch(
                r"(.*/)?" + re.escape(file) + r"\D+\d+", line.strip().replace("\\", "/")
            ):
                return f"{source}, line {number}: {file}"
    return f"{source}: {file}"
