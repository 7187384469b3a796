"""Find the images of a dataset that cannot be read, before a run that is to skip them.

A loader that dropped images as it meets them would make different batches in each process and in
each resumed run. So all images are read once before the first step, and the readable ones are
remembered in the cache.
"""

import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.loader import LoaderOptions, build_loader, readable_batches
from googlenet_fast.data.reading import PILLOW, DecodeError, decode
from googlenet_fast.data.tar_members import Location
from googlenet_fast.data.worker_processes import parallel_map
from googlenet_fast.files import cache_dir, write_cache

Reasons = dict[int, str]
"""Index of an image -> why it cannot be read."""

_log = logging.getLogger("googlenet_fast")


def find_unreadable(
    dataset: ImageDataset,
    indices: NDArray[np.int64],
    options: LoaderOptions,
    *,
    advance: Callable[[int], object],
) -> Reasons:
    """Return the images among `indices` that Pillow or the loader's decoder cannot read.

    Both have to read them: DALI fills missing parts of some damaged JPEGs with grey without a
    warning.

    Args:
        dataset: The images.
        indices: Images to read, (N,).
        options: An evaluation loader; Pillow runs in as many processes as it has workers.
        advance: Called with the progress, which adds up to at most 2 * N.
    """
    bad: Reasons = {}
    locations = [dataset.location(i) for i in indices]
    why = partial(why_unreadable, max_pixels=options.max_pixels)
    reasons = parallel_map(why, locations, options.num_workers)
    for index, reason in zip(indices.tolist(), reasons, strict=True):
        advance(1)
        if reason is not None:
            bad[index] = reason
    advance(len(bad))
    left = indices[~np.isin(indices, list(bad))]
    if build_loader(dataset, options).decoder != PILLOW:
        for read, result in readable_batches(dataset.subset(left), options):
            advance(len(read))
            if isinstance(result, DecodeError):
                bad[int(left[read[0]])] = result.reason
    return dict(sorted(bad.items()))


def why_unreadable(image: Location, max_pixels: int) -> str | None:
    """Return why Pillow cannot read an image, or None if it can."""
    try:
        decode(image, max_pixels)
    except DecodeError as error:
        return error.reason
    return None


class ReadableImages:
    """Cache of the images that a decoder has read completely.

    An image is a 64-bit digest of its path, offset, size and times of modification and change, so a
    changed file is read again.
    """

    def __init__(self, decoder: str, max_pixels: int) -> None:
        name = hashlib.sha256(f"{PILLOW}, {decoder}, {max_pixels}".encode()).hexdigest()[:16]
        self._file = cache_dir() / "readable" / f"{name}.npy"
        self._known = self._load()

    def among(self, signatures: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which of the signatures are known, (len(signatures),)."""
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
            _log.warning("%s: ignored, the images are read again (%s)", self._file, error)
            return empty
        return known if known.dtype == np.uint64 else empty


def signatures(images: Iterable[Location]) -> NDArray[np.uint64]:
    """Return a digest of each image's path, offset, size and times, 0 if missing.

    Among a million images, two digests are equal by chance once in 40 million runs.
    """
    return np.array([_signature(image) for image in images], np.uint64)


def _signature(image: Location) -> int:
    try:
        stat = os.stat(image.file)  # noqa: PTH116 (a million times)
    except OSError:
        return 0
    place = f"{os.path.abspath(image.file)}\0{image.offset}"  # noqa: PTH100
    text = f"{place}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest(), "big")
