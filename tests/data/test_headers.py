"""Which files DALI is given."""

import numpy as np
import pytest

from googlenet_fast.data.headers import look
from tests.data.odd_images import (
    encoded,
    misread_images,
    picture,
    readable_images,
    segment,
    with_orientation,
)

DALI_READS = ("transparent",)
"""Kinds of odd files that both decoders read alike."""


def kind(content: bytes) -> str | None:
    return look(np.frombuffer(content, np.uint8)).kind


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_dali_reads_ordinary_jpegs(mode: str, progressive: bool) -> None:
    image = picture((70, 50)).convert(mode)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="1"/></x:xmpmeta>'
    for options in (
        {}, {"exif": with_orientation(6)}, {"xmp": xmp}, {"restart_marker_blocks": 2},
        {"icc_profile": bytes(100_000)}, {"comment": b"\xff" * 100},
    ):  # fmt: skip
        found = look(np.frombuffer(encoded(image, progressive=progressive, **options), np.uint8))
        assert found == (70 * 50, None)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA"])
def test_dali_reads_ordinary_pngs(mode: str) -> None:
    content = encoded(picture((70, 50)).convert(mode), "PNG", dpi=(72, 72))
    assert look(np.frombuffer(content, np.uint8)) == (70 * 50, None)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"icc_profile": bytes(200)}])
def test_dali_reads_ordinary_webps(options: dict[str, object]) -> None:
    content = encoded(picture((70, 50)), "WEBP", **options)
    assert look(np.frombuffer(content, np.uint8)) == (70 * 50, None)


def test_pillow_reads_what_dali_misreads() -> None:
    for name, content in misread_images().items():
        assert (kind(content) is None) == name.startswith(DALI_READS), name


def test_damage_and_rare_jpegs_are_left_to_pillow() -> None:
    jpeg = encoded(picture())
    exif = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0")
    for content in (
        b"", b"\xff\xd8", jpeg[:-2], jpeg[:2] + exif + jpeg[2:], encoded(picture().convert("CMYK")),
        jpeg[:2] + segment(0xEE, b"Adobe\0d\0\0\0\0\0") + jpeg[2:],
        jpeg[:2] + segment(0xE0, b"JFIF\0") + jpeg[2:],
    ):  # fmt: skip
        assert kind(content) is not None


def test_every_beginning_of_a_file_is_looked_at_without_an_error() -> None:
    for name, content in readable_images().items():
        for end in range(0, min(len(content), 300), 7):
            assert kind(content[:end]) is not None, name
