"""Index a tar file of WebDataset samples; the index is cached.

A sample is a run of members with the same name up to the first dot after the last slash; the rest
of the name is the type of the member (https://github.com/webdataset/webdataset). A sample must have
one image and one .cls member, the label in digits; other members are skipped. The index holds what
DALI's wds2idx writes, plus the labels, so each image can be read on its own.
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
    """Images of one tar file, in its order."""

    names: list[str] = field(default_factory=list)
    """Names of the image members."""
    offsets: list[int] = field(default_factory=list)
    """Offset of each image in bytes."""
    sizes: list[int] = field(default_factory=list)
    """Size of each image in bytes."""
    labels: list[int] = field(default_factory=list)
    """Labels, >= 0."""


def index_shard(path: Path) -> ShardIndex:
    """Return the index of a tar file, from the cache if size and modification time are the same.

    Raises:
        UserError: names a file that cannot be read, is not a complete uncompressed tar, or has a
            sample without an image or a label.
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
        _log.warning("%s: ignored, the shard is indexed again (%s)", cache, error)
        return None
    return index if entry["stamp"] == stamp else None


@dataclass
class _Sample:
    """Members of one sample."""

    key: str
    image: tarfile.TarInfo | None = None
    label: tarfile.TarInfo | None = None


def _scan(path: Path, file: BinaryIO) -> ShardIndex:
    index = ShardIndex()
    for sample in _samples(path, file):
        if sample.image is None and sample.label is None:
            continue
        if sample.image is None or sample.label is None:
            missing = "image" if sample.image is None else "label (.cls)"
            raise UserError(f"{path}: sample {sample.key!r} has no {missing}; correct or remove it")
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
    """Yield the regular members; the archive must end with its end-of-archive block."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined] # else it keeps all members
                if member.isreg() and member.sparse is None:
                    yield member
            end = archive.offset
            file.seek(end)
            mark = file.read(tarfile.BLOCKSIZE)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: is not a complete uncompressed tar file ({error})") from None
    # tarfile stops without an error at a header that it does not understand.
    if mark != bytes(tarfile.BLOCKSIZE):
        raise UserError(f"{path}: is damaged or cut short at byte {end}; write it again")


def _label(path: Path, file: BinaryIO, member: tarfile.TarInfo) -> int:
    file.seek(member.offset_data)  # tarfile seeks before each read
    text = file.read(min(member.size, 32)).strip()
    if not text.isdigit() or len(text) >= 19:
        raise UserError(
            f"{path}: {member.name}: {text[:20]!r} is not a label, a whole number of 0 or more"
        )
    return int(text)
