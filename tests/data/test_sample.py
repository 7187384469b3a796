from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from googlenet_fast.data import find_splits, sample_dataset
from googlenet_fast.errors import UserError
from tests.engine.runs import finish, in_environment, warm_process


def test_all_digits_are_there_stratified_and_as_they_were() -> None:
    folder = sample_dataset()
    train, val = find_splits(folder)
    digits = load_digits()
    for label in range(10):
        total = int((digits.target == label).sum())
        assert (val.labels == label).sum() == round(0.2 * total)
        assert (train.labels == label).sum() == total - round(0.2 * total)
    for split in (train, val):
        for i in np.random.default_rng().choice(len(split), 20, replace=False):
            path = Path(split.path(i))
            original = int(path.stem)
            assert digits.target[original] == split.labels[i]
            with Image.open(path) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))
                small = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX))
            assert np.abs(small / 255 * 16 - digits.images[original]).mean() < 1.5


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
    with pytest.raises(UserError, match="set GOOGLENET_FAST_CACHE"):
        sample_dataset()
