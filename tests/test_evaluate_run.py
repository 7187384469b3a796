"""From training to evaluation: the same images, the same numbers, and words that say which."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from googlenet_fast import evaluate, export, predict, report
from googlenet_fast.data.__main__ import main as data_command
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.trainer import Trainer

Command = Callable[..., tuple[int, str, str]]
ALONE = Process(0, 1, 0, 1, torch.device("cpu"))
MEASURED = ("top1", "top5", "loss", "images")


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of two classes, which a network can only learn by heart."""
    root = tmp_path_factory.mktemp("data") / "flowers"
    chance = np.random.default_rng(0)
    for name in ("rose", "tulip"):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = chance.integers(0, 256, (70, 66, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.jpg")
    return root


def train(flowers: Path, folder: Path, *more: str) -> dict[str, Any]:
    config = load_config([
        "-c", "digits", "--data", str(flowers), "--data.batch_size", "9", "--epochs", "1",
        "--output", str(folder), "--device", "cpu", "--log_interval", "9", *more,
    ])  # fmt: skip
    with closing(Trainer(config, ALONE)) as trainer:
        result = trainer.run()
    assert result is not None
    return {**result, "images": len(trainer.splits.val)}


@pytest.fixture(scope="module")
def finished(flowers: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a run, and what the run measured at its end."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    return folder, train(flowers, folder)


@pytest.fixture
def command(run_main: Callable[..., tuple[int, str, str]]) -> Command:
    return partial(run_main, evaluate.main, "--device", "cpu")


def result_of(output: tuple[int, str, str]) -> dict[str, Any]:
    status, stdout, stderr = output
    assert status == 0, stderr
    return json.loads(stdout.rsplit("RESULT ", 1)[1])


def assert_measured(result: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {key: result[key] for key in MEASURED} == {key: expected[key] for key in MEASURED}


def test_the_readme_s_sequence(
    flowers: Path, finished: tuple[Path, Any], command: Command, tmp_path: Path
) -> None:
    """`train --data flowers`, then `evaluate best.pt --data flowers`: the same, to the bit."""
    folder, expected = finished
    which = f"validation images of {flowers} (held out by the run)"
    output = command(
        folder / "best.pt", "--data", flowers, "--batch-size", 9, "--output", tmp_path / "report"
    )
    result = result_of(output)
    assert_measured(result, expected)
    assert (result["images"], result["split"], result["which"]) == (4, "val", which)
    assert f"\n4 {which} at 64 px" in output[1]
    assert f"\naccuracy of 2 classes on 4 {which}\n" in output[1]
    written = json.loads((tmp_path / "report" / "results.json").read_text())
    assert (written["which"], written["top1"]) == (which, expected["top1"])


def test_the_folder_of_a_run(
    flowers: Path, finished: tuple[Path, Any], command: Command, run_main: Command
) -> None:
    """Its best.pt, its images, read as it read them; flags win."""
    folder, expected = finished
    result = result_of(command(folder))
    assert_measured(result, expected)
    assert result["weights"] == str(folder / "best.pt")
    assert result_of(command(folder, "--split", "train"))["images"] == 36
    status, stdout, _ = run_main(predict.main, folder, flowers / "rose", "--json")
    assert status == 0
    document = json.loads(stdout)
    assert document["weights"] == str(folder / "best.pt")
    assert len(document["predictions"]) == 20


@pytest.mark.parametrize(
    ("split", "images", "which"),
    [
        ("val", 4, "validation images of {} (held out by the run)"),
        ("train", 36, "training images of {}"),
        ("all", 40, "images of {}"),
    ],
)
def test_splits(
    split: str, images: int, which: str, flowers: Path, finished: tuple[Path, Any], command: Command
) -> None:
    result = result_of(command(finished[0] / "best.pt", "--data", flowers, "--split", split))
    assert (result["images"], result["split"]) == (images, split)
    assert result["which"] == which.format(flowers)


def test_through_shards(
    flowers: Path, finished: tuple[Path, Any], command: Command, run_main: Command, tmp_path: Path
) -> None:
    """The folder of shards, and all of them by a pattern: the run's validation images alone."""
    out = tmp_path / "shards"
    assert run_main(data_command, "shard", flowers, out, "--num-workers", 1)[0] == 0
    for data in (out, out / "*.tar"):
        result = result_of(command(finished[0] / "best.pt", "--data", data, "--batch-size", 9))
        assert result["which"].endswith("(held out by the run)")
        assert result["images"] == 4
        assert result["top1"] == finished[1]["top1"]
        assert result["loss"] == pytest.approx(finished[1]["loss"], rel=1e-4)
    assert result_of(command(finished[0], "--data", out, "--split", "train"))["images"] == 36
    assert result_of(command(finished[0], "--data", out, "--split", "all"))["images"] == 40


def test_a_changed_folder_is_said(
    flowers: Path,
    finished: tuple[Path, Any],
    command: Command,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copy = Path(shutil.copytree(flowers, tmp_path / "flowers"))
    for i in range(10):
        shutil.copy(copy / "rose" / "0.jpg", copy / "rose" / f"0 new {i}.jpg")
    result = result_of(command(finished[0], "--data", copy, "--batch-size", 9))
    assert_measured(result, {**finished[1], "loss": result["loss"]})
    notes = [record.message for record in caplog.records if "note: " in record.message]
    assert len(notes) == 1
    assert "has changed since the run held out its validation images: it had 40" in notes[0]


def test_the_report_says_which(
    flowers: Path, finished: tuple[Path, Any], run_main: Command
) -> None:
    status, stdout, _ = run_main(report.main, finished[0], "--device", "cpu")
    assert status == 0
    text = Path(stdout.strip()).read_text()
    assert f"best.pt on 4 validation images of {flowers} (held out by the run)" in text


def test_weights_that_do_not_say_what_they_were_trained_on(
    flowers: Path,
    finished: tuple[Path, Any],
    command: Command,
    run_main: Command,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    exported = tmp_path / "x.safetensors"
    assert run_main(export.main, finished[0], exported)[0] == 0
    assert result_of(command(exported, "--data", flowers))["images"] == 40
    assert f"all images of {flowers} count; --split val counts those alone" in caplog.text
    result = result_of(command(exported, "--data", flowers, "--split", "val"))
    assert (result["images"], result["top1"]) == (4, finished[1]["top1"])
    assert result["which"].endswith("(held out as training does)")


def test_folders_that_are_no_runs(tmp_path: Path, command: Command) -> None:
    status, _, stderr = command(tmp_path)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "is not the folder of a run (no best.pt)" in stderr
    (tmp_path / "last.pt").touch()
    assert f"has no best.pt yet; name {tmp_path / 'last.pt'}" in command(tmp_path)[2]
    (tmp_path / "best.pt").touch()
    assert "is not the folder of a run (no config.yaml)" in command(tmp_path)[2]
