"""The training loop: exact resume, processes that equal one, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from googlenet_fast.data import sample_dataset
from googlenet_fast.engine.checkpoint import load_checkpoint
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.run_folder import read_metrics
from googlenet_fast.engine.trainer import Trainer
from googlenet_fast.errors import UserError
from googlenet_fast.model import GoogLeNet

ALONE = Process(0, 1, 0, 1, torch.device("cpu"))


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of 40 training and 12 validation digits."""
    digits = sample_dataset()
    folder = tmp_path_factory.mktemp("few digits")
    for split, count in (("train", 4), ("val", 1)):
        lines = (digits / f"{split}_list.txt").read_text().splitlines()
        by_class = [[line for line in lines if line.endswith(f" {c}")] for c in range(10)]
        chosen = [line for members in by_class for line in members[:count]]
        (folder / f"{split}_list.txt").write_text("\n".join(chosen))
    return folder


def arguments(few_digits: Path, output: Path, *more: str) -> list[str]:
    return [
        "-c", "digits", "--data.train_list", str(few_digits / "train_list.txt"),
        "--data.val_list", str(few_digits / "val_list.txt"), "--data.root", str(sample_dataset()),
        "--output", str(output), "--data.batch_size", "4", "--epochs", "2", "--log_interval", "3",
        "--device", "cpu", *more,
    ]  # fmt: skip


def make_trainer(few_digits: Path, output: Path, *more: str) -> Trainer:
    return Trainer(load_config(arguments(few_digits, output, *more)), ALONE)


def run(few_digits: Path, output: Path, *more: str) -> dict[str, Any]:
    """Train to the end."""
    with closing(make_trainer(few_digits, output, *more)) as trainer:
        result = trainer.run()
    assert result is not None
    return result


def assert_same_checkpoint(a: Path, b: Path) -> None:
    first, second = load_checkpoint(a), load_checkpoint(b)
    for part in ("model", "ema"):
        assert first.get(part, {}).keys() == second.get(part, {}).keys()
        for key, tensor in first.get(part, {}).items():
            assert torch.equal(tensor, second[part][key]), f"{part} {key}"
    assert first["step"] == second["step"]


EVERYTHING = ("--ema_decay", "0.9", "--accumulate", "2", "--model.dropout", "0.4")
"""Options that give a run all the state it can have."""


@pytest.fixture(scope="module")
def uninterrupted(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(few_digits, folder, *EVERYTHING)
    return folder


@pytest.mark.parametrize("stop_at", [3, 5, 7])
def test_interrupted_and_resumed_equals_uninterrupted(
    stop_at: int, uninterrupted: Path, few_digits: Path, tmp_path: Path
) -> None:
    """Stopped within an epoch of 5 steps, between the two, and within the second."""
    trainer = make_trainer(few_digits, tmp_path, *EVERYTHING)
    prepare = trainer._prepare_step

    def interrupt_at_step() -> None:
        prepare()
        if trainer.step == stop_at - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._prepare_step = interrupt_at_step  # type: ignore[method-assign]
    with closing(trainer):
        assert trainer.run() is None
    assert trainer.stopped_by == signal.SIGTERM
    assert load_checkpoint(tmp_path / "last.pt")["step"] == stop_at
    result = run(few_digits, tmp_path, *EVERYTHING, "--resume", "auto")
    assert result["steps"] == 10
    assert_same_checkpoint(uninterrupted / "last.pt", tmp_path / "last.pt")


def test_a_run_leaves_its_records(few_digits: Path, tmp_path: Path) -> None:
    result = run(few_digits, tmp_path / "run ä")
    folder = tmp_path / "run ä"
    names = {file.name for file in folder.iterdir()}
    assert {"last.pt", "best.pt", "config.yaml", "metrics.jsonl", "curves.png"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "val"] == [10, 20]
    assert lines[-1]["top1"] == pytest.approx(result["top1"], abs=1e-3)
    assert load_config(["-c", str(folder / "config.yaml")]).data.batch_size == 4
    meta = load_checkpoint(folder / "best.pt")["meta"]
    assert meta["preset"] == "torchvision"
    assert meta["class_names"] == [str(digit) for digit in range(10)]


def test_evaluation_each_second_epoch_and_at_the_end(few_digits: Path, tmp_path: Path) -> None:
    run(
        few_digits, tmp_path, "--epochs", "3", "--eval_interval", "2", "--data.batch_size", "20"
    )  # fmt: skip
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in lines if line["kind"] == "val"] == [2, 3]
    assert [line["epoch"] for line in lines if line["kind"] == "train"] == [1, 1.5, 2, 3]


