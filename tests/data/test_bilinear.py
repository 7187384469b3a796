"""The filters of both loaders, against cv2's formula, cv2 and Pillow themselves."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from googlenet_fast.data import Augmentation, ImageDataset, LoaderOptions, build_loader
from googlenet_fast.data.bilinear import CenterCrop, center_crop, cv2_bilinear
from googlenet_fast.data.loader import Kind
from googlenet_fast.model.preprocessing import Resize
from googlenet_fast.model.presets import Normalization

Pixels = NDArray[np.uint8]
GREY_LEVELS = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "RGB")
SIZES = [(90, 70), (64, 64), (71, 133), (200, 31), (40, 45), (300, 203), (33, 180), (97, 96)]


def noise(height: int, width: int) -> Pixels:
    """Neighbouring pixels differ, so that filters do too."""
    generator = np.random.default_rng(height * width)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def formula(pixels: Pixels, height: int, width: int) -> NDArray[np.float64]:
    """cv2's INTER_LINEAR, pixel by pixel as in OpenCV's documentation, in float64."""
    result = np.empty((height, width, 3))
    rows, columns = pixels.shape[:2]
    for i in range(height):
        y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
        top, bottom = math.floor(y), min(math.floor(y) + 1, rows - 1)
        for j in range(width):
            x = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
            left, right = math.floor(x), min(math.floor(x) + 1, columns - 1)
            fx, fy = x - left, y - top
            upper = (1 - fx) * pixels[top, left] + fx * pixels[top, right]
            lower = (1 - fx) * pixels[bottom, left] + fx * pixels[bottom, right]
            result[i, j] = (1 - fy) * upper + fy * lower
    return result


def paddleclas(pixels: Pixels, resize_size: int, crop: int) -> NDArray[np.float64]:
    """PaddleClas's ResizeImage(resize_short) and CropImage, on cv2's formula."""
    height, width = pixels.shape[:2]
    percent = float(resize_size) / min(width, height)
    w, h = int(round(width * percent)), int(round(height * percent))  # noqa: RUF046
    left, top = (w - crop) // 2, (h - crop) // 2
    return formula(pixels, h, w)[top : top + crop, left : left + crop]


@pytest.mark.parametrize(("height", "width"), [(30, 41), (16, 16), (7, 90), (50, 24)])
def test_cv2s_formula(height: int, width: int) -> None:
    pixels = noise(height, width)
    ours = cv2_bilinear(pixels, 24, CenterCrop(0, height / 24), CenterCrop(0, width / 24))
    difference = np.abs(ours - formula(pixels, 24, 24))
    assert difference.mean() < 0.3  # rounding to a grey level is 0.25
    assert difference.max() < 1


@pytest.mark.parametrize(("height", "width"), [(375, 500), (100, 131), (512, 512), (31, 200)])
def test_cv2_itself(height: int, width: int) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = noise(height, width)
    rows, columns = (
        center_crop(side, min(height, width), 64, 48, "cv2") for side in (height, width)
    )
    h, w = round(height / rows.scale), round(width / columns.scale)
    theirs = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_LINEAR)
    theirs = theirs[rows.start : rows.start + 48, columns.start : columns.start + 48]
    difference = np.abs(cv2_bilinear(pixels, 48, rows, columns).astype(int) - theirs)
    assert difference.mean() < 0.01
    assert difference.max() <= 1


def test_where_the_centre_is_cut() -> None:
    """Of 683 x 500 pixels resized to 350 x 256, as PaddleClas and torchvision do."""
    assert center_crop(683, 500, 256, 225, "cv2") == (62, 683 / 350)
    assert center_crop(683, 500, 256, 225, "antialias") == (62, 683 / 349)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Losslessly stored images, so that decoders do not differ."""
    root = tmp_path_factory.mktemp("noisy")
    (root / "class").mkdir()
    for i, (width, height) in enumerate(SIZES):
        Image.fromarray(noise(height, width)).save(root / "class" / f"{i}.png")
    return ImageDataset.from_folder(root)


def batch(
    kind: Kind, dataset: ImageDataset, *, train: bool = False, resize: Resize, size: int = 55
) -> torch.Tensor:
    """All images in one batch, in the order of the dataset."""
    pytest.importorskip("nvidia.dali" if kind == "dali" else "PIL")
    options = LoaderOptions(
        train=train, kind=kind, batch_size=len(SIZES), image_size=48, normalization=GREY_LEVELS,
        resize=resize, resize_size=None if train else size, num_workers=0, shuffle=False,
        augmentation=Augmentation(flip=0.0),
    )  # fmt: skip
    ((images, _),) = build_loader(dataset, options)
    return images


@pytest.mark.parametrize("size", [48, 55])
@pytest.mark.parametrize("kind", ["dali", "pillow"])
def test_both_loaders_resize_as_paddleclas(kind: Kind, size: int, noisy: ImageDataset) -> None:
    images = batch(kind, noisy, resize="cv2", size=size)
    for index, ours in enumerate(images.permute(0, 2, 3, 1).numpy()):
        with Image.open(noisy.path(index)) as image:
            expected = paddleclas(np.asarray(image), size, 48)
        difference = np.abs(ours - expected)
        assert difference.mean() < 0.3, SIZES[index]
        assert difference.max() < 1.5, SIZES[index]


@pytest.mark.parametrize("kind", ["dali", "pillow"])
def test_both_loaders_resize_as_pillow(kind: Kind, noisy: ImageDataset) -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2")
    transform = transforms.Compose(
        [transforms.Resize(55), transforms.CenterCrop(48), transforms.PILToTensor()]
    )
    differences = []
    for index, ours in enumerate(batch(kind, noisy, resize="pillow")):
        with Image.open(noisy.path(index)) as image:
            differences.append((ours - transform(image).float()).abs())
    assert torch.stack(differences).max() <= 1
    assert torch.stack(differences).mean() < 0.1  # antialias in DALI: 0.16


@pytest.mark.parametrize(("resize", "most"), [("cv2", 0.3), ("pillow", 0.5), ("antialias", 0.7)])
def test_training_crops_are_the_same_in_both_loaders(
    resize: Resize, most: float, noisy: ImageDataset
) -> None:
    """But at the border, where DALI repeats the last pixel and Pillow leaves the rest out."""
    ours, theirs = (batch(kind, noisy, train=True, resize=resize) for kind in ("dali", "pillow"))
    assert (ours - theirs).abs().mean(dim=(1, 2, 3)).max() < most


def test_filters_differ(noisy: ImageDataset) -> None:
    cv2, antialias = (batch("pillow", noisy, resize=r) for r in ("cv2", "antialias"))
    assert (cv2 - antialias).abs().mean() > 5
