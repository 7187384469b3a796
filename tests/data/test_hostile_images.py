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
from googlenet_fast.data.check import inspect
from googlenet_fast.data.loader import Kind, readable_batches
from googlenet_fast.data.reading import DecodeError, decode
from googlenet_fast.data.tar_members import Location
from googlenet_fast.data.unreadable import why_unreadable
from googlenet_fast.limits import MAX_PIXELS
from googlenet_fast.model.presets import Normalization
from tests.data.odd_images import (
    encoded,
    picture,
    png16,
    readable_images,
    tiff,
    unreadable_images,
)

transforms = pytest.importorskip("torchvision.transforms.v2.functional")

GREY_LEVELS = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "RGB")


def expected(content: bytes) -> "np.ndarray | None":
    """Pillow's pixels, or None where it gives none."""
    try:
        with Image.open(io.BytesIO(content)) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode in ("I;16", "I"):  # 16 bits
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert("RGB")
    except Exception:
        return None
    return np.asarray(transforms.center_crop(transforms.resize(image, [110]), [96]), np.float32)


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


def all_read(files: list[Path], kind: Kind) -> "list[np.ndarray | str]":
    """What a loader makes of each file: pixels (96, 96, 3), or why it refuses it."""
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    names = [str(file)[1:] for file in files]
    dataset = ImageDataset(Path("/"), names, np.zeros(len(files), np.int64), ("x",), Path("/"))
    options = LoaderOptions(
        train=False, kind=kind, batch_size=16, image_size=96, resize_size=110,
        normalization=GREY_LEVELS, num_workers=0,
    )  # fmt: skip
    found: dict[int, np.ndarray | str] = {}
    for indices, images in readable_batches(dataset, options):
        for i, index in enumerate(indices.tolist()):
            if isinstance(images, DecodeError):
                found[index] = images.reason
            else:
                found[index] = images[i].permute(1, 2, 0).numpy()
    return [found[i] for i in range(len(files))]


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
@pytest.mark.parametrize("kind", ["dali", "pillow"])
def test_odd_files_are_decoded_right(kind: Kind, tmp_path: Path) -> None:
    files = readable_images()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    results = all_read([tmp_path / name for name in files], kind)
    for (name, content), pixels in zip(files.items(), results, strict=True):
        right = expected(content)
        assert right is not None
        assert not isinstance(pixels, str), f"{name} is refused: {pixels}"
        assert np.abs(pixels - right).mean() <= 1, name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["dali", "pillow"])
def test_damaged_files_are_refused_with_a_reason(kind: Kind, tmp_path: Path) -> None:
    for name, content in unreadable_images().items():
        (tmp_path / name).write_bytes(content)
        assert isinstance(loaded(tmp_path, name, kind), DecodeError), f"{name} is not refused"


def assert_all_agree(files: list[Path]) -> None:
    """The same files are read by both loaders and called good by `data check`, the same pixels."""
    pytest.importorskip("nvidia.dali")
    both = zip(all_read(files, "dali"), all_read(files, "pillow"), strict=True)
    for file, (ours, theirs) in zip(files, both, strict=True):
        checked = inspect(Location(str(file), str(file)), MAX_PIXELS).reason
        if isinstance(ours, str) or isinstance(theirs, str):
            assert isinstance(ours, str), f"{file}: torchvision alone refuses it: {theirs}"
            assert ours == theirs == checked, file
        else:
            assert checked is None, file
            assert np.abs(ours - theirs).mean() <= 1, file


def test_both_loaders_and_the_check_agree(tmp_path: Path) -> None:
    files = readable_images() | unreadable_images()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert_all_agree([tmp_path / name for name in files])


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["odd_images", "weird_jpegs", "dali_jpeg47", "trashnet150"])
def test_both_loaders_and_the_check_agree_on_collected_files(
    folder: str, shared_data: Path
) -> None:
    files = sorted(f for f in (shared_data / folder).rglob("*") if "." in f.name and f.is_file())
    assert_all_agree(files[:: 8 if folder == "trashnet150" else 1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dali", "pillow"])
def test_each_collected_file_is_decoded_right_or_refused(kind: Kind, shared_data: Path) -> None:
    root = shared_data / "weird_jpegs"
    with (root / "MANIFEST.tsv").open(encoding="utf-8") as manifest:
        names = [row["file"] for row in csv.DictReader(manifest, delimiter="\t")]
    assert len(names) == 144
    right = 0
    for name in names:
        result, pixels = loaded(root, name, kind), expected((root / name).read_bytes())
        if isinstance(result, DecodeError):
            assert pixels is None or "giant" in name, f"{name} is refused"
            continue
        # Pillow's own way to turn images upright fails at some metadata; ours passes it over.
        if pixels is not None:
            assert np.abs(result - pixels).mean() <= 1, name
        right += 1
    assert right >= 110


def test_of_16_bits_the_8_high_ones_are_kept(tmp_path: Path) -> None:
    values = np.linspace(1024, 1284, 64 * 64).reshape(64, 64).astype(np.uint16)
    contents = {
        "grey.png": png16(values),
        "grey.pgm": b"P5 64 64 65535\n" + values.astype(">u2").tobytes(),
        "grey.tif": encoded(Image.fromarray(values), "TIFF"),
        "planar.tif": tiff(values.shape, 2, 16, [values.astype("<u2").tobytes()] * 3, packed=True),
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        location = Location(str(path), str(path))
        pixels = np.asarray(decode(location))
        assert np.array_equal(pixels, np.repeat((values >> 8)[..., None], 3, axis=2)), name
        highest = 1284 if name.startswith("grey") else 1284 | 255  # Pillow keeps the high bits
        expected_note = f"16 bits a channel, values 1024..{highest}"
        assert expected_note in inspect(location, MAX_PIXELS).suspicion


def test_transparency_is_ignored(tmp_path: Path) -> None:
    pixels = np.asarray(picture())
    for alpha in (0, 128):
        image = Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], alpha, np.uint8)]))
        (tmp_path / f"{alpha}.png").write_bytes(encoded(image, "PNG"))
        (tmp_path / f"{alpha}.webp").write_bytes(encoded(image, "WEBP", lossless=True, exact=True))
    for path in tmp_path.iterdir():
        assert np.array_equal(np.asarray(decode(Location(str(path), str(path)))), pixels), path


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
@pytest.mark.parametrize("kind", ["dali", "pillow"])
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
@pytest.mark.parametrize("kind", ["dali", "pillow"])
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
@pytest.mark.parametrize("kind", ["dali", "pillow"])
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