def test_compile_is_a_switch(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[GoogLeNet] = []
    monkeypatch.setattr(GoogLeNet, "compile", lambda model: compiled.append(model))
    make_trainer(few_digits, tmp_path / "off").close()
    assert compiled == []
    trainer = make_trainer(few_digits, tmp_path / "on", "--compile", "true")
    trainer.close()
    assert compiled == [trainer.model]


def test_resume_forgets_metrics_of_steps_done_again(few_digits: Path, tmp_path: Path) -> None:
    run(few_digits, tmp_path, "--epochs", "1")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 12, "epoch": 1.2, "loss": 9.0}) + "\n{cut")
    run(few_digits, tmp_path, "--resume", "auto")
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == sorted(steps)
    assert steps.count(12) == 1


def test_what_resume_refuses(few_digits: Path, tmp_path: Path) -> None:
    run(few_digits, tmp_path, "--epochs", "1")
    for more, expected in (
        ((), "holds a run already; continue it with --resume auto"),
        (("--resume", str(tmp_path / "no.pt")), r"no\.pt: no such file"),
        (("--resume", "auto", "--model.preset", "paper"), "that run has preset torchvision"),
        (("--resume", "auto", "--model.num_classes", "12"), "that run has num_classes 10"),
    ):
        with pytest.raises(UserError, match=expected):
            make_trainer(few_digits, tmp_path, *more)


def test_other_refusals(few_digits: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for more, expected in (
        (("--output", str(file / "run")), r"cannot be written to \(Not a directory\)"),
        (("--data.batch_size", "64"), "choose a smaller batch_size"),
        (("--accumulate", "11"), "--accumulate 11: an epoch has only 10 batches"),
        (("--model.num_classes", "7"), "label"),
        (("--data.image_size", "32"), "image size 32x32"),
        (("--model.preset", "paper", "--model.aux", "true"), "auxiliary heads takes"),
        (("--model.preset", "paper", "--model.sync_bn", "true"), "paper has no batch norm"),
        (("--model.preset", "torchvision", "--model.sync_bn", "true"), "needs GPUs"),
    ):
        with pytest.raises(UserError, match=expected):
            make_trainer(few_digits, tmp_path / "run", *more)


def test_two_runs_in_one_folder(few_digits: Path, tmp_path: Path) -> None:
    first = make_trainer(few_digits, tmp_path)
    with pytest.raises(UserError, match="another run is training here"):
        make_trainer(few_digits, tmp_path)
    first.close()
    make_trainer(few_digits, tmp_path).close()


def test_loss_that_is_not_finite_stops_the_run(few_digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the loss is nan at step \d+; lower --optimizer.lr"):
        run(few_digits, tmp_path, "--optimizer.lr", "1e30")


def torchrun(processes: int, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(processes), "-m", "googlenet_fast.train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "RESULT {" in done.stdout


def test_two_processes_equal_one(few_digits: Path, tmp_path: Path) -> None:
    """The same global batch without batch norm and dropout, to fp32 rounding.

    Rounding flips a few ReLUs, which moves gradients by a thousandth; a gradient summed rather than
    averaged, or another batch, would move them by as much as they are.
    """
    options = ("--model.preset", "paper", "--model.dropout", "0", "--optimizer.lr", "3e-4")
    torchrun(2, arguments(few_digits, tmp_path / "two", *options))
    with closing(
        make_trainer(few_digits, tmp_path / "one", *options, "--data.batch_size", "8")
    ) as trainer:
        start = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
        trainer.run()
    one, two = (load_checkpoint(tmp_path / name / "last.pt") for name in ("one", "two"))
    assert one["step"] == two["step"] == 10
    for key, expected in one["model"].items():
        allowed = 1e-2 * (expected - start[key]).norm() + 1e-7 * expected.norm()
        assert (two["model"][key] - expected).norm() <= allowed, key
    metrics = [read_metrics(tmp_path / name / "metrics.jsonl")[-1] for name in ("one", "two")]
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], rel=1e-4)
