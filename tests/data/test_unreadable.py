"""Reading past images that cannot be decoded."""

from pathlib import Path

import numpy as np
import pytest
import torch

from googlenet_fast.data import ImageDataset, LoaderOptions, build_loader
from googlenet_fast.data.loader import Kind, readable_batches
from googlenet_fast.data.reading import DecodeError
from googlenet_fast.data.unreadable import find_unreadable
from googlenet_fast.model.presets import IMAGENET_RGB

BAD = (0, 5, 6, 7, 11)


@pytest.fixture(params=["dali", "pillow"])
def options(request: pytest.FixtureRequest) -> LoaderOptions:
    pytest.importorskip("nvidia.dali" if request.param == "dali" else "PIL")
    kind: Kind = request.param
    return LoaderOptions(
        train=False, kind=kind, batch_size=4, image_size=32, normalization=IMAGENET_RGB,
        num_workers=0,
    )  # fmt: skip


@pytest.fixture
def damaged(photos: ImageDataset, tmp_path: Path) -> ImageDataset:
    """Twelve of the photos, of which some are no images: a first, a last and several in a row."""
    for i in range(12):
        content = Path(photos.path(i)).read_bytes()
        (tmp_path / f"{i}.jpg").write_bytes(content[: len(content) // 2] if i in BAD else content)
    files = [f"{i}.jpg" for i in range(12)]
    return ImageDataset(tmp_path, files, photos.labels[:12], photos.class_names, tmp_path)


def test_each_image_comes_once_or_is_named(
    options: LoaderOptions, damaged: ImageDataset, photos: ImageDataset
) -> None:
    images: dict[int, torch.Tensor] = {}
    errors: dict[int, DecodeError] = {}
    for indices, result in readable_batches(damaged, options):
        for i, index in enumerate(indices.tolist()):
            assert index not in images | errors
            if isinstance(result, DecodeError):
                errors[index] = result
            else:
                images[index] = result[i]
    assert sorted(errors) == list(BAD)
    assert sorted(images | errors) == list(range(12))
    for index, error in errors.items():
        assert str(error).startswith(f"{damaged.path(index)}: cannot be read")
    expected = torch.cat([batch for batch, _ in build_loader(photos, options)])
    for index, image in images.items():
        assert torch.equal(image, expected[index])


def test_progress_and_reasons(options: LoaderOptions, damaged: ImageDataset) -> None:
    progress: list[int] = []
    wanted = np.array([0, 1, 2, 5, 8])
    bad = find_unreadable(damaged, wanted, options, advance=progress.append)
    assert list(bad) == [0, 5]
    assert all(bad.values())
    twice = options.kind == "dali"  # Pillow reads all, then DALI what Pillow could read
    assert sum(progress) == len(wanted) * (1 + twice) + len(bad) * (not twice)
