"""Odd, damaged and hostile files: decoded as Pillow does, or reported with a reason."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from googlenet_fast.data import ImageDataset, LoaderOptions, build_loader
from googlenet_fast.data.loader import Kind
from googlenet_fast.data.reading import MAX_PIXELS, DecodeError
from googlenet_fast.data.tar_members import Location
from googlenet_fast.data.unreadable import why_unreadable
from googlenet_fast.model.presets import Normalization
from tests.data.odd_images import readable_images, unreadable_images

transforms = pytest.importorskip("torchvision.transforms.v2.functional")

GREY_LEVELS = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "RGB")


def expected(content: bytes) -> "np.ndarray | None":
    """Pillow's pixels, or None where it gives none."""
    try:
        with Image.open(io.BytesIO(content)) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode in ("I;16", "I"):  # 16 bits
                image = image.point(lambda value: value * (1 / 257) + 0).convert("L")
            image = image.convert("RGB")
    except Exception:
        return None
    return np.asarray(transforms.center_crop(transforms.resize(image, [110]), [96]), np.float32)


def without_metadata(jpeg: bytes) -> bytes:
    """A JPEG without its first application segment."""
    return jpeg[:2] + jpeg[4 + int.from_bytes(jpeg[4:6]) :]


@contextmanager
def at_most_more_memory(count: int) -> Iterator[None]:
    """Let this process have so many more bytes of addresses."""
    resource = pytest.importorskip("resource")
    if not (memory := Path("/proc/self/statm")).exists():
        pytest.skip("the system does not tell how much memory a process has")
    pages = int(memory.read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def loaded(root: Path, name: str, kind: Kind) -> "np.ndarray | DecodeError":
    """The loader's pixels of one file, (96, 96, 3), or its refusal."""
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    dataset = ImageDataset(root, [name], np.zeros(1, np.int64), ("x",), root)
    options = LoaderOptions(
        train=False, kind=kind, batch_size=1, image_size=96, resize_size=110,
        normalization=GREY_LEVELS, num_workers=0,
    )  # fmt: skip
    try:
        ((images, _),) = build_loader(dataset, options)
    except DecodeError as error:
        refusal = error
    else:
        return images[0].permute(1, 2, 0).numpy()
    assert str(refusal).startswith(f"{root / name}: cannot be read as an image")
    assert refusal.reason.strip()
    assert "\n" not in str(refusal)
    return refusal


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["dali", "torchvision"])
def test_odd_files_are_decoded_right(kind: Kind, tmp_path: Path) -> None:
    for name, content in readable_images().items():
        (tmp_path / name).write_bytes(content)
        pixels, right = loaded(tmp_path, name, kind), expected(content)
        assert right is not None
        assert isinstance(pixels, np.ndarray), f"{name} is refused: {pixels}"
        assert np.abs(pixels - right).mean() <= 1.5, name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["dali", "torchvision"])
def test_damaged_files_are_refused_with_a_reason(kind: Kind, tmp_path: Path) -> None:
    for name, content in unreadable_images().items():
        (tmp_path / name).write_bytes(content)
        assert isinstance(loaded(tmp_path, name, kind), DecodeError), f"{name} is not refused"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["dali", "torchvision"])
def test_each_collected_file_is_decoded_right_or_refused(kind: Kind, shared_data: Path) -> None:
    root = shared_data / "weird_jpegs"
    with (root / "MANIFEST.tsv").open(encoding="utf-8") as manifest:
        names = [row["file"] for row in csv.DictReader(manifest, delimiter="\t")]
    assert len(names) == 144
    right = 0
    for name in names:
        content = (root / name).read_bytes()
        result, pixels = loaded(root, name, kind), expected(content)
        if isinstance(result, DecodeError):
            assert pixels is None or kind == "dali", f"{name} is refused"
            continue
        if pixels is None:  # Pillow fails at the metadata, or DALI did not notice the damage
            assert kind == "dali"
            pixels = expected(without_metadata(content))
            assert pixels is not None, f"{name} is not refused"
        difference = np.abs(result - pixels).mean()
        assert difference <= 3, f"{name} differs by {difference:.1f} grey levels"
        right += 1
    assert right >= 110


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
@pytest.mark.parametrize("kind", ["dali", "torchvision"])
def test_other_formats(kind: Kind, suffix: str, mode: str, tmp_path: Path) -> None:
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    coarse = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    image = Image.fromarray(coarse).resize((150, 180)).convert(mode)
    (tmp_path / "x").mkdir()
    image.save(tmp_path / "x" / f"photo.{suffix}", lossless=True)
    pixels = expected((tmp_path / "x" / f"photo.{suffix}").read_bytes())
    assert pixels is not None
    dataset = ImageDataset.from_folder(tmp_path)
    common: dict[str, Any] = {"kind": kind, "batch_size": 1, "image_size": 96, "num_workers": 0}
    ((images, _),) = build_loader(
        dataset, LoaderOptions(train=False, resize_size=110, normalization=GREY_LEVELS, **common)
    )
    assert np.abs(images[0].permute(1, 2, 0).numpy() - pixels).mean() <= 1
    ((images, _),) = build_loader(
        dataset, LoaderOptions(train=True, normalization=GREY_LEVELS, **common)
    )
    assert images.shape == (1, 3, 96, 96)
    assert images.std() > 10


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", ["dali", "torchvision"])
def test_the_header_of_a_large_image_is_enough(kind: Kind, train: bool, tmp_path: Path) -> None:
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    (tmp_path / "x").mkdir()
    for i, size in enumerate([(40, 50), (50, 41)]):
        Image.new("RGB", size, (9, 99, 200)).save(tmp_path / "x" / f"{i}.jpg")
    dataset = ImageDataset.from_folder(tmp_path)
    options: dict[str, Any] = {
        "train": train, "kind": kind, "batch_size": 2, "image_size": 32, "num_workers": 0,
        "normalization": GREY_LEVELS,
    }  # fmt: skip
    assert len(list(build_loader(dataset, LoaderOptions(max_pixels=2050, **options)))) == 1
    with pytest.raises(DecodeError, match="50x41 pixels, more than max_pixels=2049"):
        list(build_loader(dataset, LoaderOptions(max_pixels=2049, **options)))


@pytest.mark.parametrize("size", [(1, 65_000), (65_000, 1)])
@pytest.mark.parametrize("kind", ["dali", "torchvision"])
def test_a_long_image_takes_no_memory(kind: Kind, size: tuple[int, int], tmp_path: Path) -> None:
    """With a short side of 256 pixels this one would take 13 GB."""
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    Image.new("RGB", size, (9, 99, 200)).save(tmp_path / "long.jpg")
    dataset = ImageDataset(tmp_path, ["long.jpg"], np.zeros(1, np.int64), ("x",), tmp_path)
    loader = build_loader(
        dataset,
        LoaderOptions(
            train=False,
            kind=kind,
            batch_size=1,
            image_size=224,
            normalization=GREY_LEVELS,
            num_workers=0,
        ),
    )
    with at_most_more_memory(2**31):
        ((images, _),) = loader
    assert (images - torch.tensor([9, 99, 200]).view(3, 1, 1)).abs().max() <= 3


def test_pillow_starts_no_interpreter_for_postscript(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    reason = why_unreadable(Location(str(path), str(path)), MAX_PIXELS)
    assert reason == "PostScript is not supported, convert it to JPEG or PNG"
