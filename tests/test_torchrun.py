"""Runs as torchrun starts them: a worker that dies, and two machines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from googlenet_fast.engine.run_folder import read_metrics
from tests.engine.runs import Run, arguments, assert_same_checkpoint, free_port

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture(scope="module")
def undisturbed(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epoch of two processes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = arguments(few_digits, folder / "run", "--data.batch_size=2", "--epochs=1")
    Run(folder / "log", command, 2).finish()
    return folder / "run"


DIES_ONCE = """
import os, signal
from googlenet_fast import train
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.errors import run_command

train_on, steps = TrainStep.__call__, 0

def train_or_die(*args, **options):
    global steps
    steps += 1
    if steps == 6 and os.environ["RANK"] + os.environ["TORCHELASTIC_RESTART_COUNT"] == "10":
        os.kill(os.getpid(), signal.SIGKILL)
    train_on(*args, **options)

TrainStep.__call__ = train_or_die
run_command(train.main)
"""


def test_a_worker_that_dies_is_replaced(
    undisturbed: Path, few_digits: Path, tmp_path: Path
) -> None:
    """The run goes on in the folder that it made itself, from its last checkpoint."""
    script = tmp_path / "dies_once.py"
    script.write_text(DIES_ONCE)
    command = arguments(few_digits, tmp_path, "--data.batch_size=2", "--epochs=1")
    at = command.index("--output")
    del command[at : at + 2]
    done = subprocess.run(
        [
            *TORCHRUN, "--standalone", "--nproc-per-node=2", "--max-restarts=3", str(script),
            *command, "--checkpoint_interval=2",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "last.pt at epoch 0.40, step 4" in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert_same_checkpoint(undisturbed / "last.pt", folder / "last.pt")


def test_two_machines(undisturbed: Path, few_digits: Path, tmp_path: Path) -> None:
    """Two agents on this one, each with a process of its own."""
    command = arguments(few_digits, tmp_path / "run", "--data.batch_size=2", "--epochs=1")
    place = ["--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    agents = [
        subprocess.Popen(
            [*TORCHRUN, *place, f"--node-rank={rank}", "-m", "googlenet_fast.train", *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ),
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [agent.communicate(timeout=240)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    result = json.loads(outputs[0].rsplit("RESULT ", 1)[1])
    assert (result["world_size"], result["steps"]) == (2, 10)
    assert "RESULT" not in outputs[1]
    losses, expected = (
        [line["loss"] for line in read_metrics(run / "metrics.jsonl")]
        for run in (tmp_path / "run", undisturbed)
    )
    assert losses == pytest.approx(expected, rel=1e-2)
