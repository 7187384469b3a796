"""`python -m googlenet_fast.data shard`."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from googlenet_fast.data import ImageDataset, open_dataset, open_splits
from googlenet_fast.data.__main__ import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(run_main: Callable[..., tuple[int, str, str]]) -> Command:
    return lambda *arguments: run_main(main, "shard", *arguments, "--num-workers", 1)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """24 photos of two classes with names that are hard to write."""
    root = tmp_path / "birds"
    generator = np.random.default_rng(0)
    for i in range(24):
        folder = root / ("grey heron" if i % 2 else "Mönch")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (60 + i, 90, 3), dtype=np.uint8)
        name = f"ä {i:02}{'.in.parts.PNG' if i == 3 else '.JPEG'}"
        Image.fromarray(pixels).save(folder / name, quality=95)
    return root


def contents(dataset: ImageDataset) -> list[tuple[int, bytes]]:
    return sorted(
        (int(label), dataset.location(i).read()) for i, label in enumerate(dataset.labels)
    )


def test_bytes_labels_names_and_splits_survive(
    birds: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out of ä"
    status, stdout, _ = command(birds, out, "--shard-size", 8)
    assert status == 0
    assert "22 training and 2 validation images in 4 shards" in stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "class_names.txt", "train-000.tar", "train-001.tar", "train-002.tar", "val-000.tar",
    ]  # fmt: skip
    for written, original in zip(open_splits(out), open_splits(birds), strict=True):
        assert contents(written) == contents(original)
        assert written.class_names == original.class_names == ("Mönch", "grey heron")


def test_names_that_look_numbered_and_bytes_that_are_no_text(
    tmp_path: Path, command: Command
) -> None:
    names = [b"0  zero", b"1 one", b"2 \xff"]
    for name in names:
        folder = os.path.join(os.fsencode(tmp_path), b"photos", name)  # noqa: PTH118
        os.makedirs(folder)  # noqa: PTH103
        for i in range(3):
            Path(os.fsdecode(folder), f"{i} {os.fsdecode(name)}.jpg").write_bytes(b"any")
    assert command(tmp_path / "photos", tmp_path / "out")[0] == 0
    train, _ = open_splits(tmp_path / "out")
    assert train.class_names == ("0  zero", "1 one", "2 \\udcff")
    assert len(train) == 6


def test_training_images_are_shuffled_and_the_files_reproducible(
    birds: Path, tmp_path: Path, command: Command
) -> None:
    for name in ("a", "b"):
        assert command(birds, tmp_path / name)[0] == 0
    assert (tmp_path / "a" / "train-000.tar").read_bytes() == (
        tmp_path / "b" / "train-000.tar"
    ).read_bytes()
    labels = open_splits(tmp_path / "a").train.labels
    assert 4 < np.count_nonzero(np.diff(labels)) < 20


def test_larger_images_are_resized_as_evaluation_does_it(
    birds: Path, tmp_path: Path, command: Command
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    Image.new("RGB", (200, 100)).save(birds / "Mönch" / "turned.jpg", exif=exif)
    assert command(birds, tmp_path / "out", "--resize", 70, "--quality", 95)[0] == 0
    resized = 0
    for written, original in zip(open_splits(tmp_path / "out"), open_splits(birds), strict=True):
        by_stem = {Path(path).name.partition(".")[0]: i for i, path in enumerate(original.files)}
        for i, name in enumerate(written.files):
            before = original.location(by_stem[Path(name).stem.partition("_")[2]]).read()
            after = written.location(i).read()
            with Image.open(io.BytesIO(before)) as stored, Image.open(io.BytesIO(after)) as new:
                old = ImageOps.exif_transpose(stored)
                if min(old.size) <= 70:
                    assert after == before
                    continue
                width, height = (side * 70 // min(old.size) for side in old.size)
                assert new.size == (width, height)
                assert new.format == "JPEG"
                expected = old.resize(new.size, Image.Resampling.BILINEAR)
                assert np.abs(np.asarray(new, float) - np.asarray(expected, float)).mean() < 10
                resized += 1
    assert resized == 14


class TestSplit:
    """--split writes one part."""

    @pytest.fixture
    def divided(self, birds: Path, tmp_path: Path) -> Path:
        """Class folders in Train/ and valid/; the second has one of the two classes."""
        root = tmp_path / "divided"
        root.mkdir()
        birds.rename(root / "Train")
        (root / "valid").mkdir()
        (root / "Train" / "grey heron").rename(root / "valid" / "grey heron")
        (root / "Train" / "grey heron").mkdir()
        moved = root / "valid" / "grey heron" / "ä 01.JPEG"
        moved.rename(root / "Train" / "grey heron" / moved.name)
        return root

    def test_class_folders_without_a_held_out_part(
        self, birds: Path, tmp_path: Path, command: Command
    ) -> None:
        status, out, _ = command(birds, tmp_path / "out", "--split", "train")
        assert status == 0
        assert "24 training images in 1 shards" in out
        images = ImageDataset.from_list(tmp_path / "out" / "train-000.tar")
        assert contents(images) == contents(ImageDataset.from_folder(birds))
        assert images.class_names == ("Mönch", "grey heron")

    def test_one_after_the_other(self, divided: Path, tmp_path: Path, command: Command) -> None:
        assert command(divided, tmp_path / "both")[0] == 0
        for split in ("val", "train"):
            assert command(divided, tmp_path / "out", "--split", split)[0] == 0
        for name in ("train-000.tar", "val-000.tar", "class_names.txt"):
            both, single = (tmp_path / folder / name for folder in ("both", "out"))
            assert both.read_bytes() == single.read_bytes()
        status, _, stderr = command(divided, tmp_path / "out", "--split", "val")
        assert status == 2
        assert "holds shards already" in stderr

    def test_validation_images_alone(self, divided: Path, tmp_path: Path, command: Command) -> None:
        (divided / "Train").rename(tmp_path / "gone")
        status, _, stderr = command(divided, tmp_path / "out")
        assert status == 2
        assert "none to train on (data shard --split reads them)" in stderr
        assert command(divided, tmp_path / "out", "--split", "val")[0] == 0
        assert len(open_dataset(tmp_path / "out")) == 11
        status, _, stderr = command(divided, tmp_path / "more", "--split", "test")
        assert status == 2
        assert f"{divided}: has val images, but no test images" in stderr

    def test_lists(self, birds: Path, tmp_path: Path, command: Command) -> None:
        files = sorted(birds.rglob("*.*"))
        lines = [f"{f.relative_to(birds)}\t{1 + ('heron' in str(f))}\n" for f in files]
        (tmp_path / "train.txt").write_text("".join(lines[3:]))
        (tmp_path / "test.txt").write_text("".join(lines[:3]))
        how = ("--root", birds, "--relabel")
        assert command(tmp_path / "train.txt", tmp_path / "out", "--split", "train", *how)[0] == 0
        status, out, _ = command(tmp_path / "test.txt", tmp_path / "out", "--split", "val", *how)
        assert status == 0
        assert "3 validation images" in out
        train, val = open_splits(tmp_path / "out")
        assert (len(train), len(val)) == (21, 3)
        assert train.class_names == ("Mönch", "grey heron")
        assert val.labels.tolist() == [0, 0, 0]
        assert command(tmp_path / "train.txt", tmp_path / "held out", *how)[0] == 0
        assert [len(part) for part in open_splits(tmp_path / "held out")] == [19, 2]

    def test_shards_of_other_classes_are_not_mixed(
        self, birds: Path, tmp_path: Path, command: Command
    ) -> None:
        assert command(birds, tmp_path / "out", "--split", "train")[0] == 0
        (birds / "Mönch").rename(birds / "nun")
        status, _, stderr = command(birds, tmp_path / "out", "--split", "val")
        assert status == 2
        assert "nun: a class that is not among the 2 expected" in stderr
        names = tmp_path / "names.txt"
        names.write_text("grey heron\nnun\n")
        status, _, stderr = command(
            birds, tmp_path / "out", "--split", "val", "--class-names", names
        )
        assert status == 2
        assert "class_names.txt: names other classes" in stderr


def test_of_16_bits_resizing_keeps_the_8_high_ones(
    birds: Path, tmp_path: Path, command: Command
) -> None:
    values = np.full((90, 90), 120 << 8 | 255, np.uint16)
    Image.fromarray(values).save(birds / "grey heron" / "16 bits.png")
    assert command(birds, tmp_path / "out", "--resize", 70)[0] == 0
    grey = []
    for dataset in open_splits(tmp_path / "out"):
        for i, file in enumerate(dataset.files):
            if "16 bits" in file:
                grey.append(Image.open(io.BytesIO(dataset.location(i).read())))
    assert [image.size for image in grey] == [(70, 70)]
    assert grey[0].getextrema() in ((120, 120), ((120, 120),) * 3)


@pytest.mark.slow
def test_several_processes_write_the_same(
    birds: Path, tmp_path: Path, command: Command, run_main: Command
) -> None:
    assert command(birds, tmp_path / "one", "--shard-size", 11)[0] == 0
    arguments = ["shard", birds, tmp_path / "two", "--shard-size", 11, "--num-workers", 2]
    assert run_main(main, *arguments)[0] == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_shards_do_not_go_among_the_images(birds: Path, run_main: Command) -> None:
    status, _, stderr = run_main(main, "shard", birds, birds)
    assert status == 2
    assert stderr == f"error: {birds}: holds the images; choose another folder\n"


def test_shards_can_be_written_from_shards(birds: Path, tmp_path: Path, command: Command) -> None:
    assert command(birds, tmp_path / "big")[0] == 0
    assert command(tmp_path / "big", tmp_path / "small", "--shard-size", 5, "--resize", 64)[0] == 0
    train, _ = open_splits(tmp_path / "small")
    assert len(train) == 22
    assert train.class_names == ("Mönch", "grey heron")


@pytest.mark.slow
def test_a_damaged_image_leaves_no_shards(birds: Path, tmp_path: Path, run_main: Command) -> None:
    victim = birds / "grey heron" / "ä 05.JPEG"
    victim.write_bytes(victim.read_bytes()[:900])
    status, _, stderr = run_main(
        main, "shard", birds, tmp_path / "out", "--resize", 32, "--shard-size", 12,
        "--num-workers", 2,
    )  # fmt: skip
    assert status == 2
    assert stderr.splitlines()[-1].startswith(f"error: {victim}: cannot be read as an image")
    assert list((tmp_path / "out").iterdir()) == []


def test_mistakes(birds: Path, tmp_path: Path, command: Command) -> None:
    assert command(birds, tmp_path / "done")[0] == 0
    (tmp_path / "file").touch()
    for arguments, expected in (
        ([tmp_path / "no", tmp_path / "out"], "no: no such dataset folder"),
        ([birds, tmp_path / "done"], "done: holds shards already; choose another folder"),
        ([birds, tmp_path / "file" / "out"], "out: cannot be written to (Not a directory)"),
        ([birds, tmp_path / "out", "--shard-size", "0"], "--shard-size 0: must be more than 0"),
        ([birds, tmp_path / "out", "--quality", "101"], "--quality 101: must be 1 to 100"),
        ([birds, tmp_path / "out", "--resise", "9"], "did you mean --resize-size?"),
    ):
        status, _, stderr = command(*arguments)
        assert status == 2
        assert stderr.startswith("error: ")
        assert stderr.count("\n") == 1
        assert expected in stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    content = io.BytesIO()
    Image.new("RGB", (1200, 900)).save(content, "JPEG")
    for i in range(200):
        (photos / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (photos / "ab"[i % 2] / f"{i}.jpg").write_bytes(content.getvalue())
    arguments = ["shard", str(photos), str(out), "--num-workers", "2", "--resize", "300"]
    process = subprocess.Popen(
        [sys.executable, "-m", "googlenet_fast.data", *arguments], stderr=subprocess.PIPE, text=True
    )
    while not any(out.glob("*/*.tar")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "resource_tracker" not in stderr
    assert list(out.iterdir()) == []
