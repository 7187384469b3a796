"""Index a tar file of WebDataset samples; the index is cached.

A sample is the members with the same name up to the first dot after the last slash; the rest of the
name is the type of the member (https://github.com/webdataset/webdataset). A sample must have one
image and one label: a .cls member, otherwise a whole number under `label` or `cls` in a .json
member, otherwise a .txt member that is a number. Other members are skipped. The index holds what
DALI's wds2idx writes, plus the labels, so each image can be read on its own.
"""

import hashlib
import json
import logging
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from googlenet_fast.data.folders import EXTENSIONS
from googlenet_fast.data.waiting import waiting_for
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.files import cache_dir, read_checked_json, write_checked_json

JSON_KEYS = ("label", "cls")
"""Keys of the label in a .json member, the best first."""
LONGEST_JSON = 2**20
"""Bytes of the longest .json member that is looked into for a label."""

_COMPRESSED = (
    (rb"\x1f\x8b\x08", "gzip"), (rb"BZh[0-9]1AY&SY", "bzip2"), (rb"\xfd7zXZ\0", "xz"),
    (rb"\x28\xb5\x2f\xfd", "zstd"), (rb"\x04\x22\x4d\x18", "lz4"),
)  # fmt: skip
"""First bytes, and the program that decompresses."""
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
    """Return the index of a tar file, from the cache if the file is the same.

    Raises:
        GoogLeNetError: names a file that cannot be read, is not a complete uncompressed tar, or has
            a sample without an image or a label.
    """
    try:
        stamp = shard_stamp(path)
        digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        cache = cache_dir() / "shards" / f"{digest}.json"
        if index := _load(cache, stamp):
            return index
        with waiting_for(lambda: [str(path)]), path.open("rb") as file:
            index = _scan(path, file)
    except OSError as error:
        raise GoogLeNetError(f"{path}: cannot be read ({error.strerror or error})") from None
    write_checked_json(cache, {"stamp": stamp, "index": asdict(index)})
    return index


def shard_stamp(path: Path) -> list[int]:
    """Return what changes with a file's content: size, inode, times of modification and change.

    Copying and unpacking tools restore the time of modification, but none can set the time of
    change. May raise OSError, also for a pipe, whose opening might never end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _load(cache: Path, stamp: list[int]) -> ShardIndex | None:
    try:
        entry = read_checked_json(cache)
        index = ShardIndex(**entry["index"])
        return index if entry["stamp"] == stamp else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("%s: ignored, the shard is indexed again (%s)", cache, error)
        return None


class _Member(NamedTuple):
    """A file in a tar file; smaller than tarfile's own record, because there may be a million."""

    name: str
    offset: int
    size: int


@dataclass(slots=True)
class _Sample:
    """Members of one sample. Those of types with more dots, like input.jpg, are spare ones."""

    key: str
    image: _Member | None = None
    cls: _Member | None = None
    json: _Member | None = None
    txt: _Member | None = None
    spare_image: _Member | None = None
    spare_cls: _Member | None = None

    def labels(self) -> list[_Member]:
        """Return the members that may hold the label, the best first."""
        candidates = (self.cls, self.json, self.txt, self.spare_cls)
        return [member for member in candidates if member is not None]

    def is_complete(self) -> bool:
        """Return True if the sample can do without another member."""
        return bool((self.image or self.spare_image) and self.labels())


def _scan(path: Path, file: BinaryIO) -> ShardIndex:
    index = ShardIndex()
    for sample in _samples(path, file):
        image, labels = sample.image or sample.spare_image, sample.labels()
        if image is None and sample.cls is None:
            continue
        if image is None or not labels:
            missing = "image" if image is None else "label (.cls, .json or .txt)"
            raise GoogLeNetError(
                f"{path}: sample {sample.key!r} has no {missing}; correct or remove it"
            )
        index.names.append(image.name)
        index.offsets.append(image.offset)
        index.sizes.append(image.size)
        index.labels.append(_label(path, file, labels))
    if not index.names:
        raise GoogLeNetError(f"{path}: holds no sample of an image and a label")
    return index


def _samples(path: Path, file: BinaryIO) -> list[_Sample]:
    """Return the samples in the order of their first members, which need not be neighbours."""
    samples: list[_Sample] = []
    newest: dict[str, _Sample] = {}
    last = ""
    for member in _files(path, file):
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        kind = _kind(extension.lower())
        if not stem or kind is None:  # hidden, or of another type
            continue
        key = f"{folder}/{stem}" if folder else stem
        sample = newest.get(key)
        if sample is not None and getattr(sample, kind) is not None:
            if key == last or not sample.is_complete():
                raise _second(path, key, kind, name)
            sample = None  # a whole sample that comes again is another one
        if sample is None:
            newest[key] = sample = _Sample(key)
            samples.append(sample)
        setattr(sample, kind, _Member(member.name, member.offset_data, member.size))
        last = key
    return samples


def _kind(extension: str) -> str | None:
    """Return which field of a sample a member of a type is for."""
    if extension in ("cls", "json", "txt"):
        return extension
    if f".{extension}" in EXTENSIONS:
        return "image"
    if extension.endswith(EXTENSIONS):
        return "spare_image"
    return "spare_cls" if extension.endswith(".cls") else None


def _second(path: Path, key: str, kind: str, name: str) -> GoogLeNetError:
    what = "image" if kind.endswith("image") else "label"
    advice = "; remove one"
    if kind.startswith("spare"):
        advice = ": a sample's name ends at its first dot, so use names without dots"
    return GoogLeNetError(f"{path}: sample {key!r} has a second {what}, {name}{advice}")


def _files(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the regular members; the archive must end with its end-of-archive block."""
    start = file.read(10)
    file.seek(0)
    for pattern, program in _COMPRESSED:
        if re.match(pattern, start):
            raise GoogLeNetError(f"{path}: is compressed; unpack it with {program} -d")
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
        raise GoogLeNetError(f"{path}: is not a complete uncompressed tar file ({error})") from None
    # tarfile stops without an error at a header that it does not understand.
    if mark != bytes(tarfile.BLOCKSIZE):
        raise GoogLeNetError(f"{path}: is damaged or cut short at byte {end}; write it again")


def _label(path: Path, file: BinaryIO, members: list[_Member]) -> int:
    """Return the label in the first member that has one.

    Raises:
        GoogLeNetError: names the first member and what is in it.
    """
    for member in members:
        is_json = member.name.lower().endswith(".json")
        file.seek(member.offset)
        text = file.read(min(member.size, LONGEST_JSON if is_json else 32)).strip()
        label = _from_json(text) if is_json else text
        if label.isdigit() and len(label) < 19:
            return int(label)
        if member.name.lower().endswith(".cls"):
            raise GoogLeNetError(
                f"{path}: {member.name}: {text[:20]!r} is not a label, a whole number of 0 or more"
            )
    raise GoogLeNetError(
        f"{path}: {members[0].name}: holds no label; a sample needs a .cls member with a whole "
        f"number of 0 or more, or a .json member with one under {' or '.join(JSON_KEYS)}"
    )


def _from_json(text: bytes) -> bytes:
    """Return the label of a JSON object in digits; empty if there is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return b""
    found = (
        next((value[key] for key in JSON_KEYS if key in value), None)
        if isinstance(value, dict)
        else None
    )
    is_number = isinstance(found, int) and not isinstance(found, bool)
    return str(found).encode() if is_number else b""
