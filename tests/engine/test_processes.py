"""Runs of several processes: they equal one, change in number, and notice one that is lost."""

import itertools
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from googlenet_fast.data.sampling import BatchSampler
from googlenet_fast.engine import trainer
from googlenet_fast.engine.checkpoint import load_checkpoint
from googlenet_fast.engine.distributed import distributed
from googlenet_fast.engine.evaluation import evaluate
from googlenet_fast.engine.run_folder import read_metrics
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.model import GoogLeNet
from tests.engine.runs import (
    Recorder,
    Run,
    arguments,
    assert_images_come_once,
    finish,
    free_port,
    in_environment,
    many_classes,
    warm_process,
)

EXACT = ("--model.preset", "paper", "--model.dropout", "0", "--optimizer.lr", "3e-4")
"""Without batch norm and dropout, whose outcome depends on how a batch is divided."""


def in_double() -> None:
    """Let the network compute in float64, where rounding hides nothing."""
    build, forward = trainer.build_model, GoogLeNet.forward
    trainer.build_model = lambda *args: build(*args).double()
    GoogLeNet.forward = lambda model, images: forward(model, images.double())  # type: ignore[method-assign, assignment]


@pytest.fixture(scope="module")
def one_in_double(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of 20 steps in float64."""
    folder = tmp_path_factory.mktemp("one")
    command = arguments(few_digits, folder / "run", *EXACT)
    Run(folder / "log", command, prepare=in_double).finish()
    return folder / "run"


def assert_same_losses(one: Path, other: Path, tolerance: float) -> None:
    metrics = [read_metrics(folder / "metrics.jsonl") for folder in (one, other)]
    assert metrics[0][-1]["step"] == 20
    for a, b in zip(*metrics, strict=True):
        assert a["step"] == b["step"]
        assert a["loss"] == pytest.approx(b["loss"], rel=tolerance)


def assert_same_weights(one: Path, other: Path, tolerance: float) -> None:
    a, b = (load_checkpoint(folder / "last.pt")["model"] for folder in (one, other))
    for key, tensor in a.items():
        assert (b[key] - tensor).norm() <= tolerance * tensor.norm(), key


@pytest.mark.slow
def test_two_processes_equal_one(few_digits: Path, tmp_path: Path) -> None:
    """20 steps of the same global batch. Rounding flips a few ReLUs, from where on the weights
    differ by more than it; in float64, below, it does not."""
    for name, world_size in (("one", 1), ("two", 2)):
        command = arguments(few_digits, tmp_path / name, *EXACT)
        command += ["--data.batch_size", str(4 // world_size)]
        Run(tmp_path / "log", command, world_size).finish()
    assert_same_losses(tmp_path / "one", tmp_path / "two", 1e-2)
    assert_same_weights(tmp_path / "one", tmp_path / "two", 5e-3)


@pytest.mark.slow
def test_two_processes_equal_one_in_double(
    one_in_double: Path, few_digits: Path, tmp_path: Path
) -> None:
    command = arguments(few_digits, tmp_path / "two", *EXACT, "--data.batch_size", "2")
    Run(tmp_path / "log", command, 2, in_double).finish()
    assert_same_losses(one_in_double, tmp_path / "two", 1e-6)  # evaluation's is in float32
    assert_same_weights(one_in_double, tmp_path / "two", 1e-13)


@pytest.mark.slow
def test_a_smaller_last_step_is_shared_out(few_digits: Path, tmp_path: Path) -> None:
    """40 images are six steps of six and one of four, in any case."""
    for name, world_size in (("one", 1), ("two", 2)):
        command = arguments(
            few_digits, tmp_path / name, *EXACT, "--epochs=1", "--data.drop_last=false",
            "--data.batch_size", str(6 // world_size),
        )  # fmt: skip
        Run(tmp_path / "log", command, world_size, in_double).finish()
    assert load_checkpoint(tmp_path / "two" / "last.pt")["step"] == 7
    assert_same_weights(tmp_path / "one", tmp_path / "two", 1e-13)


@pytest.mark.slow
def test_the_number_of_processes_changes_within_an_epoch(tmp_path: Path) -> None:
    """Two, one and two again, with batches of eight, four and eight."""
    command = many_classes(tmp_path)
    logs = []
    for world_size, stop_after in ((2, 1), (1, 3), (2, None)):
        run = Run(tmp_path / "log", command, world_size, Recorder(stop_after))
        expected = 0 if stop_after is None else 128 + signal.SIGTERM
        assert run.wait()[0] == expected, run.tail()
        logs.append(run.log.read_text())
    # Processes agree on a signal a step later.
    first = assert_images_come_once(tmp_path)
    assert "at epoch 0.36, step 2\n" in logs[1]
    assert "at epoch 0.70, step 5\n" in logs[2]
    warmup = [0, 8 / 40, 16 / 44, 20 / 44, 24 / 44, 28 / 40, 36 / 40]
    assert [line["lr"] for line in first[:7]] == pytest.approx([0.02 * x for x in warmup])
    assert first[7]["lr"] == pytest.approx(0.02)


class StoppedInDouble(Recorder):
    """Both at once."""

    def __call__(self) -> None:
        in_double()
        super().__call__()


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(
    one_in_double: Path, few_digits: Path, tmp_path: Path
) -> None:
    """With the same global batch: two processes' batches of two, or one's, one after the other."""
    for world_size, stop_after in ((2, 6), (1, 12), (2, None)):
        command = arguments(
            few_digits, tmp_path / "run", *EXACT, "--resume", "auto", "--data.batch_size", "2",
            "--accumulate", str(2 // world_size),
        )  # fmt: skip
        Run(tmp_path / "log", command, world_size, StoppedInDouble(stop_after)).wait()
    assert_same_weights(one_in_double, tmp_path / "run", 1e-13)


def hang() -> None:
    """Make the second process hang in the fourth step."""
    train_on, steps = TrainStep.__call__, itertools.count(1)

    def train_or_hang(step: TrainStep, *batch: Tensor, update: bool = True) -> None:
        if next(steps) == 4 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGSTOP)
        train_on(step, *batch, update=update)

    TrainStep.__call__ = train_or_hang  # type: ignore[method-assign, assignment]


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_run(few_digits: Path, tmp_path: Path) -> None:
    command = arguments(few_digits, tmp_path / "run", "--timeout=3", "--checkpoint_interval=2")
    run = Run(tmp_path / "log", command, 2, hang)
    run.processes[0].join(60)
    run.kill(1, signal.SIGKILL)
    assert run.wait() == [2, -signal.SIGKILL], run.tail()
    lost = "process 0 of 2: another process ended, or hangs and did not answer for 3 s"
    assert lost in run.tail()
    assert "Traceback" not in run.log.read_text()
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 2


@pytest.mark.slow
def test_a_process_that_never_comes(few_digits: Path, tmp_path: Path) -> None:
    command = arguments(few_digits, tmp_path / "run", "--timeout", "2")
    run = Run(tmp_path / "log", command, 2)
    run.kill(1, signal.SIGKILL)
    assert run.wait() == [2, -signal.SIGKILL], run.tail()
    assert "error: cannot meet the other processes at 127.0.0.1:" in run.tail()


def evaluate_few_images(results: Path) -> None:
    """Evaluate sets of 1 to 7 images, in batches of 1 to 4, by three processes."""
    confusions = []
    with distributed("cpu") as process:
        for images, batch_size in itertools.product(range(1, 8), range(1, 5)):
            sampler = BatchSampler(images, batch_size, None, 0, process.rank, process.world_size)
            batches = [
                (torch.eye(7)[batch.indices], torch.from_numpy(batch.indices))
                for batch in sampler.batches(0)
            ]
            evaluation = evaluate(torch.nn.Identity(), batches, process, 7)
            confusions.append((images, evaluation.confusion))
    torch.save(confusions, results / str(process.rank))


def test_evaluation_counts_each_image_once(tmp_path: Path) -> None:
    """Also where there are fewer images than processes."""
    environment = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        warm_process(in_environment, {**environment, "RANK": str(r)}, evaluate_few_images, tmp_path)
        for r in range(3)
    ]
    finish(*processes)
    for rank in range(3):
        for images, confusion in torch.load(tmp_path / str(rank)):
            assert torch.equal(confusion, torch.diag((torch.arange(7) < images).long()))
