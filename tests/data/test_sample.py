import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from googlenet_fast.data import find_splits, sample_dataset
from googlenet_fast.data.sample import DIGITS
from googlenet_fast.errors import GoogLeNetError
from tests.engine.runs import finish, in_environment, warm_process


def digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    with np.load(DIGITS) as arrays:
        return arrays["images"], arrays["labels"]


def test_the_digits_are_those_of_scikit_learn() -> None:
    """The digest is of load_digits() in scikit-learn 1.9: images as uint8, then target as uint8."""
    images, labels = digits()
    assert (images.shape, images.dtype) == ((1797, 8, 8), np.uint8)
    assert (labels.shape, labels.dtype) == ((1797,), np.uint8)
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() == (
        "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    )


def test_all_digits_are_there_stratified_and_as_they_were() -> None:
    folder = sample_dataset()
    train, val = find_splits(folder)
    images, labels = digits()
    for label in range(10):
        total = int((labels == label).sum())
        assert (val.labels == label).sum() == round(0.2 * total)
        assert (train.labels == label).sum() == total - round(0.2 * total)
    for split in (train, val):
        for i in np.random.default_rng().choice(len(split), 20, replace=False):
            path = Path(split.path(i))
            original = int(path.stem)
            assert labels[original] == split.labels[i]
            with Image.open(path) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))
                small = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX))
            assert np.abs(small / 255 * 16 - images[original]).mean() < 1.5


def test_class_folders_and_lists_say_the_same() -> None:
    folder = sample_dataset()
    for split, listed in zip(("train", "val"), find_splits(folder), strict=True):
        files = sorted(str(p.relative_to(folder)) for p in (folder / split).rglob("*.jpg"))
        assert files == sorted(listed.files)


@pytest.mark.slow
def test_processes_that_write_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    cache = {"GOOGLENET_FAST_CACHE": str(tmp_path)}
    finish(*(warm_process(in_environment, cache, sample_dataset) for _ in range(3)))
    (folder,) = tmp_path.iterdir()
    train, val = find_splits(folder)
    assert len(train) + len(val) == 1797


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(GoogLeNetError, match="set GOOGLENET_FAST_CACHE"):
        sample_dataset()
