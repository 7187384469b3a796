"""Write a dataset into tar shards in WebDataset's layout."""

import io
import multiprocessing
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.folders import EXTENSIONS
from googlenet_fast.data.lists import CLASS_NAMES
from googlenet_fast.data.reading import decode
from googlenet_fast.data.shards import shards_in
from googlenet_fast.data.tar_members import Location
from googlenet_fast.data.worker_processes import end_with_parent, ignore_sigint
from googlenet_fast.errors import GoogLeNetError


class Resizing(NamedTuple):
    """How to shrink large images before they are stored."""

    short_side: int
    """Target short side in pixels; smaller images are stored unchanged."""
    quality: int
    """JPEG quality, 1 to 100."""


class Shard(NamedTuple):
    """Content of one shard."""

    name: str
    first: int
    """Number of the first image; tar members are named by these numbers."""
    images: list[Location]
    labels: NDArray[np.int64]


class Written(NamedTuple):
    """Size of a written dataset."""

    shards: int
    megabytes: float


def write_shards(
    parts: Mapping[str, ImageDataset],
    out: Path,
    *,
    shard_size: int,
    resizing: Resizing | None,
    num_workers: int,
) -> Written:
    """Write parts of a dataset as `PART-*.tar` and a file of class names, or nothing.

    Training images are shuffled once, so that a sequential reader meets all classes.

    Args:
        parts: "train", "val" and "test" or some of them -> images, with the same classes.
        out: Folder for the shards, created if necessary; may hold those of other parts.
        shard_size: Images per shard.
        resizing: How to shrink large images; None stores all bytes unchanged.
        num_workers: Processes that write.

    Raises:
        GoogLeNetError: the folder cannot be written to, already holds such shards or those of other
            classes, or an image cannot be read. Images are decoded only for resizing.
    """
    shards = [shard for part in parts for shard in _cut(_ordered(parts, part), part, shard_size)]
    class_names = next(iter(parts.values())).class_names
    lines = [f"{i} {' '.join(name.splitlines())}\n" for i, name in enumerate(class_names)]
    names = "".join(lines).encode(errors="backslashreplace")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _check_free(out, parts, names)
        with tempfile.TemporaryDirectory(dir=out, prefix=".unfinished-") as folder:
            (Path(folder) / CLASS_NAMES).write_bytes(names)
            _write_all(shards, Path(folder), resizing, num_workers)
            files = sorted(Path(folder).iterdir())
            megabytes = sum(file.stat().st_size for file in files) / 1e6
            for file in files:
                file.replace(out / file.name)
    except OSError as error:
        raise GoogLeNetError(f"{out}: cannot be written to ({error.strerror})") from None
    return Written(len(shards), megabytes)


def _ordered(parts: Mapping[str, ImageDataset], part: str) -> ImageDataset:
    """Return the images of a part in the order in which they are written."""
    dataset = parts[part]
    if part != "train":
        return dataset
    return dataset.subset(np.random.default_rng(0).permutation(len(dataset)))


def _check_free(out: Path, parts: Iterable[str], names: bytes) -> None:
    """Refuse a folder with shards that these would replace or contradict; may raise OSError."""
    old = shards_in(out)
    splits = [split for split in ("train", "val", "test") if any(out.glob(f"{split}-*.tar"))]
    known = sum(len(list(out.glob(f"{split}-*.tar"))) for split in splits)
    if known < len(old) or not set(parts).isdisjoint(splits):
        raise GoogLeNetError(f"{out}: holds shards already; choose another folder")
    file = out / CLASS_NAMES
    if old and file.is_file() and file.read_bytes() != names:
        raise GoogLeNetError(
            f"{file}: names other classes than these images have; choose another folder"
        )


def _write_all(
    shards: Sequence[Shard], folder: Path, resizing: Resizing | None, num_workers: int
) -> None:
    """Write the shards into a folder, one process per shard."""
    write = partial(_try_to_write, folder=folder, resizing=resizing)
    with ExitStack() as closing:
        written: Iterable[GoogLeNetError | None] = map(write, shards)
        if (processes := min(num_workers, len(shards))) > 1:
            with ignore_sigint():
                pool = multiprocessing.get_context("spawn").Pool(processes, end_with_parent)
            closing.enter_context(pool)
            written = pool.imap_unordered(write, shards)
        for error in tqdm(written, total=len(shards), unit="shard", disable=None):
            if error is not None:
                raise error


def _cut(dataset: ImageDataset, split: str, size: int) -> Iterator[Shard]:
    """Split a dataset into shards of `size` images; the last one may be smaller."""
    starts = range(0, len(dataset), size)
    digits = max(3, len(str(len(starts) - 1)))
    for number, start in enumerate(starts):
        indices = range(start, min(start + size, len(dataset)))
        yield Shard(
            f"{split}-{number:0{digits}}.tar",
            start,
            [dataset.location(i) for i in indices],
            dataset.labels[start : indices.stop],
        )


def _try_to_write(shard: Shard, folder: Path, resizing: Resizing | None) -> GoogLeNetError | None:
    """Write a shard and return its error; a raised one would arrive with a traceback."""
    try:
        write_shard(shard, folder, resizing)
    except GoogLeNetError as error:
        return error
    except OSError as error:
        return GoogLeNetError(f"{error.filename or folder / shard.name}: {error.strerror or error}")
    return None


def write_shard(shard: Shard, folder: Path, resizing: Resizing | None) -> None:
    """Write one tar file; the same images give the same bytes."""
    with tarfile.open(folder / shard.name, "w", format=tarfile.PAX_FORMAT) as tar:
        for i, (image, label) in enumerate(zip(shard.images, shard.labels, strict=True)):
            content, suffix = _encoded(image, resizing)
            key = f"{shard.first + i:08}_{Path(image.name).name.partition('.')[0]}"
            _add(tar, key + suffix, content)
            _add(tar, f"{key}.cls", str(label).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _encoded(image: Location, resizing: Resizing | None) -> tuple[bytes, str]:
    """Return the bytes to store and the suffix of their format.

    Small images are stored unchanged. Larger ones are resized as in evaluation (bilinear,
    antialiased, upright) and encoded as JPEG.
    """
    content, suffix = image.read(), Path(image.name).suffix.lower()
    if suffix not in EXTENSIONS:  # list files may use any name; decoders look at the content
        suffix = ".jpg"
    if resizing is None:
        return content, suffix
    pixels = decode(image)
    short = min(pixels.size)
    if short <= resizing.short_side:
        return content, suffix
    width, height = (side * resizing.short_side // short for side in pixels.size)
    output = io.BytesIO()
    resized = pixels.resize((width, height), Image.Resampling.BILINEAR)
    resized.save(output, "JPEG", quality=resizing.quality)
    return output.getvalue(), ".jpg"
