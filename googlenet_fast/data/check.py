"""Find unreadable, duplicate and suspicious images in a dataset."""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from tqdm import tqdm

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.library_messages import caught
from googlenet_fast.data.reading import DecodeError, decode, range_of_16_bits
from googlenet_fast.data.scan_damage import scan_damage
from googlenet_fast.data.tar_members import Location
from googlenet_fast.data.worker_processes import parallel_map

SMALLEST = 16
"""Short side in pixels below which an image is suspicious."""
LONGEST = 10.0
"""Ratio of long side to short side above which an image is suspicious."""


class Finding(NamedTuple):
    """Result of reading one image."""

    reason: str | None
    """Why the image cannot be read; None if it can."""
    digest: bytes
    """SHA-256 of the encoded bytes."""
    suspicion: str
    """What looks odd, or an empty string."""


class Report(NamedTuple):
    """Problems of a dataset; each line names the images."""

    images: int
    classes: int
    bad: list[str]
    """Images that cannot be read, with the reason."""
    duplicates: list[str]
    """Images with the same bytes under different labels."""
    suspicious: list[str]
    """Images that look odd, with the reason."""


def check_images(datasets: Sequence[ImageDataset], *, max_pixels: int, num_workers: int) -> Report:
    """Read every image of the datasets with Pillow and report the problems.

    Args:
        datasets: Parts of one dataset.
        max_pixels: An image with more pixels counts as bad.
        num_workers: Processes that read.
    """
    images = [d.location(i) for d in datasets for i in range(len(d))]
    classes = [d.class_names[label] for d in datasets for label in d.labels.tolist()]
    results = parallel_map(partial(inspect, max_pixels=max_pixels), images, num_workers)
    findings = list(tqdm(results, total=len(images), unit="image", leave=False, disable=None))
    pairs = list(zip(images, findings, strict=True))
    return Report(
        len(images),
        len(set(classes)),
        [f"{image.name}: {finding.reason}" for image, finding in pairs if finding.reason],
        list(conflicts(images, classes, findings)),
        [f"{image.name}: {finding.suspicion}" for image, finding in pairs if finding.suspicion],
    )


def inspect(image: Location, max_pixels: int) -> Finding:
    """Read one image completely."""
    try:
        content = image.read()
        digest = hashlib.sha256(content).digest()
        with warnings.catch_warnings(record=True) as warned, caught() as messages:
            warnings.simplefilter("always")
            pixels = decode(image, max_pixels)
            range_16 = range_of_16_bits(image)
            printed = messages.take()[:1]  # the rest is what follows from the first
    except OSError as error:
        return Finding(error.strerror or str(error), b"", "")
    except DecodeError as error:
        return Finding(error.reason, digest, "")
    notes = [" ".join(str(warning.message).split()) for warning in warned] + printed
    if damage := scan_damage(content):
        notes.append(damage)
    if range_16 is not None:
        notes.append("16 bits a channel, values {}..{}".format(*range_16))
    short, long = sorted(pixels.size)
    if short < SMALLEST or long > LONGEST * short:
        notes.append(f"{pixels.width}x{pixels.height} pixels")
    if pixels.getcolors(1) is not None:
        notes.append("one colour only")
    return Finding(None, digest, "; ".join(dict.fromkeys(notes)))


def conflicts(
    images: Sequence[Location], classes: Sequence[str], findings: Sequence[Finding]
) -> Iterator[str]:
    """Yield a line for each set of identical files that are not all in one class."""
    by_digest: dict[bytes, list[int]] = {}
    for i, finding in enumerate(findings):
        if finding.reason is None:
            by_digest.setdefault(finding.digest, []).append(i)
    for identical in by_digest.values():
        if len({classes[i] for i in identical}) > 1:
            yield " = ".join(f"{images[i].name} ({classes[i]})" for i in identical)
