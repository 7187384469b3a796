"""Pillow's pixels in DALI's batches, and batches decoded in parts."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from googlenet_fast.data import ImageDataset, LoaderOptions, build_loader
from googlenet_fast.data import pillow_instead as pillow_instead_module
from googlenet_fast.data.headers import Look
from googlenet_fast.data.reading import DecodeError
from googlenet_fast.data.shard_writer import Shard, write_shard
from googlenet_fast.data.shards import read_shards
from googlenet_fast.model.presets import Normalization
from tests.data.odd_images import encoded, misread_images, picture, unreadable_images

dali = pytest.importorskip("googlenet_fast.data.dali")

GREY_LEVELS = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "RGB")
OPTIONS: dict[str, Any] = {
    "train": True, "batch_size": 6, "image_size": 24, "normalization": GREY_LEVELS,
    "num_workers": 1, "drop_last": False, "kind": "dali",
}  # fmt: skip


def written(root: Path, contents: list[bytes]) -> ImageDataset:
    files = [f"{i}.jpg" for i in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        (root / file).write_bytes(content)
    return ImageDataset(root, files, np.arange(len(files)), tuple(files), root)


def mixed(root: Path) -> ImageDataset:
    """Ordinary JPEGs and files that DALI refuses, in turn."""
    odd = misread_images()
    refused = [odd["4-bit TIFF"], odd["junk between markers"], odd["4-bit TIFF"]]
    return written(root, [c for content in refused for c in (encoded(picture()), content)] * 2)


def epochs(dataset: ImageDataset, count: int = 2, **options: Any) -> list[torch.Tensor]:
    """Images of each epoch."""
    loader = build_loader(dataset, LoaderOptions(**{**OPTIONS, **options}))
    found = []
    for epoch in range(count):
        loader.set_epoch(epoch)
        found.append(torch.cat([images for images, _ in loader]))
    return found


@pytest.mark.parametrize("train", [True, False])
def test_what_dali_refuses_unforeseen_is_decoded_by_pillow(
    train: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    dataset = mixed(tmp_path)
    expected = epochs(dataset, train=train)
    assert caplog.messages == [
        "6 of 12 images were decoded by Pillow, since DALI refuses or misreads such files: "
        "4 TIFFs, 2 JPEGs with junk or without an end"
    ]
    caplog.clear()
    monkeypatch.setattr(pillow_instead_module, "look", lambda content: Look(100, None))
    for ours, theirs in zip(epochs(dataset, train=train), expected, strict=True):
        assert len(ours) == len(dataset)
        assert (ours - theirs).abs().mean(dim=(1, 2, 3)).max() <= 1
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("6 of 12 images were decoded by Pillow")


@pytest.mark.parametrize("train", [True, False])
def test_shards_hold_odd_files_too(train: bool, tmp_path: Path) -> None:
    dataset = mixed(tmp_path)
    locations = [dataset.location(i) for i in range(len(dataset))]
    write_shard(Shard("x.tar", 0, locations, dataset.labels), tmp_path, None)
    images = read_shards(tmp_path / "x.tar", [tmp_path / "x.tar"])
    sharded = ImageDataset.from_image_list(images, None, dataset.class_names)
    for ours, theirs in zip(
        epochs(sharded, train=train), epochs(dataset, train=train), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("train", [True, False])
def test_a_batch_decoded_in_parts_is_the_same(
    train: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = mixed(tmp_path)
    expected = epochs(dataset, train=train)
    for limit in (1, 40_000):
        monkeypatch.setattr(dali, "PIXELS_TOGETHER", limit)
        for ours, theirs in zip(epochs(dataset, train=train), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_parts() -> None:
    megapixels = np.array([12, 12, 12, 90, 90, 1, 1, 1, 120, 1]) * 1_000_000
    assert dali._part_starts(megapixels, 100_000_000, 1) == [0, 3, 4, 8, 9]
    assert dali._part_starts(megapixels, 100_000_000, 4) == [0, 4, 8]
    assert dali._part_starts(megapixels, 1_000_000_000, 1) == [0]


def test_what_pillow_refuses_stops_the_run_also_if_dali_would_read_it(tmp_path: Path) -> None:
    contents = [encoded(picture())] * 7 + [unreadable_images()["segment longer than the file.jpg"]]
    with pytest.raises(DecodeError, match=r"7\.jpg: cannot be read as an image"):
        epochs(written(tmp_path, contents))
