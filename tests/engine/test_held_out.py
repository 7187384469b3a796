"""A run's validation images are found again in its folder, changed, copied, or in shards."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from googlenet_fast.data import ImageDataset, find_splits
from googlenet_fast.data.shard_writer import write_shards
from googlenet_fast.data.splits import hold_out, open_dataset
from googlenet_fast.engine.checkpoint import save_checkpoint
from googlenet_fast.engine.held_out import HeldOut


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Two classes of 40 and 20 images in folders below, with the same names in some of them."""
    for name, count in (("rose", 40), ("tulip", 20)):
        for i in range(count):
            stem = f"{i:03}" if i >= 8 else f"{i // 2}"  # of the first eight, two have each name
            path = tmp_path / "flowers" / name / f"day {i % 2}" / f"{stem}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * (i + 1))
    return tmp_path / "flowers"


def of(dataset: ImageDataset) -> set[str]:
    return set(dataset.files)


def contents(dataset: ImageDataset) -> list[bytes]:
    return sorted(dataset.location(i).read() for i in range(len(dataset)))


@pytest.fixture
def held_out(flowers: Path, tmp_path: Path) -> HeldOut:
    """As it comes back from a checkpoint."""
    recorded = HeldOut.of(find_splits(flowers))
    assert recorded is not None
    save_checkpoint(tmp_path / "best.pt", {"held_out": recorded.state()})
    read = HeldOut.read(tmp_path / "best.pt")
    assert read is not None
    return read


def test_the_same_images_in_the_same_order(flowers: Path, held_out: HeldOut) -> None:
    expected = find_splits(flowers)
    for folder in (flowers, Path(shutil.copytree(flowers, flowers.with_name("copy")))):
        found = held_out.split(open_dataset(folder))
        assert found is not None
        assert found.note is None
        assert found.splits.val.files == expected.val.files
        assert found.splits.train.files == expected.train.files
        assert held_out.warning(open_dataset(folder)) is not None


def test_a_changed_folder_never_gives_training_images(flowers: Path, held_out: HeldOut) -> None:
    """New images, lost ones, and names that come before all others, which move every choice."""
    before = find_splits(flowers)
    (flowers / before.val.files[0]).unlink()
    for i in range(30):
        (flowers / "rose" / f"0 new {i}.jpg").touch()
    changed = open_dataset(flowers)
    assert of(hold_out(changed).val) & of(before.train)  # what a new choice would do
    found = held_out.split(changed)
    assert found is not None
    assert found.note is not None
    assert "flowers has changed since" in found.note
    assert "it had 60 images, now 89; " in found.note
    assert of(found.splits.val) <= of(before.val)
    assert len(found.splits.val) >= 3  # some have the name of a training image in another folder
    again = HeldOut.of(found.splits)
    assert again is not None
    assert again.digest == ""
    repeated = again.split(changed)
    assert repeated is not None
    assert repeated.splits.val.files == found.splits.val.files


def test_other_images_of_the_same_names_are_not_the_runs(
    flowers: Path, held_out: HeldOut, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    held = next(file for file in find_splits(flowers).val.files if len(Path(file).stem) == 3)
    for file in ("rose/99.jpg", "tulip/99.jpg", held):
        (other / file).parent.mkdir(parents=True, exist_ok=True)
        (other / file).touch()
    assert held_out.split(open_dataset(other)) is None
    warning = held_out.warning(open_dataset(other))
    assert warning is not None
    assert "1 of its images are named like validation images of the run" in warning


@pytest.mark.parametrize("pattern", ["", "*.tar"])
def test_shards_of_the_folder(
    pattern: str, flowers: Path, held_out: HeldOut, tmp_path: Path
) -> None:
    """As a folder with validation shards, and all shards together."""
    splits = find_splits(flowers)
    out = tmp_path / "shards"
    write_shards(splits._asdict(), out, shard_size=25, resizing=None, num_workers=1)
    opened = open_dataset(out / pattern)
    assert opened.split == ("all" if pattern else "val")
    found = held_out.split(opened)
    assert found is not None
    if not pattern:
        assert found.note is None
        assert contents(found.splits.val) == contents(splits.val)
        return
    assert found.note is not None
    assert "1 of the run's 6 validation images are named like training images" in found.note
    assert set(contents(found.splits.val)) < set(contents(splits.val))
    assert len(found.splits.val) == 5


def test_datasets_with_validation_images_and_other_weights_say_nothing(
    flowers: Path, tmp_path: Path
) -> None:
    splits = find_splits(flowers)
    for name, part in (("train", splits.train), ("val", splits.val)):
        for file in part.files:
            (tmp_path / "divided" / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "divided" / name / file).touch()
    assert HeldOut.of(find_splits(tmp_path / "divided")) is None
    save_checkpoint(tmp_path / "last.pt", {"held_out": None})
    assert HeldOut.read(tmp_path / "last.pt") is None
    (tmp_path / "x.safetensors").write_bytes(b"\0" * 20)
    for weights in ("x.safetensors", "nowhere.pt"):
        with pytest.raises(LookupError):
            HeldOut.read(tmp_path / weights)


def test_joined_parts_are_the_whole(flowers: Path, tmp_path: Path) -> None:
    splits = find_splits(flowers)
    both = splits.train.joined(splits.val)
    assert of(both) == of(open_dataset(flowers))
    write_shards(splits._asdict(), tmp_path / "shards", shard_size=25, resizing=None, num_workers=1)
    joined = (lambda parts: parts.train.joined(parts.val))(find_splits(tmp_path / "shards"))
    assert contents(joined) == contents(both)
    assert np.bincount(joined.labels).tolist() == [40, 20]
