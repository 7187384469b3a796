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
    assert lines == [
        f"bad: {tmp_path}/a/2.jpg: GIF is not supported, convert it to JPEG or PNG",
        f"duplicate: {tmp_path}/a/1.jpg (a) = {tmp_path}/b ü/9.jpg (b ü)",
        f"suspicious: {tmp_path}/a/red.png: one colour only",
    ]
    assert summary == (
        "8 images in 2 classes: 1 bad, 1 with the same bytes under different labels, 1 suspicious"
    )


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
