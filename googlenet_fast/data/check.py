"""Looking for trouble in a dataset: `python -m googlenet_fast.data check PATH`."""

import argparse
import hashlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from googlenet_fast.cli import Parser, add_list_flags, add_max_pixels, add_num_workers
from googlenet_fast.data.bad_images import parallel_map
from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.members import Location
from googlenet_fast.data.reading import MAX_PIXELS, DecodeError, decode
from googlenet_fast.data.splits import open_dataset, open_splits

SMALLEST = 16
"""Pixels of a short side below which hardly a photo is meant."""
LONGEST = 10.0
"""Long side / short side of a picture that is hardly a photo."""


class Options(argparse.Namespace):
    """The command line."""

    path: Path
    root: Path | None
    delimiter: str
    max_pixels: int
    num_workers: int


class Finding(NamedTuple):
    """What is to be said of an image."""

    reason: str | None
    """Why it cannot be read."""
    digest: bytes
    """SHA-256 of its bytes."""
    suspicion: str
    """What is odd about it, if anything."""


def check(options: Options) -> None:
    """Read every image with Pillow and print what is wrong; exit status 1 if one is bad.

    Raises:
        UserError: a dataset that cannot be opened.
    """
    if options.path.is_dir():
        datasets: Sequence[ImageDataset] = open_splits(
            options.path, root=options.root, delimiter=options.delimiter
        )
    else:
        datasets = [open_dataset(options.path, root=options.root, delimiter=options.delimiter)]
    images = [d.location(i) for d in datasets for i in range(len(d))]
    classes = [d.class_names[label] for d in datasets for label in d.labels.tolist()]
    found = list(
        tqdm(
            parallel_map(
                partial(inspect, max_pixels=options.max_pixels), images, options.num_workers
            ),
            total=len(images),
            unit="image",
            leave=False,
            disable=None,
        )
    )
    bad = [f"{i.name}: {f.reason}" for i, f in zip(images, found, strict=True) if f.reason]
    odd = [f"{i.name}: {f.suspicion}" for i, f in zip(images, found, strict=True) if f.suspicion]
    duplicates = list(conflicts(images, classes, found))
    for title, lines in (("bad", bad), ("duplicate", duplicates), ("suspicious", odd)):
        for line in lines:
            print(f"{title}: {line}".encode(errors="backslashreplace").decode())
    print(
        f"{len(images)} images in {len(set(classes))} classes: {len(bad)} bad, {len(duplicates)} "
        f"with the same bytes under different labels, {len(odd)} suspicious"
    )
    if bad:
        sys.exit(1)


def inspect(image: Location, max_pixels: int) -> Finding:
    """Read an image whole."""
    try:
        digest = hashlib.sha256(image.read()).digest()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pixels = decode(image, max_pixels)
    except OSError as error:
        return Finding(error.strerror or str(error), b"", "")
    except DecodeError as error:
        return Finding(error.reason, digest, "")
    notes = [" ".join(str(warning.message).split()) for warning in caught]
    short, long = sorted(pixels.size)
    if short < SMALLEST or long > LONGEST * short:
        notes.append(f"{pixels.width}x{pixels.height} pixels")
    if pixels.getcolors(1) is not None:
        notes.append("one colour only")
    return Finding(None, digest, "; ".join(dict.fromkeys(notes)))


def conflicts(
    images: Sequence[Location], classes: Sequence[str], found: Sequence[Finding]
) -> Iterator[str]:
    """A line for each set of images with the same bytes that are not all in one class."""
    alike: dict[bytes, list[int]] = {}
    for i, finding in enumerate(found):
        if finding.reason is None:
            alike.setdefault(finding.digest, []).append(i)
    for members in alike.values():
        if len({classes[i] for i in members}) > 1:
            yield " = ".join(f"{images[i].name} ({classes[i]})" for i in members)


def add_check_command(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `check` to the commands of `python -m googlenet_fast.data`."""
    parser = commands.add_parser(
        "check",
        help="list bad, duplicate and suspicious images",
        description="Read every image of a dataset and list those that cannot be read, that have "
        "the same bytes as one with another label, or that look odd. Exit status 1 if any is bad.",
    )
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="a dataset as --data takes it, or a list file"
    )
    add_list_flags(parser)
    add_max_pixels(parser, MAX_PIXELS)
    add_num_workers(parser)
    parser.set_defaults(run=check)
