"""Finding the images of a dataset that cannot be read, before a run that is to skip them.

A loader that dropped images as it meets them would have other batches in each process and in each
resumed run. So all are read once before the first step, and what could be read is remembered.
"""

import hashlib
import io
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.loader import Loader
from googlenet_fast.data.members import Location
from googlenet_fast.data.reading import PILLOW, DecodeError, decode
from googlenet_fast.data.worker_processes import deaf_to_interrupts
from googlenet_fast.errors import UserError
from googlenet_fast.files import cache_dir, write_cache

CHUNK = 32
"""Images that a process is given at a time."""

R = TypeVar("R")
Reasons = dict[int, str]
"""Why images cannot be read, by their index."""

_log = logging.getLogger("googlenet_fast")


def find_bad_images(
    dataset: ImageDataset,
    indices: NDArray[np.int64],
    make_loader: Callable[[ImageDataset], Loader],
    *,
    max_pixels: int,
    num_workers: int,
    advance: Callable[[int], object],
) -> Reasons:
    """The images among `indices` that Pillow or the loader's own decoder cannot read.

    Both are asked: DALI fills what is missing of some damaged JPEGs with grey and says nothing.

    Args:
        dataset: The images.
        indices: Those to read.
        make_loader: Makes an evaluation loader.
        max_pixels: Of an image that is decoded.
        num_workers: Processes that decode with Pillow; 0 or 1 does it in this one.
        advance: Is told of progress, which adds up to twice the images.
    """
    bad: Reasons = {}
    locations = [dataset.location(i) for i in indices]
    reasons = parallel_map(partial(why_bad, max_pixels=max_pixels), locations, num_workers)
    for index, reason in zip(indices.tolist(), reasons, strict=True):
        advance(1)
        if reason is not None:
            bad[index] = reason
    left = indices[~np.isin(indices, list(bad))]
    advance(len(bad))
    while len(left) and (loader := make_loader(dataset.subset(left))).decoder != PILLOW:
        done = 0
        try:
            for _, labels in loader:
                done += len(labels)
                advance(len(labels))
            break
        except DecodeError as error:
            left = left[done:]
            at = next(i for i, index in enumerate(left) if dataset.path(index) == error.path)
            bad[int(left[at])] = error.reason
            left = np.delete(left, at)
            advance(1)
    return dict(sorted(bad.items()))


def why_bad(image: Location, max_pixels: int) -> str | None:
    """Why Pillow cannot read an image; None: it can."""
    try:
        decode(image, max_pixels)
    except DecodeError as error:
        return error.reason
    return None


def parallel_map(
    function: Callable[[Location], R], images: Sequence[Location], processes: int
) -> Iterator[R]:
    """The function's values in order, from several processes where there are many images.

    Raises:
        UserError: a process was ended from outside, as for want of memory.
    """
    processes = min(processes, len(images) // CHUNK)
    if processes < 2:
        yield from map(function, images)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    try:
        with deaf_to_interrupts():
            results = pool.map(function, images, chunksize=CHUNK)
        yield from results
    except BrokenProcessPool:
        raise UserError(
            f"one of {processes} processes that read images was ended (by lack of memory?); "
            "choose fewer workers, or a smaller max_pixels"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class ReadableImages:
    """The images that a decoder has read whole, as long as their files have not changed since.

    They are kept in the cache as 64-bit digests of path, place, size and time of change.
    """

    def __init__(self, decoder: str, max_pixels: int) -> None:
        name = hashlib.sha256(f"{PILLOW}, {decoder}, {max_pixels}".encode()).hexdigest()[:16]
        self._file = cache_dir() / "readable" / f"{name}.npy"
        self._known = self._load()

    def among(self, signatures: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of the signatures are known, (len(signatures),)."""
        return np.isin(signatures, self._known)

    def add(self, signatures: NDArray[np.uint64]) -> None:
        """Remember more; a failed write is logged and ignored."""
        content = io.BytesIO()
        np.save(content, np.union1d(self._known, signatures))
        write_cache(self._file, content.getbuffer())

    def _load(self) -> NDArray[np.uint64]:
        empty = np.empty(0, np.uint64)
        try:
            known = np.load(self._file, allow_pickle=False)
        except FileNotFoundError:
            return empty
        except (OSError, ValueError, EOFError) as error:
            _log.warning("%s: ignored, the images are read anew (%s)", self._file, error)
            return empty
        return known if known.dtype == np.uint64 else empty


def signatures(images: Iterable[Location]) -> NDArray[np.uint64]:
    """A digest of each image's path, place, size and time of change; 0 for one that is not there.

    Among a million images, two digests are equal by chance once in 40 million times.
    """
    return np.array([_signature(image) for image in images], np.uint64)


def _signature(image: Location) -> int:
    try:
        stat = os.stat(image.file)  # noqa: PTH116 (a million times)
    except OSError:
        return 0
    text = f"{os.path.abspath(image.file)}\0{image.offset}\0{stat.st_size}\0{stat.st_mtime_ns}"  # noqa: PTH100
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest())
