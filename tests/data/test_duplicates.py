"""Pictures stored anew are found again, and different ones are not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from googlenet_fast.data.duplicates import SIDE, near_duplicates, thumbnail


def pictures(count: int) -> list[Image.Image]:
    coarse = np.random.default_rng(1).integers(0, 256, (count, 7, 9, 3), dtype=np.uint8)
    return [Image.fromarray(c).resize((180, 140), Image.Resampling.BICUBIC) for c in coarse]


def thumbnails(images: list[Image.Image]) -> np.ndarray:
    content = b"".join(map(thumbnail, images))
    return np.frombuffer(content, np.uint8).reshape(-1, SIDE, SIDE, 3)


def as_jpeg(image: Image.Image) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=40)
    return Image.open(content)


CHANGES: list[Callable[[Image.Image], Image.Image]] = [
    as_jpeg,
    lambda image: image.resize((90, 70)),
    lambda image: image.resize((300, 233), Image.Resampling.NEAREST),
    lambda image: ImageEnhance.Brightness(image).enhance(1.04),
]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found(change: Callable[[Image.Image], Image.Image]) -> None:
    images = pictures(60)
    both = thumbnails([*images, *map(change, images)])
    pairs = list(near_duplicates(both, np.repeat([0, 1], 60)))
    assert set(pairs) <= {(60 + i, i) for i in range(60)}
    assert len(pairs) >= 57


def test_copies_in_one_part_and_different_pictures_are_not_paired() -> None:
    images = pictures(40)
    both = thumbnails(images + images)
    assert not list(near_duplicates(both, np.zeros(80, np.int64)))
    assert not list(near_duplicates(thumbnails(images), np.repeat([0, 1], 20)))


def test_pictures_without_contrast_are_not_compared() -> None:
    plain = [Image.new("RGB", (50, 50), (level, 90, 90)) for level in range(20)]
    assert not list(near_duplicates(thumbnails(plain), np.repeat([0, 1], 10)))
    assert not list(near_duplicates(thumbnails([]), np.zeros(0, np.int64)))


def test_thousands_of_pictures_alike_do_not_take_long() -> None:
    """Compared each with each, these would be two million pairs."""
    base = thumbnails(pictures(1))
    noise = np.random.default_rng(0).integers(0, 2, (3_000, SIDE, SIDE, 3), dtype=np.uint8)
    pairs = list(near_duplicates(np.minimum(base, 254) + noise, np.arange(3_000) // 2_000))
    assert len(pairs) == 1_000
