"""Datasets in WebDataset shards: tar files named by a pattern like train-{000..127}.tar."""

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from googlenet_fast.data.lists import ImageList, read_image_list
from googlenet_fast.data.shard_index import index_shard
from googlenet_fast.data.split_folders import split_folders
from googlenet_fast.data.tar_members import TarMembers
from googlenet_fast.errors import GoogLeNetError

MOST_SHARDS = 100_000
"""A pattern that names more shards is taken for a mistake."""

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
"""Suffixes of tar files that are refused: no image in them can be read alone."""


def is_shards(path: Path | str) -> bool:
    """Return True if a path is a tar file or a pattern of tar files, also of compressed ones."""
    return str(path).lower().endswith((".tar", *COMPRESSED)) and not Path(path).is_dir()


def shards_in(folder: Path) -> list[Path]:
    """Return the tar files in a folder, sorted, also compressed ones; not below it."""
    return sorted(file for file in folder.iterdir() if is_shards(file) and file.name[0] != ".")


def read_images(
    source: Path | str, root: Path | str | None = None, delimiter: str = " "
) -> ImageList:
    """Read the images of shards, or of a list file with `root` and `delimiter`.

    Raises:
        GoogLeNetError: names the file and what is wrong in it.
    """
    if is_shards(source):
        return read_shards(Path(source), find_shards(source))
    return read_image_list(Path(source), root, delimiter)


def find_shards(pattern: Path | str) -> list[Path]:
    """Return the files of a pattern in its order: {000..127}, {0..9..3}, {a,b}, then *, ? and [].

    Patterns can be joined by `::`.

    Raises:
        GoogLeNetError: a file or a range that does not exist, or a file that is not on a disk.
    """
    if Path(pattern).is_file():
        return [Path(pattern)]
    if re.match(r"(pipe|[a-z][a-z0-9+.-]*:/)[:/]", str(pattern)):
        raise GoogLeNetError(f"{pattern}: only files are read; copy the shards to a disk")
    found: list[Path] = []
    for name in itertools.chain(*map(_expand, str(pattern).split("::"))):
        if re.search(r"[*?[]", name):
            anchor = Path(Path(name).anchor)
            found += sorted(anchor.glob(str(Path(name).relative_to(anchor))))
        elif Path(name).is_file():
            found.append(Path(name))
        else:
            raise GoogLeNetError(f"{name}: no such shard (of {pattern})")
    if not found:
        raise GoogLeNetError(f"{pattern}: no shard has such a name")
    return found


def holds_shards(folder: Path) -> bool:
    """Return True if a dataset folder, or its folder train, holds tar files and no other data.

    Tar files beside a list or class folders are ignored: those were probably unpacked from them.
    """
    if (folder / "train_list.txt").is_file() or not folder.is_dir():
        return False
    if train := split_folders(folder).get("train"):
        folder = train
    elif (folder / "val_list.txt").is_file():
        return False
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return any(is_shards(e) for e in entries) and not any(e.is_dir() for e in entries)


def shards_of_split(folder: Path, split: str) -> list[Path]:
    """Return the shards in folder/split, else the folder's with the word `split` in their name."""
    word = re.compile(rf"(?<![a-z]){split}", re.IGNORECASE)
    within = split_folders(folder).get(split)
    return (shards_in(within) if within else []) or [
        shard for shard in shards_in(folder) if word.search(shard.name)
    ]


def read_shards(source: Path, shards: Sequence[Path]) -> ImageList:
    """Read the images of tar files in order; `source` is the name of the whole set.

    Raises:
        GoogLeNetError: names the shard and what is wrong in it.
    """
    # disable=None: a bar on a terminal only
    progress = tqdm(shards, "indexing", unit="shard", leave=False, delay=1, disable=None)
    indices = [index_shard(shard) for shard in progress]
    root = Path(os.path.commonpath([shard.parent for shard in shards]))
    prefixes = [shard.relative_to(root).as_posix() for shard in shards]
    tar_members = TarMembers(
        tuple(shards),
        np.repeat(np.arange(len(shards), dtype=np.int32), [len(i.names) for i in indices]),
        np.concatenate([np.array(i.offsets, np.int64) for i in indices]),
        np.concatenate([np.array(i.sizes, np.int64) for i in indices]),
    )
    files = [f"{p}/{name}" for p, i in zip(prefixes, indices, strict=True) for name in i.names]
    labels = np.concatenate([np.array(i.labels, np.int64) for i in indices])
    return ImageList(source, root, files, labels, tar_members)


def _expand(pattern: str) -> list[str]:
    """Expand the braces of a pattern like a shell; braces are not nested."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(part, pattern) if i % 2 else [part] for i, part in enumerate(parts)]
    if np.prod([len(choice) for choice in choices], dtype=float) > MOST_SHARDS:
        raise GoogLeNetError(f"{pattern}: names more than {MOST_SHARDS} shards")
    return ["".join(choice) for choice in itertools.product(*choices)]


def _choices(text: str, pattern: str) -> list[str]:
    """Return the choices that {text} stands for."""
    if match := re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})(?:\.\.([0-9]{1,9}))?", text):
        first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
        if not first <= last < first + MOST_SHARDS or step == 0:
            raise GoogLeNetError(f"{pattern}: {{{text}}} is not a range of shard numbers")
        width = max(len(match[1]), len(match[2])) if text.startswith("0") else 0
        return [str(number).zfill(width) for number in range(first, last + 1, step)]
    if "," not in text:
        raise GoogLeNetError(
            f"{pattern}: {{{text}}} is neither a range {{0..9}} nor a choice {{a,b}}"
        )
    return text.split(",")
