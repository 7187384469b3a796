"""Images that cannot be read: the same ones dropped everywhere, counted and listed."""

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from googlenet_fast.data import unreadable
from googlenet_fast.engine.checkpoint import load_checkpoint
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.trainer import Trainer
from googlenet_fast.errors import GoogLeNetError
from tests.engine.runs import Run

ALONE = Process(0, 1, 0, 1, torch.device("cpu"))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Class folders in which three of the training images and one of the others are damaged."""
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    root = tmp_path / "photos ä"
    for split, count in (("train", 20), ("val", 4)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize((70, 66))
                image.save(root / split / name / f"{i:02}.jpg")
    for file in ("train/cat/03.jpg", "train/dog/00.jpg", "val/cat/01.jpg"):
        content = (root / file).read_bytes()
        (root / file).write_bytes(content[: len(content) // 2])
    (root / "train/dog/19.jpg").write_bytes(b"")
    return root


def make_trainer(photos: Path, output: Path, *more: str) -> Trainer:
    arguments = [
        "-c", "digits", "--data", str(photos), "--output", str(output), "--epochs", "1",
        "--data.batch_size", "4", "--device", "cpu", "--data.num_workers", "1", *more,
    ]  # fmt: skip
    return Trainer(load_config(arguments), ALONE)


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["dali", "pillow"])
def test_skipped_images_are_counted_and_listed(loader: str, photos: Path, tmp_path: Path) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    output = tmp_path / "run"
    more = ("--bad-images", "skip", "--data.loader", loader)
    with closing(make_trainer(photos, output, *more)) as trainer:
        assert len(trainer.splits.train) == 37
        assert len(trainer.splits.val) == 7
        result = trainer.run()
    assert result is not None
    assert result["bad_images"] == 4
    listed = (output / "bad_images.txt").read_text(encoding="utf-8").splitlines()
    paths, reasons = zip(*(line.split("\t") for line in listed), strict=True)
    names = ("train/cat/03.jpg", "train/dog/00.jpg", "train/dog/19.jpg", "val/cat/01.jpg")
    assert list(paths) == [str(photos / name) for name in names]
    assert all(reasons)


@pytest.mark.slow
def test_two_processes_and_a_resumed_run_leave_out_the_same(photos: Path, tmp_path: Path) -> None:
    """The 37 images that can be read are four steps of two processes with four each."""
    output = tmp_path / "run"
    command = [
        "-c", "digits", "--data", str(photos), "--output", str(output), "--device", "cpu",
        "--data.batch_size", "4", "--data.num_workers", "1", "--bad-images", "skip",
        "--resume", "auto",
    ]  # fmt: skip
    listed = []
    for epochs in ("1", "2"):
        Run(tmp_path / "log", [*command, "--epochs", epochs], world_size=2).finish()
        listed.append((output / "bad_images.txt").read_text(encoding="utf-8"))
        assert load_checkpoint(output / "last.pt")["step"] == 4 * int(epochs)
    names = [Path(line.split("\t")[0]).name for line in listed[0].splitlines()]
    assert names == ["03.jpg", "00.jpg", "19.jpg", "01.jpg"]
    assert listed[0] == listed[1]
    assert "4 images cannot be read and are skipped" in (tmp_path / "log").read_text()


def test_what_was_read_is_remembered_until_it_changes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trainer(photos, tmp_path / "first", "--bad-images", "skip").close()
    read = []
    why_unreadable = unreadable.why_unreadable

    def note_and_ask(image: unreadable.Location, max_pixels: int) -> str | None:
        read.append(Path(image.file).relative_to(photos).as_posix())
        return why_unreadable(image, max_pixels)

    monkeypatch.setattr(unreadable, "why_unreadable", note_and_ask)
    shutil.copyfile(photos / "train/cat/04.jpg", photos / "train/cat/03.jpg")
    (photos / "train/cat/05.jpg").write_bytes(b"no image")
    with closing(make_trainer(photos, tmp_path / "second", "--bad-images", "skip")) as trainer:
        assert len(trainer.splits.train) == 37
    changed = ["train/cat/03.jpg", "train/cat/05.jpg"]
    assert read == [*changed, "train/dog/00.jpg", "train/dog/19.jpg", "val/cat/01.jpg"]


def test_without_skipping_the_file_is_named(photos: Path, tmp_path: Path) -> None:
    with (
        closing(make_trainer(photos, tmp_path / "run")) as trainer,
        pytest.raises(GoogLeNetError, match=r"(03|00|19)\.jpg: cannot be read as an image"),
    ):
        trainer.run()
    assert not (tmp_path / "run" / "bad_images.txt").exists()


def test_a_dataset_without_one_good_image(photos: Path, tmp_path: Path) -> None:
    for file in (photos / "val").rglob("*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(GoogLeNetError, match="val: none of its 8 images can be read"):
        make_trainer(photos, tmp_path / "run", "--bad-images", "skip")
