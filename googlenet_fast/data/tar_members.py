"""Locate encoded images: files, or members of tar files."""

import errno
import os
import stat
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.data.waiting import waiting_for
from googlenet_fast.errors import GoogLeNetError


class Location(NamedTuple):
    """Where the bytes of an encoded image are: a whole file, or a part of one."""

    name: str
    """Name of the image in messages."""
    file: str
    offset: int = 0
    size: int | None = None
    """Size in bytes; None means to the end of the file."""

    def read(self) -> bytes:
        """Read the encoded image; raise OSError, also for a pipe or device, which may never end."""
        # O_NONBLOCK: opening a pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with waiting_for(lambda: [self.file]), open(os.open(self.file, flags), "rb") as file:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", self.file)
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, eq=False)
class TarMembers:
    """Offsets and sizes of images in tar files."""

    shards: tuple[Path, ...]
    """The tar files."""
    shard: NDArray[np.int32]
    """Index into `shards` for each image, (N,)."""
    offsets: NDArray[np.int64]
    """First byte of each image in its shard, (N,)."""
    sizes: NDArray[np.int64]
    """Bytes of each image, (N,)."""

    def take(self, indices: NDArray[np.int64]) -> "TarMembers":
        """Return the members at `indices`."""
        return TarMembers(
            self.shards, self.shard[indices], self.offsets[indices], self.sizes[indices]
        )

    def joined(self, other: "TarMembers") -> "TarMembers":
        """Return the members of both."""
        return TarMembers(
            self.shards + other.shards,
            np.concatenate([self.shard, other.shard + len(self.shards)]).astype(np.int32),
            np.concatenate([self.offsets, other.offsets]),
            np.concatenate([self.sizes, other.sizes]),
        )

    def location(self, index: int, name: str) -> Location:
        """Return where to read an image."""
        shard = self.shards[self.shard[index]]
        return Location(name, str(shard), int(self.offsets[index]), int(self.sizes[index]))

    def view(self, index: int) -> NDArray[np.uint8]:
        """Return the encoded image as a slice of its memory-mapped shard; nothing is read yet."""
        start = self.offsets[index]
        return self._maps[self.shard[index]][start : start + self.sizes[index]]

    @cached_property
    def _maps(self) -> list[NDArray[np.uint8]]:
        maps = []
        for shard in self.shards:
            try:
                maps.append(_mapped(shard, shard.stat().st_ctime_ns))
            except OSError as error:
                hint = "; raise the limit with ulimit -n" if error.errno == errno.EMFILE else ""
                raise GoogLeNetError(f"{shard}: cannot be read ({error.strerror}){hint}") from None
        return maps


@cache
def _mapped(shard: Path, changed: int) -> NDArray[np.uint8]:
    """Map a file that was last changed at `changed` into memory; may raise OSError.

    It stays mapped, because two splits may share a shard, and DALI's threads may still read it
    after the dataset is deleted.
    """
    return np.memmap(shard, np.uint8, mode="r").view(np.ndarray)
