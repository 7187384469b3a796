"""Find unreadable, duplicate and suspicious images in a dataset, and classes to look at."""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.duplicates import SIDE, near_duplicates, thumbnail
from googlenet_fast.data.library_messages import caught
from googlenet_fast.data.reading import DecodeError, decode, range_of_16_bits
from googlenet_fast.data.scan_damage import scan_damage
from googlenet_fast.data.tar_members import Location
from googlenet_fast.data.worker_processes import parallel_map

SMALLEST = 16
"""Short side in pixels below which an image is suspicious."""
FEW = 10
"""Training images of a class below which it is reported."""
IMBALANCE = 10
"""Ratio of the largest class to the smallest one above which they are reported."""
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
    thumbnail: bytes = b""
    """See `duplicates.thumbnail`; empty for an image that cannot be read."""


class Report(NamedTuple):
    """Problems of a dataset; each line names the images."""

    images: int
    classes: int
    bad: list[str]
    """Images that cannot be read, with the reason."""
    duplicates: list[str]
    """Images with the same bytes under different labels."""
    shared: list[str]
    """Images with the same bytes in different parts."""
    similar: list[str]
    """Images of one part that look like one of an earlier part."""
    classes_to_look_at: list[str]
    """Classes with few training images or no validation images, and imbalance."""
    suspicious: list[str]
    """Images that look odd, with the reason."""


def check_images(parts: Mapping[str, ImageDataset], *, max_pixels: int, num_workers: int) -> Report:
    """Read every image of a dataset with Pillow and report the problems.

    Args:
        parts: "train", "val", ... -> images.
        max_pixels: An image with more pixels counts as bad.
        num_workers: Processes that read.
    """
    images = [d.location(i) for d in parts.values() for i in range(len(d))]
    classes = [d.class_names[label] for d in parts.values() for label in d.labels.tolist()]
    owners = [part for part, d in parts.items() for _ in range(len(d))]
    results = parallel_map(partial(inspect, max_pixels=max_pixels), images, num_workers)
    findings = list(tqdm(results, total=len(images), unit="image", leave=False, disable=None))
    pairs = list(zip(images, findings, strict=True))
    described = [f"{images[i].name} ({owners[i]}, {classes[i]})" for i in range(len(images))]
    return Report(
        len(images),
        len(set(classes)),
        [f"{image.name}: {finding.reason}" for image, finding in pairs if finding.reason],
        list(conflicts(images, classes, findings)),
        [
            " = ".join(described[i] for i in identical)
            for identical in _identical(findings)
            if len({owners[i] for i in identical}) > 1
        ],
        [f"{described[a]} ~ {described[b]}" for a, b in _similar(owners, findings)],
        list(classes_to_look_at(parts)),
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
    return Finding(None, digest, "; ".join(dict.fromkeys(notes)), thumbnail(pixels))


def conflicts(
    images: Sequence[Location], classes: Sequence[str], findings: Sequence[Finding]
) -> Iterator[str]:
    """Yield a line for each set of identical files that are not all in one class."""
    for identical in _identical(findings):
        if len({classes[i] for i in identical}) > 1:
            yield " = ".join(f"{images[i].name} ({classes[i]})" for i in identical)


def _identical(findings: Sequence[Finding]) -> Iterator[list[int]]:
    """Yield each set of images with the same bytes."""
    by_digest: dict[bytes, list[int]] = {}
    for i, finding in enumerate(findings):
        if finding.reason is None:
            by_digest.setdefault(finding.digest, []).append(i)
    yield from (images for images in by_digest.values() if len(images) > 1)


def _similar(owners: Sequence[str], findings: Sequence[Finding]) -> Iterator[tuple[int, int]]:
    """Yield pairs of images in different parts that look alike and differ in their bytes."""
    readable = [i for i, finding in enumerate(findings) if finding.thumbnail]
    content = b"".join(findings[i].thumbnail for i in readable)
    thumbnails = np.frombuffer(content, np.uint8).reshape(-1, SIDE, SIDE, 3)
    order = {part: number for number, part in enumerate(dict.fromkeys(owners))}
    part = np.array([order[owners[i]] for i in readable], np.int64)
    for a, b in near_duplicates(thumbnails, part):
        if findings[readable[a]].digest != findings[readable[b]].digest:
            yield readable[a], readable[b]


def classes_to_look_at(parts: Mapping[str, ImageDataset]) -> Iterator[str]:
    """Yield a line for each class with few images or none to validate on, and for imbalance."""
    first, *others = parts
    counts = _counts(parts[first])
    for name, count in sorted(counts.items(), key=lambda item: item[1]):
        if count < FEW:
            yield f"{name}: has {count} images in {first}"
    for name in sorted(set(counts) - set(_counts(parts["val"]))) if "val" in others else ():
        yield f"{name}: has no image in val"
    for other in others:
        for name in sorted(set(_counts(parts[other])) - set(counts)):
            yield f"{name}: has images in {other}, but none in {first}"
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[most] > IMBALANCE * counts[least]:
        yield f"imbalance: {counts[most]} images of {most}, {counts[least]} of {least}"


def _counts(dataset: ImageDataset) -> dict[str, int]:
    labels, counts = np.unique(dataset.labels, return_counts=True)
    return {
        dataset.class_names[label]: count
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True)
    }
