"""What lies where in a tar file of WebDataset samples, found out once and remembered.

A sample is a run of members with the same name up to the first dot after the last slash; the rest
of the name says what the member is (https://github.com/webdataset/webdataset). Here a sample has
one image and one .cls, the label in digits; other members are passed over. The table of offsets is
what DALI's wds2idx makes, with the labels, so that every image can be read on its own.
"""

import hashlib
import json
import logging
import os
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from googlenet_fast.data.folders import EXTENSIONS
from googlenet_fast.errors import UserError
from googlenet_fast.files import cache_dir, write_json

_log = logging.getLogger("googlenet_fast")


@dataclass
class ShardIndex:
    """The images of one tar file, in its order."""

    names: list[str] = field(default_factory=list)
    """Members that hold the images."""
    offsets: list[int] = field(default_factory=list)
    """First byte of each image."""
    sizes: list[int] = field(default_factory=list)
    """Bytes of each image."""
    labels: list[int] = field(default_factory=list)
    """Labels, >= 0."""


def index_shard(path: Path) -> ShardIndex:
    """The index of a tar file: the cached one for as long as size and time of the file stay.

    Raises:
        UserError: a file that cannot be read, is no whole uncompressed tar, or has a sample
            without an image or a label; names the member.
    """
    try:
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        cache = cache_dir() / "shards" / f"{digest}.json"
        if index := _load(cache, stamp):
            return index
        with path.open("rb") as file:
            index = _scan(path, file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    write_json(cache, {"stamp": stamp, "index": asdict(index)})
    return index


def _load(cache: Path, stamp: list[int]) -> ShardIndex | None:
    try:
        entry = json.loads(cache.read_text(encoding="utf-8"))
        index = ShardIndex(**entry["index"])
        if len({len(column) for column in vars(index).values()}) != 1:
            raise ValueError("incomplete")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("%s: ignored, the shard is indexed anew (%s)", cache, error)
        return None
    return index if entry["stamp"] == stamp else None


@dataclass
class _Sample:
    """The members of one name."""

    key: str
    image: tarfile.TarInfo | None = None
    label: tarfile.TarInfo | None = None


def _scan(path: Path, file: BinaryIO) -> ShardIndex:
    index = ShardIndex()
    for sample in _samples(path, file):
        if sample.image is None and sample.label is None:
            continue
        if sample.image is None or sample.label is None:
            lacking = "image" if sample.image is None else "label (.cls)"
            raise UserError(f"{path}: sample {sample.key!r} has no {lacking}; correct or remove it")
        index.names.append(sample.image.name)
        index.offsets.append(sample.image.offset_data)
        index.sizes.append(sample.image.size)
        index.labels.append(_label(path, file, sample.label))
    if not index.names:
        raise UserError(f"{path}: holds no sample of an image and a .cls member")
    return index


def _samples(path: Path, file: BinaryIO) -> Iterator[_Sample]:
    sample: _Sample | None = None
    for member in _files(path, file):
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        if not stem:  # hidden
            continue
        key = f"{folder}/{stem}" if folder else stem
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        kind = "label" if extension.lower() == "cls" else "image"
        if kind == "image" and f".{extension.lower()}" not in EXTENSIONS:
            continue
        if getattr(sample, kind) is not None:
            raise UserError(f"{path}: sample {key!r} has a second {kind}, {name}; remove one")
        setattr(sample, kind, member)
    if sample is not None:
        yield sample


def _files(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The regular members; the end of the file must be that of the archive."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined] # or it keeps them all
                if member.isreg() and member.sparse is None:
                    yield member
            end = archive.offset
            file.seek(end)
            mark = file.read(tarfile.BLOCKSIZE)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: is no whole uncompressed tar file ({error})") from None
    # tarfile takes any header that it does not understand for the end.
    if mark != bytes(tarfile.BLOCKSIZE):
        raise UserError(f"{path}: is damaged or cut short at byte {end}; make it anew")


def _label(path: Path, file: BinaryIO, member: tarfile.TarInfo) -> int:
    file.seek(member.offset_data)  # tarfile finds its place again by itself
    text = file.read(min(member.size, 32)).strip()
    if not text.isdigit() or len(text) >= 19:
        raise UserError(
            f"{path}: {member.name}: {text[:20]!r} is not a label, a whole number of 0 or more"
        )
    return int(text)
