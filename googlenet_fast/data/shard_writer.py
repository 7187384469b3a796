"""Writing a dataset into tar shards: `python -m googlenet_fast.data shard PATH OUT`."""

import argparse
import io
import multiprocessing
import shlex
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from googlenet_fast.cli import Parser, add_num_workers, positive
from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.folders import EXTENSIONS
from googlenet_fast.data.lists import CLASS_NAMES
from googlenet_fast.data.members import Location
from googlenet_fast.data.reading import decode
from googlenet_fast.data.splits import open_splits
from googlenet_fast.data.worker_processes import deaf_to_interrupts
from googlenet_fast.errors import UserError


class Options(argparse.Namespace):
    """The command line."""

    path: Path
    out: Path
    shard_size: int
    resize: int | None
    quality: int
    num_workers: int


class Resizing(NamedTuple):
    """What becomes of the images on their way."""

    short_side: int
    """Pixels that a longer short side is brought to."""
    quality: int
    """Of the JPEGs, 1 to 100."""


class Shard(NamedTuple):
    """A shard to write."""

    name: str
    first: int
    """Number of its first image, which its members are named by."""
    images: list[Location]
    labels: NDArray[np.int64]


def write_shards(options: Options) -> None:
    """Write the training and validation images of a dataset folder as `train-*.tar`, `val-*.tar`.

    The training images are shuffled once, so that who reads the shards in their order meets all
    classes. The names of the classes go to a file beside the shards.

    Raises:
        UserError: a dataset or folder that cannot be used, an image that cannot be decoded (only
            resizing decodes them).
    """
    splits = open_splits(options.path)
    train = splits.train.subset(np.random.default_rng(0).permutation(len(splits.train)))
    parts = ((train, "train"), (splits.val, "val"))
    shards = [shard for part, split in parts for shard in _cut(part, split, options.shard_size)]
    lines = [f"{i} {' '.join(name.splitlines())}\n" for i, name in enumerate(train.class_names)]
    names = "".join(lines).encode(errors="backslashreplace")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        if any(options.out.glob("*.tar")):
            raise UserError(f"{options.out}: holds shards already; choose another folder")
        with tempfile.TemporaryDirectory(dir=options.out, prefix=".unfinished-") as folder:
            (Path(folder) / CLASS_NAMES).write_bytes(names)
            _write_all(shards, Path(folder), options)
            files = sorted(Path(folder).iterdir())
            megabytes = sum(file.stat().st_size for file in files) / 1e6
            for file in files:
                file.replace(options.out / file.name)
    except OSError as error:
        raise UserError(f"{options.out}: cannot be written to ({error.strerror})") from None
    print(
        f"{len(train)} training and {len(splits.val)} validation images in {len(shards)} shards in "
        f"{options.out}, {megabytes:,.1f} MB; to train on them: "
        f"--data {shlex.quote(str(options.out))}"
    )


def _write_all(shards: Sequence[Shard], folder: Path, options: Options) -> None:
    """Write the shards into a folder, each in one of several processes."""
    resizing = None if options.resize is None else Resizing(options.resize, options.quality)
    write = partial(_try_to_write, folder=folder, resizing=resizing)
    with ExitStack() as closing:
        written: Iterable[UserError | None] = map(write, shards)
        if (processes := min(options.num_workers, len(shards))) > 1:
            with deaf_to_interrupts():
                pool = multiprocessing.get_context("spawn").Pool(processes)
            closing.enter_context(pool)
            written = pool.imap_unordered(write, shards)
        for error in tqdm(written, total=len(shards), unit="shard", disable=None):
            if error is not None:
                raise error


def _cut(dataset: ImageDataset, split: str, size: int) -> Iterator[Shard]:
    """The dataset in parts of the size asked for."""
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


def _try_to_write(shard: Shard, folder: Path, resizing: Resizing | None) -> UserError | None:
    """Write a shard; a process's exception would arrive with its traceback."""
    try:
        write_shard(shard, folder, resizing)
    except UserError as error:
        return error
    except OSError as error:
        return UserError(f"{error.filename or folder / shard.name}: {error.strerror or error}")
    return None


def write_shard(shard: Shard, folder: Path, resizing: Resizing | None) -> None:
    """Write a tar file into a folder; the same images give the same bytes."""
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
    """The bytes to store and the suffix that says their format.

    An image that is small enough stays as it is. Another is resized as evaluation would do it
    (bilinear, antialiased, upright) and encoded as JPEG.
    """
    content, suffix = image.read(), Path(image.name).suffix.lower()
    if suffix not in EXTENSIONS:  # lists may name files anyhow; decoders go by the content
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


def _percent(text: str) -> int:
    if not 1 <= (number := positive(text)) <= 100:
        raise argparse.ArgumentTypeError("must be 1 to 100")
    return number


def add_shard_command(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `shard` to the commands of `python -m googlenet_fast.data`."""
    parser = commands.add_parser(
        "shard",
        help="write a dataset into tar shards (WebDataset)",
        description="Write the training and validation images of a dataset into tar files of "
        ".jpg (.png, ...) and .cls members, in random order, as WebDataset and DALI read them.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="the dataset, as --data takes it")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the shards")
    parser.add_argument(
        "--shard-size", type=positive, default=10_000, metavar="N", help="images; default: 10000"
    )
    parser.add_argument(
        "--resize",
        type=positive,
        metavar="PIXELS",
        help="bring longer short sides to this length and store JPEGs; default: bytes as they are",
    )
    parser.add_argument(
        "--quality", type=_percent, default=90, metavar="Q", help="of those JPEGs; default: 90"
    )
    add_num_workers(parser)
    parser.set_defaults(run=write_shards)
