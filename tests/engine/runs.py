"""Training runs in processes of their own, which need not import torch: a warm one forks them."""

import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import run as torchrun

from googlenet_fast import train
from googlenet_fast.data import sample_dataset
from googlenet_fast.engine.checkpoint import load_checkpoint
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.errors import run_command

Prepare = Callable[[], None]
"""A function of a module, called in each process before it trains."""


def arguments(few_digits: Path, output: Path, *more: str) -> list[str]:
    """Two epochs of ten steps on the CPU."""
    return [
        "-c", "digits", "--data.train_list", str(few_digits / "train_list.txt"),
        "--data.val_list", str(few_digits / "val_list.txt"), "--data.root", str(sample_dataset()),
        "--output", str(output), "--data.batch_size", "4", "--epochs", "2", "--log_interval", "3",
        "--device", "cpu", *more,
    ]  # fmt: skip


class Run:
    """The processes of one run, as torchrun would start them, and what they print."""

    def __init__(
        self, log: Path, command: Sequence[str], world_size: int = 1, prepare: Prepare | None = None
    ) -> None:
        self.log = log
        log.write_text("")
        port = str(free_port())
        self.processes: list[ForkServerProcess] = []
        for rank in range(world_size):
            environment = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }  # fmt: skip
            process = warm_process(in_environment, environment, _train, log, list(command), prepare)
            self.processes.append(process)

    def wait_for_steps(self, count: int) -> bool:
        """Whether it begins to train and logs that many steps before a process ends."""
        while not self._has_begun() or self._steps() < count:
            if any(process.exitcode is not None for process in self.processes):
                return False
            time.sleep(0.005)
        return True

    def _has_begun(self) -> bool:
        return "GoogLeNet preset" in self.log.read_text()

    def _steps(self) -> int:
        return sum(line.startswith("epoch ") for line in self.log.read_text().splitlines())

    def kill(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to a process, if it lives."""
        process = self.processes[rank]
        if process.exitcode is None:
            assert process.pid is not None
            os.kill(process.pid, number)

    def wait(self) -> list[int]:
        """The processes' exit statuses."""
        for process in self.processes:
            process.join(120)
            if process.exitcode is None:
                process.kill()
                process.join()
        return [process.exitcode or 0 for process in self.processes]

    def finish(self) -> None:
        """See to it that the run ends well."""
        assert not any(self.wait()), self.log.read_text()

    def tail(self) -> str:
        """The last of what it printed."""
        return self.log.read_text()[-2000:]


def start_torchrun(log: Path, *command: str, **environment: str) -> ForkServerProcess:
    """An agent, as the command torchrun is on each machine; it appends to the log.

    With --run-path and --start-method=fork its workers are forked from it.
    """
    return warm_process(in_environment, environment, _torchrun, log, list(command))


def warm_process(target: Callable[..., None], *args: Any) -> ForkServerProcess:
    """A process that runs a function of a module."""
    process = _warm().Process(target=target, args=args)
    process.start()
    return process


def finish(*processes: ForkServerProcess) -> None:
    """See to it that warm processes end well."""
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_same_checkpoint(a: Path, b: Path) -> None:
    """Equal to the bit."""
    first, second = load_checkpoint(a), load_checkpoint(b)
    for part in ("model", "ema"):
        assert first.get(part, {}).keys() == second.get(part, {}).keys()
        for key, tensor in first.get(part, {}).items():
            assert torch.equal(tensor, second[part][key]), f"{part} {key}"
    momenta, others = (state["optimizer"]["state"] for state in (first, second))
    for key, momentum in momenta.items():
        assert torch.equal(momentum["momentum_buffer"], others[key]["momentum_buffer"])
    assert [first[key] for key in ("epoch", "images_seen", "step")] == [
        second[key] for key in ("epoch", "images_seen", "step")
    ]


def many_classes(folder: Path) -> list[str]:
    """Options for lists of 44 training images whose label is their number."""
    digits = sample_dataset()
    for split, count in (("train", 44), ("val", 10)):
        lines = (digits / f"{split}_list.txt").read_text().splitlines()[:count]
        images = [f"{line.split()[0]} {label}\n" for label, line in enumerate(lines)]
        (folder / f"{split}_list.txt").write_text("".join(images))
    return arguments(folder, folder / "run", "--resume", "auto")


@dataclass
class Recorder:
    """Notes what a process trains on, and has it stopped after some steps."""

    stop_after: int | None = None

    def __call__(self) -> None:
        folder = Path(sys.argv[sys.argv.index("--output") + 1])
        file = (folder.parent / f"trained on by {os.environ['RANK']}").open("a")
        train_on, steps = TrainStep.__call__, itertools.count(1)

        def record(step: TrainStep, images: Tensor, labels: Tensor, *, update: bool = True) -> None:
            train_on(step, images, labels, update=update)
            lr = step.optimizer.param_groups[0]["scheduled_lr"]
            file.write(json.dumps({"lr": lr, "images": labels.tolist()}) + "\n")
            file.flush()
            if next(steps) == self.stop_after and os.environ["RANK"] == "0":
                os.kill(os.getpid(), signal.SIGTERM)

        TrainStep.__call__ = record  # type: ignore[method-assign, assignment]


def recorded(folder: Path, rank: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"trained on by {rank}").open()]


def assert_images_come_once(folder: Path) -> list[dict[str, Any]]:
    """Check what processes trained on of `many_classes` that were two, one and two within an epoch.

    2 steps of two, 3 of one, 2 and then 5 of two.

    Returns:
        What the first process recorded.
    """
    first, second = (recorded(folder, rank) for rank in (0, 1))
    assert (len(first), len(second)) == (2 + 3 + 2 + 5, 2 + 2 + 5)
    begun = [image for line in first[:7] + second[:4] for image in line["images"]]
    assert sorted(begun) == list(range(44))
    whole = [image for line in first[7:] + second[4:] for image in line["images"]]
    assert len(set(whole)) == len(whole) == 40
    return first


@cache
def _warm() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["googlenet_fast.train", "googlenet_fast.data.dali"])
    return context


def in_environment(environment: dict[str, str], target: Callable[..., None], *args: Any) -> None:
    """Call a function with these environment variables and one thread."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    target(*args)


def _torchrun(log: Path, command: list[str]) -> None:
    _print_to(log)
    torchrun.main(command)


def _train(log: Path, command: list[str], prepare: Prepare | None) -> None:
    _print_to(log)
    sys.argv = ["train", *command]
    if prepare is not None:
        prepare()
    run_command(train.main)


def _print_to(log: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
