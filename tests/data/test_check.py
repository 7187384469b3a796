"""`python -m googlenet_fast.data check` as a user meets it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from googlenet_fast.data.__main__ import main
from googlenet_fast.data.worker_processes import CHUNK

Command = Callable[..., tuple[int, str, str]]


def test_bad_duplicate_and_suspicious_images(tmp_path: Path, run_main: Command) -> None:
    generator = np.random.default_rng(0)
    for name in ("a", "b ü"):
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.jpg")
    assert run_main(main, "check", tmp_path)[0] == 0
    (tmp_path / "b ü" / "9.jpg").write_bytes((tmp_path / "a" / "1.jpg").read_bytes())
    (tmp_path / "a" / "2.jpg").write_bytes(b"GIF89a")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a" / "red.png")
    status, out, _ = run_main(main, "check", tmp_path, "--num-workers", "1")
    assert status == 1
    *lines, summary = out.splitlines()
    assert [line for line in lines if not line.startswith("class: ")] == [
        f"bad: {tmp_path}/a/2.jpg: GIF is not supported, convert it to JPEG or PNG",
        f"duplicate: {tmp_path}/a/1.jpg (a) = {tmp_path}/b ü/9.jpg (b ü)",
        f"suspicious: {tmp_path}/a/red.png: one colour only",
    ]
    assert summary == (
        "8 images in 2 classes: 1 bad, 1 with the same bytes under different labels, "
        "0 in two parts, 0 similar to one in another part, 1 suspicious"
    )


def photo(path: Path, seed: int, size: tuple[int, int] = (90, 60), quality: int = 95) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((180, 120), Image.Resampling.BICUBIC)
    smooth.resize(size).save(path, quality=quality)


class TestParts:
    """Images that are in two parts of a dataset, and classes."""

    def test_duplicates_across_parts(self, tmp_path: Path, run_main: Command) -> None:
        for split, seeds in (("Train", range(8)), ("valid", range(8, 12)), ("test", range(12, 14))):
            for seed in seeds:
                photo(tmp_path / split / "ab"[seed % 2] / f"{seed}.jpg", seed)
        copied = tmp_path / "valid" / "b" / "copy.jpg"
        copied.write_bytes((tmp_path / "Train" / "b" / "3.jpg").read_bytes())
        photo(tmp_path / "valid" / "a" / "smaller.jpg", 4, (70, 50), 60)
        photo(tmp_path / "test" / "a" / "again.jpg", 8, (180, 120))
        status, out, _ = run_main(main, "check", tmp_path, "--num-workers", "1")
        assert status == 0
        lines = [line for line in out.splitlines()[:-1] if not line.startswith("class: ")]
        assert lines == [
            f"in two parts: {tmp_path}/Train/b/3.jpg (train, b) = {copied} (val, b)",
            f"similar: {tmp_path}/valid/a/smaller.jpg (val, a) ~ "
            f"{tmp_path}/Train/a/4.jpg (train, a)",
            f"similar: {tmp_path}/test/a/again.jpg (test, a) ~ {tmp_path}/valid/a/8.jpg (val, a)",
        ]
        assert "1 in two parts, 2 similar to one in another part" in out

    def test_the_held_out_tenth_is_a_part(self, tmp_path: Path, run_main: Command) -> None:
        for seed in range(20):
            photo(tmp_path / "a" / f"{seed:02}.jpg", seed)
            photo(tmp_path / "b" / f"{seed:02}.jpg", 100)
        _, out, _ = run_main(main, "check", tmp_path, "--num-workers", "1")
        (line,) = (line for line in out.splitlines() if line.startswith("in two parts: "))
        assert line.count("(val, b)") == 2
        assert line.count("(train, b)") == 18

    def test_lists_and_shards_have_the_classes_of_training(
        self, tmp_path: Path, run_main: Command
    ) -> None:
        for seed in range(24):
            photo(tmp_path / "images" / "ab"[seed % 2] / f"{seed}.jpg", seed)
        (tmp_path / "images" / "a" / "22.jpg").rename(tmp_path / "images" / "22.jpg")
        lines = [f"{'ab'[seed % 2]}/{seed}.jpg {seed % 2}\n" for seed in range(24)]
        (tmp_path / "images" / "train_list.txt").write_text("".join(lines[:22]))
        (tmp_path / "images" / "val_list.txt").write_text(lines[23] + "22.jpg 0\n")
        assert (
            run_main(main, "shard", tmp_path / "images", tmp_path / "out", "--num-workers", "1")[0]
            == 0
        )
        for source in ("images", "out"):
            status, out, _ = run_main(main, "check", tmp_path / source, "--num-workers", "1")
            assert status == 0
            assert out.startswith("24 images in 2 classes: 0 bad")

    def test_classes_to_look_at(self, tmp_path: Path, run_main: Command) -> None:
        for i in range(60):
            photo(tmp_path / "train" / "many" / f"{i}.jpg", i)
        for i in range(5):
            photo(tmp_path / "train" / "few" / f"{i}.jpg", 60 + i)
        photo(tmp_path / "val" / "many" / "x.jpg", 70)
        photo(tmp_path / "val" / "new" / "x.jpg", 71)
        _, out, _ = run_main(main, "check", tmp_path, "--num-workers", "1")
        assert [line for line in out.splitlines() if line.startswith("class: ")] == [
            "class: few: has 5 images in train",
            "class: few: has no image in val",
            "class: new: has images in val, but none in train",
            "class: imbalance: 60 images of many, 5 of few",
        ]

    def test_what_cannot_be_used_is_a_line(self, tmp_path: Path, run_main: Command) -> None:
        photo(tmp_path / "photos" / "a" / "1.jpg", 1)
        photo(tmp_path / "photos" / "b" / "1.jpg", 2)
        (tmp_path / "photos" / "c").mkdir()
        status, out, _ = run_main(main, "check", tmp_path / "photos", "--num-workers", "1")
        assert status == 1
        assert f"unusable: {tmp_path}/photos/c: this class folder holds no image" in out
        assert "2 images in 2 classes: 0 bad" in out
        assert "; 1 folders or files unusable" in out

        (tmp_path / "photos" / "train_list.txt").write_text("a/1.jpg 0\nb/1.jpg 1\n")
        (tmp_path / "photos" / "val_list.txt").write_text("gone.jpg 0\n")
        status, out, _ = run_main(main, "check", tmp_path / "photos", "--num-workers", "1")
        assert status == 1
        assert f"unusable: {tmp_path}/photos/val_list.txt, line 1: there is no file" in out
        assert "2 images in 2 classes: 0 bad" in out

        (tmp_path / "photos" / "val_list.txt").unlink()
        assert (
            run_main(
                main,
                "shard",
                tmp_path / "photos",
                tmp_path / "out",
                "--split",
                "train",
                "--num-workers",
                "1",
            )[0]
            == 0
        )
        (tmp_path / "out" / "train-001.tar").write_bytes(b"no tar")
        status, out, _ = run_main(main, "check", tmp_path / "out", "--num-workers", "1")
        assert status == 1
        assert f"unusable: {tmp_path}/out/train-001.tar: is not a complete" in out
        assert "2 images in 2 classes: 0 bad" in out

    def test_nothing_there(self, tmp_path: Path, run_main: Command) -> None:
        for path in (tmp_path, tmp_path / "nowhere"):
            status, _, stderr = run_main(main, "check", path)
            assert status == 2
            assert stderr.count("\n") == 1


@pytest.mark.slow
def test_several_processes_find_the_same(tmp_path: Path, run_main: Command) -> None:
    (tmp_path / "a").mkdir()
    for i in range(2 * CHUNK):
        Image.new("RGB", (20 + i, 30), (i, 0, 0)).save(tmp_path / "a" / f"{i:02}.png")
    (tmp_path / "a" / "40.png").write_bytes(b"no image")
    lines = [f"a/{i:02}.png {i % 3}\n" for i in range(2 * CHUNK)]
    (tmp_path / "list.txt").write_text("".join(lines))
    alone, together = (
        run_main(main, "check", tmp_path / "list.txt", "--num-workers", processes)
        for processes in (1, 2)
    )
    assert alone == together
    assert alone[1].count("one colour only") == 2 * CHUNK - 1
    assert f"bad: {tmp_path}/a/40.png: cannot identify" in alone[1]


@pytest.mark.filterwarnings("ignore")
def test_trashnet_has_three_conflicting_pairs(
    shared_data: Path, tmp_path: Path, run_main: Command
) -> None:
    for name in ("cardboard", "glass", "metal", "paper", "plastic", "trash"):
        (tmp_path / name).symlink_to(shared_data / "trashnet150" / name)
    status, out, _ = run_main(main, "check", tmp_path, "--num-workers", "1")
    assert status == 0
    assert len([line for line in out.splitlines() if line.startswith("duplicate: ")]) == 3
