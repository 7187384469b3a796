"""Runs that are killed, again and again, end with the weights of a run that was left alone."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.engine.runs import Run, arguments, assert_same_checkpoint

KILLS = 11
"""Of the runs of one process, and of those of two."""


@pytest.mark.parametrize("world_size", [1, 2])
def test_killed_at_random(world_size: int, few_digits: Path, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)

    def start(name: str) -> Run:
        batch_size = str(4 // world_size)
        command = arguments(few_digits, tmp_path / name, "--data.batch_size", batch_size)
        command += [
            "--log_interval",
            "1",
            "--checkpoint_interval",
            "2",
            "--resume",
            "auto",
            "--timeout",
            "20",
        ]
        return Run(tmp_path / f"{name}.log", command, world_size)

    start("undisturbed").finish()
    kills = runs = 0
    while kills < KILLS:
        runs += 1
        name = f"run {runs}"
        while kills < KILLS:
            run = start(name)
            alive = run.wait_for_steps(chance.randrange(4))
            time.sleep(chance.random() / 4)
            number = chance.choice([signal.SIGKILL, signal.SIGTERM])
            run.kill(chance.randrange(world_size), number)
            kills += alive
            statuses = run.wait()
            print(kills, number, statuses, time.strftime("%T"), name)
            if not any(statuses):
                break
        start(name).finish()
        assert_same_checkpoint(tmp_path / "undisturbed/last.pt", tmp_path / name / "last.pt")
