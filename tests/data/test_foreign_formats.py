"""Files of other kinds are named by what they are, whatever their suffix."""

import os
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from googlenet_fast.data import ImageDataset, LoaderOptions, build_loader
from googlenet_fast.data.foreign_formats import what_instead
from googlenet_fast.data.reading import DecodeError, decode
from googlenet_fast.data.tar_members import Location
from googlenet_fast.model.presets import IMAGENET_RGB
from tests.data.odd_images import encoded, picture


def boxes(brand: bytes) -> bytes:
    """The start of a file of ISO's base media format."""
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + brand + b"miaf" + bytes(300)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (encoded(picture(), "GIF"), "GIF"),
        (boxes(b"avif"), "AVIF"),
        (boxes(b"heic"), "HEIC"),
        (boxes(b"mif1"), "HEIC"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (encoded(picture(), "JPEG2000"), "JPEG 2000"),
        (encoded(picture((32, 32)), "ICO"), "ICO"),
        (encoded(picture(), "PDF"), "PDF"),
        (encoded(picture(), "EPS"), "PostScript"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    ],
)
def test_formats_that_are_not_supported(content: bytes, name: str) -> None:
    assert what_instead(content) == f"{name} is not supported, convert it to JPEG or PNG"


def test_other_mistakes() -> None:
    assert what_instead(b"") == "the file is empty"
    assert what_instead(b"\n<!DOCTYPE html><html>404") == "it is a web page"
    assert what_instead(b"any other bytes") is None


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF"])
def test_the_supported_ones_are_none_of_these(image_format: str) -> None:
    assert what_instead(encoded(picture(), image_format)) is None


@pytest.mark.parametrize("kind", ["dali", "pillow"])
def test_both_loaders_say_so(kind: Any, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali" if kind == "dali" else "PIL")
    Image.new("RGB", (40, 40)).save(tmp_path / "0.jpg")
    (tmp_path / "1.jpg").write_bytes(encoded(picture(), "GIF"))
    (tmp_path / "list.txt").write_text("0.jpg 0\n1.jpg 0\n")
    options = LoaderOptions(
        train=False, kind=kind, batch_size=2, image_size=32, normalization=IMAGENET_RGB,
        num_workers=1,
    )  # fmt: skip
    with pytest.raises(DecodeError) as error:
        list(build_loader(ImageDataset.from_list(tmp_path / "list.txt"), options))
    assert str(error.value).startswith(f"{tmp_path}/1.jpg: ")
    assert "GIF is not supported, convert it to JPEG or PNG" in str(error.value)


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(DecodeError, match=r"\(not a regular file\)"):
            decode(Location(str(path), str(path)))
    with pytest.raises(DecodeError, match=r"\(Is a directory\)"):
        decode(Location("folder", str(tmp_path)))
