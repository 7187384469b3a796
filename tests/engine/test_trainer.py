"""The training loop: exact resume, processes that equal one, and what it refuses."""

import errno
import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from googlenet_fast import files
from googlenet_fast.engine import trainer as trainer_module
from googlenet_fast.engine.candidates import COMPILED, OURS, Switch
from googlenet_fast.engine.checkpoint import load_checkpoint
from googlenet_fast.engine.choosing import Chosen, choose_for_run
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.event_file import EventFile
from googlenet_fast.engine.run_folder import read_metrics
from googlenet_fast.engine.stop_signal import StopSignal
from googlenet_fast.engine.trainer import Trainer
from googlenet_fast.errors import GoogLeNetError
from tests.capturers import Tape
from tests.engine.runs import arguments, assert_same_checkpoint

ALONE = Process(0, 1, 0, 1, torch.device("cpu"))


def make_trainer(few_digits: Path, output: Path, *more: str) -> Trainer:
    return Trainer(load_config(arguments(few_digits, output, *more)), ALONE)


def run(few_digits: Path, output: Path, *more: str) -> dict[str, Any]:
    """Train to the end."""
    with closing(make_trainer(few_digits, output, *more)) as trainer:
        result = trainer.run()
    assert result is not None
    return result


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


@pytest.mark.slow
def test_captured_steps_give_the_same_checkpoints(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after a resume, each of which captures anew."""
    tapes = [Tape(), Tape()]
    for tape, epochs in zip(tapes, ("1", "2"), strict=True):
        monkeypatch.setattr(trainer_module, "capturer_for", lambda *_, tape=tape: tape)
        more = ("--resume", "auto", "--epochs", epochs, "--schedule.name", "constant")
        run(few_digits, tmp_path / "captured", *EVERYTHING, *more)
        assert tape.replays > 0
        assert tape.closed
    monkeypatch.undo()
    run(few_digits, tmp_path / "eager", *EVERYTHING, "--schedule.name", "constant")
    assert_same_checkpoint(tmp_path / "eager" / "last.pt", tmp_path / "captured" / "last.pt")
    a, b = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("eager", "captured"))
    for line, other in zip(a, b, strict=True):
        for key in ("step", "loss", "top1", "nonfinite_steps"):
            assert line.get(key) == other.get(key)


@pytest.mark.gpu
def test_graphs_change_nothing_on_a_gpu(
    few_digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Losses of replayed and of launched steps, up to atomic additions of PyTorch's kernels."""
    process = Process(0, 1, 0, 1, torch.device("cuda", 0))
    lines = []
    for graph in ("off", "on"):
        options = arguments(few_digits, tmp_path / graph, "--log_interval", "1", "--graph", graph)
        with closing(Trainer(load_config(options), process)) as trainer:
            trainer.run()
        lines.append(read_metrics(tmp_path / graph / "metrics.jsonl"))
    assert "no CUDA graph" not in caplog.text
    for launched, replayed in zip(*lines, strict=True):
        assert replayed["loss"] == pytest.approx(launched["loss"], rel=0.02)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_signal_during_the_evaluation_stops_it(
    epoch: int,
    uninterrupted: Path,
    few_digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = make_trainer(few_digits, tmp_path, *EVERYTHING)
    batches = trainer._val_batches

    def interrupt_at_second(stop: StopSignal) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for i, batch in enumerate(batches(stop)):
            assert i < 2 or trainer.epoch < epoch, "went on after the signal"
            if i == 1 and trainer.epoch == epoch:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(trainer, "_val_batches", interrupt_at_second)
    with closing(trainer):
        assert trainer.run() is None
    assert trainer.stopped_by == signal.SIGTERM
    state = load_checkpoint(tmp_path / "last.pt")
    assert (state["epoch"], state["step"]) == (epoch - 1, 5 * epoch)
    run(few_digits, tmp_path, *EVERYTHING, "--resume", "auto")
    assert_same_checkpoint(uninterrupted / "last.pt", tmp_path / "last.pt")
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in lines if line["kind"] == "val"] == [1, 2]


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


def test_compile_is_a_switch(few_digits: Path, tmp_path: Path) -> None:
    for flag, expected in (("false", OURS), ("true", COMPILED)):
        trainer = make_trainer(few_digits, tmp_path / flag, "--compile", flag)
        trainer.close()
        assert isinstance(trainer.train_step.model, Switch)
        assert trainer.train_step.model.candidate == expected


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
        with pytest.raises(GoogLeNetError, match=expected):
            make_trainer(few_digits, tmp_path, *more)


def test_other_refusals(few_digits: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for more, expected in (
        (("--output", str(file / "run")), r"cannot be written to \(Not a directory\)"),
        (("--data.batch_size", "64"), "choose a smaller batch_size"),
        (("--accumulate", "11"), "--accumulate 11: an epoch has only 10 batches"),
        (("--model.num_classes", "7"), "label"),
        (("--graph", "on"), "--graph on: captures CUDA graphs, which needs a GPU"),
        (("--data.image_size", "32"), "image size 32x32"),
        (("--model.preset", "paper", "--model.aux", "true"), "auxiliary heads takes"),
        (("--model.preset", "paper", "--model.sync_bn", "true"), "paper has no batch norm"),
        (("--model.preset", "torchvision", "--model.sync_bn", "true"), "needs GPUs"),
    ):
        with pytest.raises(GoogLeNetError, match=expected):
            make_trainer(few_digits, tmp_path / "run", *more)


@pytest.mark.slow
def test_a_damaged_checkpoint_gives_way_to_the_previous(
    few_digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = ("--checkpoint_interval", "6")
    run(few_digits, tmp_path / "whole", *options)
    run(few_digits, tmp_path / "cut", *options, "--epochs", "1", "--schedule.name", "constant")
    folder = tmp_path / "whole"
    newest = (folder / "last.pt").read_bytes()
    (folder / "last.pt").rename(folder / "expected.pt")
    (folder / "last.pt").write_bytes(newest[: len(newest) // 3])
    (folder / ".last.pt.4711").write_bytes(b"half a")
    capsys.readouterr()
    run(few_digits, folder, *options, "--resume", "auto")
    assert f"{folder}/.last.pt.4711 was not written completely" in caplog.text
    assert f"checkpoint {folder}/last.pt: cannot be read" in caplog.text
    assert f"resumed {folder}/previous.pt at epoch 1.80, step 18" in capsys.readouterr().out
    assert_same_checkpoint(folder / "expected.pt", folder / "last.pt")


@pytest.mark.slow
def test_a_run_that_diverges_stops_with_its_last_checkpoint(
    few_digits: Path, tmp_path: Path
) -> None:
    """The first epoch is good; the second one's learning rate is beyond any number."""
    run(few_digits, tmp_path, "--epochs", "1")
    good = (tmp_path / "last.pt").read_bytes()
    options = ("--resume", "auto", "--epochs", "3", "--optimizer.lr", "1e30")
    for more, expected in (
        (
            ("--max_nonfinite_steps", "4"),
            r"step 15: the loss or gradients of 4 steps in a row are not",
        ),
        ((), "step 20: weights or batch-norm statistics are not finite"),
        (("--checkpoint_interval", "2"), "step 12: weights or batch-norm statistics are not fin"),
    ):
        with pytest.raises(GoogLeNetError, match=expected) as error:
            run(few_digits, tmp_path, *options, *more)
        assert "--optimizer.lr 1e+30" in str(error.value)
        assert "images, labels" in str(error.value)
        assert "\n" not in str(error.value)
        assert (tmp_path / "last.pt").read_bytes() == good


def test_skipped_steps_are_counted_and_shown(
    few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss scale that overflows is lowered until it does not, a skipped step each time."""
    trainer = make_trainer(few_digits, tmp_path, "--log_interval", "1")
    highest = 2.0**127
    trainer.train_step.scaler = torch.amp.GradScaler("cpu", highest, backoff_factor=0.25)
    with closing(trainer):
        result = trainer.run()
    assert result is not None
    lines = [x for x in read_metrics(tmp_path / "metrics.jsonl") if x["kind"] == "train"]
    skipped = 0
    for previous, line in pairwise([{"scale": highest}, *lines]):
        skipped += line["scale"] < previous["scale"]
        assert line["nonfinite_steps"] == skipped
        assert math.isfinite(line["loss"])
    assert result["nonfinite_steps"] == skipped > 0
    assert load_checkpoint(tmp_path / "last.pt")["nonfinite_steps"] == skipped
    assert f"scale {lines[-1]['scale']:g} skipped {skipped} " in capsys.readouterr().out


def test_skipping_steps_without_end_stops_the_run(few_digits: Path, tmp_path: Path) -> None:
    trainer = make_trainer(few_digits, tmp_path, "--max_nonfinite_steps", "5")
    trainer.train_step.scaler = torch.amp.GradScaler("cpu", 2.0**127, backoff_factor=0.999)
    before = {key: tensor.clone() for key, tensor in trainer.model.named_parameters()}
    expected = "step 6: the loss or gradients of 6 steps in a row are not finite"
    with closing(trainer), pytest.raises(GoogLeNetError, match=expected):
        trainer.run()
    for key, tensor in trainer.model.named_parameters():
        assert torch.equal(tensor, before[key])
    assert not (tmp_path / "last.pt").exists()


def test_a_run_may_go_on_in_another_precision(few_digits: Path, tmp_path: Path) -> None:
    run(few_digits, tmp_path, "--epochs", "1")
    for amp in ("fp16", "bf16", "off"):
        trainer = make_trainer(few_digits, tmp_path, "--resume", "auto", "--amp", amp)
        assert trainer.step == 10
        trainer._save(best=False)
        trainer.close()


def test_the_step_line(
    few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(few_digits, tmp_path, "--epochs", "1")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 1/1")]
    pattern = (
        r"epoch 1/1 step \d+/10 loss \d\.\d{4} top1 \d+\.\d img/s [\d,.]+ \(data \d+\.\d%\) "
        r"lr \d\.\d\de-\d\d mem \d+\.\dGiB eta 0:00:\d\d"
    )
    assert len(lines) == 5
    assert all(re.fullmatch(pattern, line) for line in lines[:4]), lines


@pytest.mark.slow
@pytest.mark.parametrize("order", [("--seed", "5"), ("--data.shuffle", "false")])
def test_another_order_restarts_the_epoch(
    order: tuple[str, str], few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(few_digits, tmp_path, "--epochs", "1", "--checkpoint_interval", "6")
    (tmp_path / "previous.pt").replace(tmp_path / "last.pt")
    capsys.readouterr()
    result = run(few_digits, tmp_path, "--epochs", "1", "--resume", "auto", *order)
    assert "the interrupted epoch starts over" in capsys.readouterr().out
    assert result["steps"] == 6 + 10


SHORT = ("--epochs", "2", "--data.batch_size", "20", "--seed", "3")


@pytest.fixture(scope="module")
def short_run(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of two steps."""
    folder = tmp_path_factory.mktemp("short")
    run(few_digits, folder, *SHORT)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("write", range(1, 8))
def test_a_disk_that_is_full_at_any_write(
    write: int, short_run: Path, few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """config, environment, best, last, best or last, last or none, curves: one line, no loss."""
    replace, writes = files._replace, 0

    def fail(path: Path, content: bytes, keep_as: Path | None = None) -> None:
        nonlocal writes
        writes += 1
        if writes == write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(path, content, keep_as)

    monkeypatch.setattr(files, "_replace", fail)
    folder = tmp_path / "run"
    try:
        run(few_digits, folder, *SHORT)
    except GoogLeNetError as error:
        assert re.fullmatch(r"cannot save \S+: No space left on device.*", str(error))  # noqa: PT017
        assert writes == write
    monkeypatch.setattr(files, "_replace", replace)
    checkpoints = list(folder.glob("*.pt"))
    assert bool(checkpoints) == (write > 3)
    if checkpoints:
        with pytest.raises(GoogLeNetError, match="holds a run already"):
            make_trainer(few_digits, folder, *SHORT)
    run(few_digits, folder, *SHORT, "--resume", "auto")
    for name in ("last.pt", "best.pt"):
        assert_same_checkpoint(folder / name, short_run / name)


@pytest.mark.parametrize("place", ["_record_steps", "_evaluate", "_result"])
def test_a_folder_that_is_deleted_while_it_trains(
    place: str, few_digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    trainer = make_trainer(few_digits, folder, "--epochs", "1", "--data.batch_size", "20")
    method = getattr(trainer, place)

    def delete_first(*args: Any) -> Any:
        shutil.rmtree(folder)
        return method(*args)

    setattr(trainer, place, delete_first)
    with (
        closing(trainer),
        pytest.raises(GoogLeNetError, match="run: was deleted while the run was"),
    ):
        trainer.run()
    assert "Traceback" not in capfd.readouterr().err


def test_metrics_that_cannot_be_written(few_digits: Path, tmp_path: Path) -> None:
    """In one line, also when the logger is closed."""
    for name in ("_metrics", "_tensorboard"):
        trainer = make_trainer(few_digits, tmp_path / name, "--epochs", "1")
        assert trainer._logger is not None
        with Path("/dev/full").open("wb", buffering=0) as full:
            if name == "_metrics":
                trainer._logger._metrics = full
            else:
                assert trainer._logger._tensorboard is not None
                trainer._logger._tensorboard._records._writer = full
            with (
                closing(trainer),
                pytest.raises(GoogLeNetError, match="No space left on device; free"),
            ):
                trainer.run()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders of 20 images."""
    root = tmp_path_factory.mktemp("shapes")
    for name in ("disc", "ring"):
        (root / name).mkdir()
        for i in range(20):
            Image.new("RGB", (66, 70), (12 * i, 90, 160)).save(root / name / f"{i:02}.jpg")
    return root


def shape_trainer(shapes: Path, output: Path, *more: str) -> Trainer:
    return Trainer(
        load_config([
            "-c", "digits", "--data", str(shapes), "--output", str(output), "--epochs", "1",
            "--data.batch_size", "9", "--device", "cpu", *more,
        ]),
        ALONE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shape_run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, with a checkpoint within it."""
    folder = tmp_path_factory.mktemp("shape run") / "run"
    with closing(shape_trainer(shapes, folder, "--checkpoint_interval", "2")) as trainer:
        assert trainer.run() is not None
    return folder


def interrupted(shape_run: Path, folder: Path) -> Path:
    """A copy of the run, as if it had been stopped within its epoch."""
    shutil.copytree(shape_run, folder)
    (folder / "previous.pt").replace(folder / "last.pt")
    return folder


def test_other_classes_in_the_same_number_are_refused(
    shapes: Path, shape_run: Path, tmp_path: Path
) -> None:
    renamed = Path(shutil.copytree(shapes, tmp_path / "shapes"))
    (renamed / "disc").rename(renamed / "square")  # sorted after ring: every label changes
    with pytest.raises(GoogLeNetError, match="class 0 of that run is disc, of this one ring"):
        shape_trainer(renamed, shape_run, "--resume", "auto")


def test_another_list_of_images_is_told_and_restarts_the_epoch(
    shapes: Path, shape_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = Path(shutil.copytree(shapes, tmp_path / "shapes"))
    (renamed / "disc" / "00.jpg").rename(renamed / "disc" / "20.jpg")  # the number stays
    folder = interrupted(shape_run, tmp_path / "run")
    for data, expected in ((shapes, 18), (renamed, 0)):
        capsys.readouterr()
        with closing(shape_trainer(data, folder, "--resume", "auto")) as trainer:
            assert trainer.images_seen == expected
        told = "the names or labels of the 36 training images have changed; the interrupted epoch"
        assert (told in capsys.readouterr().out) == (expected == 0)
    shape_trainer(renamed, shape_run, "--resume", "auto").close()
    assert "36 training images have changed\n" in capsys.readouterr().out  # between two epochs


def test_a_resumed_run_never_validates_on_images_that_it_trained_on(
    shapes: Path, shape_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """New images would move the choice of those to hold out; they are for training."""
    grown = Path(shutil.copytree(shapes, tmp_path / "shapes"))
    for i in range(30):
        shutil.copy(grown / "disc" / "00.jpg", grown / "disc" / f"0 new {i}.jpg")
    with closing(shape_trainer(shapes, tmp_path / "new")) as trainer:
        before = trainer.splits
    folder = interrupted(shape_run, tmp_path / "run")
    for _ in range(2):
        with closing(shape_trainer(grown, folder, "--resume", "auto")) as trainer:
            assert trainer.splits.val.files == before.val.files
            assert len(trainer.splits.train) == 66
            trainer._save(best=False)
    assert "had 40 images, now 70; 4 of the 4 validation images are left; new images are for" in (
        capsys.readouterr().out
    )


def test_tensorboard_keeps_the_last_point_when_a_run_is_resumed(
    few_digits: Path, tmp_path: Path
) -> None:
    """And forgets those that the resumed run logs again."""
    run(few_digits, tmp_path, "--epochs", "1")
    with closing(EventFile(tmp_path, 10)) as file:
        file.add("train", 12, {"loss": 9.0})  # of steps that no checkpoint has
    run(few_digits, tmp_path, "--resume", "auto")
    events = EventAccumulator(str(tmp_path)).Reload()
    for kind, steps in (("train", [3, 6, 9, 10, 12, 15, 18, 20]), ("val", [10, 20])):
        assert [point.step for point in events.Scalars(f"{kind}/loss")] == steps
    assert all(point.value != 9.0 for point in events.Scalars("train/loss"))


def test_an_average_that_begins_at_a_resume_begins_with_the_weights(
    few_digits: Path, tmp_path: Path
) -> None:
    expected = run(few_digits, tmp_path, "--epochs", "1")
    result = run(few_digits, tmp_path, "--epochs", "1", "--resume", "auto", "--ema_decay", "0.9")
    for key in ("top1", "top5", "loss", "best_top1"):
        assert result[key] == expected[key]


def test_an_average_is_evaluated_beside_the_weights(
    few_digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for decay, is_long in (("0.9999", True), ("0.5", False)):
        run(few_digits, tmp_path / decay, "--epochs", "1", "--ema_decay", decay)
        (record,) = [
            record
            for record in read_metrics(tmp_path / decay / "metrics.jsonl")
            if record["kind"] == "val"
        ]
        out = capfd.readouterr().out
        assert ("note: --ema_decay 0.9999 averages over 10,000 steps" in out) == is_long
        assert f"not averaged {record['top1_not_averaged']:.2f}" in out


@pytest.mark.slow
def test_a_run_that_goes_on_in_another_folder_has_the_best_checkpoint(
    few_digits: Path, tmp_path: Path
) -> None:
    """That of its old folder; or, where there is none, the best from now on."""
    old = tmp_path / "old"
    run(few_digits, old, "--epochs", "1")
    finished = ("--epochs", "1", "--resume", str(old / "last.pt"))
    run(few_digits, tmp_path / "new", *finished)
    assert (tmp_path / "new" / "best.pt").read_bytes() == (old / "best.pt").read_bytes()
    (old / "best.pt").unlink()
    result = run(few_digits, tmp_path / "alone", *finished)
    assert_same_checkpoint(tmp_path / "alone" / "best.pt", old / "last.pt")
    assert result["best_top1"] == result["top1"] >= 0
    state = load_checkpoint(old / "last.pt")
    torch.save({**state, "best_top1": 99.0}, old / "last.pt")
    run(few_digits, tmp_path / "longer", "--epochs", "2", "--resume", str(old / "last.pt"))
    assert load_checkpoint(tmp_path / "longer" / "best.pt")["epoch"] == 2


@pytest.mark.parametrize(
    "changed",
    [("--optimizer.classifier_lr_scale", "10"), ("--optimizer.decay_bias_and_norm", "false")],
)
def test_other_parameter_groups_keep_the_momenta(
    changed: tuple[str, str], few_digits: Path, tmp_path: Path
) -> None:
    run(few_digits, tmp_path, "--epochs", "1")
    with closing(make_trainer(few_digits, tmp_path, "--resume", "auto")) as trainer:
        expected = momenta(trainer)
    assert any(momentum.any() for momentum in expected.values())
    with closing(make_trainer(few_digits, tmp_path, "--resume", "auto", *changed)) as trainer:
        assert len(trainer.train_step.optimizer.param_groups) == 2
        found = momenta(trainer)
        trainer._save(best=False)
    with closing(make_trainer(few_digits, tmp_path, "--resume", "auto")) as trainer:
        again = momenta(trainer)
    for name, momentum in expected.items():
        assert torch.equal(found[name], momentum)
        assert torch.equal(again[name], momentum)


def momenta(trainer: Trainer) -> dict[str, torch.Tensor]:
    state = trainer.train_step.optimizer.state
    return {
        name: state[parameter]["momentum_buffer"].clone()
        for name, parameter in trainer.model.named_parameters()
    }


@pytest.fixture
def chooses_plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Long runs on a GPU compare whole steps; here each run does, and plain PyTorch is fastest."""
    times, calls = [2.0, 1.0, 3.0, 1.0], []

    def clock(call: Callable[[], object], device: torch.device) -> float:
        call()
        calls.append(1)
        return times[(len(calls) - 1) % 4]

    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trainer_module, "compares_steps", lambda config, steps, device: True)
    monkeypatch.setattr(trainer_module, "choose_for_run", partial(choose_for_run, clock=clock))
    return calls


@pytest.mark.slow
def test_a_run_computes_as_the_fastest_whole_steps_do_and_so_does_a_resumed_one(
    few_digits: Path,
    tmp_path: Path,
    chooses_plain: list[int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    run(few_digits, whole, *EVERYTHING)
    said = capsys.readouterr().out
    assert "whole steps: ours 2000.00 ms, plain 1000.00 ms: plain\n" in said
    assert "evaluation: ours 3000.00 ms, plain 1000.00 ms: plain\n" in said
    saved = load_checkpoint(whole / "last.pt")["candidates"]
    assert saved == {"training": "plain", "evaluation": "plain", "device": "cpu"}

    run(few_digits, halved, *EVERYTHING, "--epochs", "1", "--schedule.name", "constant")
    ours = load_checkpoint(halved / "last.pt")
    assert ours["candidates"] == saved
    assert len(chooses_plain) == 4  # the second run knew

    def compare_again(*arguments: object, **options: object) -> None:
        raise AssertionError("a resumed run computes as before")

    monkeypatch.setattr(trainer_module, "choose_for_run", compare_again)
    shutil.rmtree(tmp_path / "cache")
    capsys.readouterr()
    result = run(few_digits, halved, *EVERYTHING, "--resume", "auto")
    assert result["steps"] == 10
    said = capsys.readouterr().out
    assert "computes as the run did before: plain in training, plain in evaluation" in said
    assert load_checkpoint(halved / "last.pt")["candidates"] == saved


@pytest.mark.slow
def test_interrupted_and_resumed_in_plain_pytorch_equals_uninterrupted(
    few_digits: Path, tmp_path: Path, chooses_plain: list[int]
) -> None:
    run(few_digits, tmp_path / "whole", *EVERYTHING)
    halved = tmp_path / "halved"
    stopped = make_trainer(few_digits, halved, *EVERYTHING)
    prepare = stopped._prepare_step

    def interrupt_at_step() -> None:
        prepare()
        if stopped.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped._prepare_step = interrupt_at_step  # type: ignore[method-assign]
    with closing(stopped):
        assert stopped.run() is None
    run(few_digits, halved, *EVERYTHING, "--resume", "auto")
    assert_same_checkpoint(tmp_path / "whole" / "last.pt", halved / "last.pt")


@pytest.mark.parametrize(
    ("saved", "training", "line"),
    [
        (None, "ours", ""),
        ({"training": "ours", "evaluation": "ours", "device": "cuda"}, "ours", ""),
        ({"training": "plain", "evaluation": "ours", "device": "cpu"}, "plain", "plain in trai"),
        (
            {"training": "plain", "evaluation": "ours", "device": "cuda"},
            *("ours", "note: that run computed as plain on cuda, this one computes as ours on cpu"),
        ),
    ],
)
def test_a_checkpoint_says_how_its_run_computed(
    saved: dict[str, str] | None,
    training: str,
    line: str,
    few_digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with closing(make_trainer(few_digits, tmp_path)) as made:
        assert made._candidates() == Chosen().state(ALONE.device)
        made._resume_candidates(saved)
        switch = made.train_step.model
        assert isinstance(switch, Switch)
        assert switch.candidate.name == training
        assert line in capsys.readouterr().out


def test_a_run_that_cannot_compute_as_before(
    few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when it is resumed with `--model.sync_bn`."""
    with closing(make_trainer(few_digits, tmp_path)) as made:
        switch = made.train_step.model
        assert isinstance(switch, Switch)
        switch.network.conv1.add_module("norm", nn.SyncBatchNorm(64))
        made._resume_candidates({"training": "plain", "evaluation": "ours", "device": "cpu"})
        assert switch.candidate is OURS
    assert "note: cannot: plain PyTorch does not share sync" in capsys.readouterr().out


def test_a_flag_comes_before_what_a_checkpoint_says(few_digits: Path, tmp_path: Path) -> None:
    with closing(make_trainer(few_digits, tmp_path, "--compile", "true")) as made:
        made._resume_candidates({"training": "plain", "evaluation": "ours", "device": "cpu"})
        assert isinstance(made.train_step.model, Switch)
        assert made.train_step.model.candidate is COMPILED
        assert made._candidates() is None
