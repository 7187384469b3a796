"""Runs that are killed, again and again, end with the weights of a run that was left alone."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.engine.runs import Run, arguments, assert_same_checkpoint

KILLS = 4
"""Of the runs of one process, and of those of two."""


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_killed_at_random(world_size: int, few_digits: Path, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)

    def start(name: str) -> Run:
        command = arguments(few_digits, tmp_path / name, f"--data.batch_size={4 // world_size}")
        command += ["--log_interval=1", "--checkpoint_interval=2", "--resume=auto", "--timeout=20"]
        return Run(tmp_path / f"{name}.log", command, world_size)

    start("undisturbed").finish()
    kills = runs = 0
    while kills < KILLS:
        runs += 1
        name = f"run {runs}"
        ended = False
        while kills < KILLS and not ended:
            run = start(name)
            began = run.wait_for_steps(chance.randrange(4))
            time.sleep(chance.random() / 4)
            run.kill(chance.randrange(world_size), chance.choice([signal.SIGKILL, signal.SIGTERM]))
            ended = not any(run.wait())
            kills += began and not ended
            assert "Traceback" not in run.log.read_text(), run.tail()
        start(name).finish()
        assert_same_checkpoint(tmp_path / "undisturbed/last.pt", tmp_path / name / "last.pt")
