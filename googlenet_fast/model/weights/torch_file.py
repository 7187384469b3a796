"""Read what `torch.save` wrote: plain values, and tensors that are read when they are needed.

torch.load builds what a file declares: shapes with a million axes, petabytes of storage. Here each
part is checked against the file's size and, in zip archives, its CRC.
"""

import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from googlenet_fast.model.weights.unpickler import Foreign, RefusedError, Unpickler, call
from googlenet_fast.model.weights.weight_file import MOST_AXES

_LARGEST_DIRECTORY = 1 << 22
"""Bytes of a zip archive's directory: some 50,000 tensors."""

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class _Storage:
    """What a file declares of a storage."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class SavedTensor:
    """What a file declares of a tensor; nothing is checked yet."""

    storage: _Storage
    offset: Any
    size: Any
    stride: Any


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
    if isinstance(storage, _Storage):
        return SavedTensor(storage, offset, size, stride)
    return Foreign("torch.Tensor of another kind")


def _rebuild_from_type(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """Return a tensor that has attributes, without them."""
    return call(function, arguments)


_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): lambda *_: {},
    ("collections", "defaultdict"): lambda *_: {},
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}


def _storage(identifier: Any) -> Any:
    """Return the storage of a persistent id: ("storage", type, key, device, numel)."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
        raise ValueError("not the id of a storage")
    _, dtype, key, _, numel = identifier[:5]
    if not isinstance(dtype, torch.dtype):
        return Foreign("torch.Storage of another kind")
    if not isinstance(key, str) or type(numel) is not int:
        raise ValueError("not the id of a storage")
    return _Storage(key, dtype, numel)


class SavedFile:
    """The object in a file, with `SavedTensor` for each of its tensors.

    Args:
        content: the file.

    Raises:
        Exception: of any class, for a damaged file; `RefusedError` for what torch.save never makes.
    """

    def __init__(self, content: bytes) -> None:
        self._bytes_of: Callable[[str], bytes | memoryview]
        if zipfile.is_zipfile(io.BytesIO(content)):
            archive = _Archive(content)
            self.saved = Unpickler(io.BytesIO(archive.read("data.pkl")), _GLOBALS, _storage).load()
            self._bytes_of = lambda key: archive.read(f"data/{key}")
        else:
            self.saved, parts = _read_before_archives(content)
            self._bytes_of = parts.__getitem__
        self._storages: dict[str, Tensor] = {}

    def tensor(self, saved: SavedTensor) -> Tensor:
        """Read a tensor; ones of the same storage share memory.

        Raises:
            ValueError: the storage holds less than the tensor declares.
        """
        size, stride, offset = saved.size, saved.stride, saved.offset
        if not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise ValueError("has no shape")
        if len(size) != len(stride) or len(size) > MOST_AXES:
            raise ValueError(f"declares {len(size)} axes")
        numbers = (*size, *stride, offset)
        if any(type(value) is not int or not 0 <= value < 2**62 for value in numbers):
            raise ValueError("has no shape")
        storage = self._storage(saved.storage)
        last = sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        if math.prod(size) > storage.numel() or (math.prod(size) and offset + last >= len(storage)):
            raise ValueError(f"declares shape {size} but holds less")
        return storage.as_strided(size, stride, offset)

    def _storage(self, storage: _Storage) -> Tensor:
        if storage.key not in self._storages:
            values = bytearray(self._bytes_of(storage.key))
            if len(values) != storage.numel * storage.dtype.itemsize:
                raise ValueError(f"declares {storage.numel} values but holds {len(values)} bytes")
            empty = torch.empty(0, dtype=storage.dtype)
            self._storages[storage.key] = (
                torch.frombuffer(values, dtype=storage.dtype) if values else empty
            )
        found = self._storages[storage.key]
        if found.dtype != storage.dtype:
            raise ValueError("one storage with two types")
        return found


class _Archive:
    """The zip archive that torch.save writes: NAME/data.pkl, NAME/data/0 and so on, stored."""

    def __init__(self, content: bytes) -> None:
        file = io.BytesIO(content)
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        if end[zipfile._ECD_SIZE] > _LARGEST_DIRECTORY:  # type: ignore[attr-defined]
            raise RefusedError("it has more parts than any network")
        self._zip = zipfile.ZipFile(file)
        names = self._zip.namelist()
        self._folder = names[0].partition("/")[0] if names else ""
        if f"{self._folder}/constants.pkl" in names:
            raise RefusedError("it is a TorchScript archive; save the state_dict() of its network")
        self._left = len(content)
        if self._has("byteorder") and self.read("byteorder") != b"little":
            raise RefusedError("its numbers are big-endian")

    def _has(self, name: str) -> bool:
        return f"{self._folder}/{name}" in self._zip.NameToInfo

    def read(self, name: str) -> bytes:
        """Return a part, whose CRC is checked; all parts together are no more than the file."""
        info = self._zip.getinfo(f"{self._folder}/{name}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise RefusedError("its parts are compressed, as torch.save never does")
        self._left -= info.file_size
        if self._left < 0:
            raise RefusedError("its parts overlap")
        return self._zip.read(info)


def _read_before_archives(content: bytes) -> tuple[Any, dict[str, memoryview]]:
    """Read the older format: five pickles, then the length and values of each storage.

    Returns:
        The object, and the bytes of each storage by key.
    """
    file = io.BytesIO(content)
    declared: dict[str, _Storage] = {}

    def storage(identifier: Any) -> Any:
        found = _storage(identifier)
        if isinstance(found, _Storage):
            declared[found.key] = found
        return found

    _magic, _version, _system, saved, keys = (
        Unpickler(file, _GLOBALS, storage).load() for _ in range(5)
    )
    parts: dict[str, memoryview] = {}
    at = file.tell()
    for key in keys:
        if not isinstance(key, str):
            raise ValueError("not the key of a storage")
        start = at + 8
        numel = int.from_bytes(content[at:start], "little")
        at = start + numel * declared[key].dtype.itemsize
        if at > len(content):
            raise ValueError("ends early")
        parts[key] = memoryview(content)[start:at]
    return saved, parts
