"""Runs as torchrun starts them: a worker that dies, two machines, machines that come and go."""

import json
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from googlenet_fast.engine.run_folder import read_metrics
from tests.engine.runs import (
    Run,
    arguments,
    assert_images_come_once,
    assert_same_checkpoint,
    free_port,
    many_classes,
    start_torchrun,
)


@pytest.fixture(scope="module")
def undisturbed(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epoch of two processes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = arguments(few_digits, folder / "run", "--data.batch_size=2", "--epochs=1")
    Run(folder / "log", command, 2).finish()
    return folder / "run"


def assert_ends_well(log: Path, *agents: ForkServerProcess) -> None:
    for agent in agents:
        agent.join(120)
        if agent.exitcode is None:
            agent.terminate()
        assert agent.exitcode == 0, log.read_text()


WORKER = """
import itertools, os, signal, time
from pathlib import Path
from googlenet_fast import train
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.errors import run_command
from tests.engine.runs import Recorder

signal.signal(signal.SIGTERM, signal.SIG_DFL)  # forked, it has the agent's handler
os.chdir(Path(__file__).parent)
{disturbance}
TrainStep.__call__ = train_disturbed
run_command(train.main)
"""

DIES_ONCE = """
train_on, steps = TrainStep.__call__, itertools.count(1)

def train_disturbed(*args, **options):
    if next(steps) == 6 and os.environ["RANK"] + os.environ["TORCHELASTIC_RESTART_COUNT"] == "10":
        os.kill(os.getpid(), signal.SIGKILL)
    train_on(*args, **options)
"""


def worker(folder: Path, disturbance: str) -> tuple[str, ...]:
    """Options for a worker that runs in a folder, disturbed in its steps."""
    script = folder / "worker.py"
    script.write_text(WORKER.format(disturbance=disturbance))
    return "--run-path", "--start-method=fork", str(script)


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(
    undisturbed: Path, few_digits: Path, tmp_path: Path
) -> None:
    """The run goes on in the folder that it made itself, from its last checkpoint."""
    command = arguments(few_digits, tmp_path, "--data.batch_size=2", "--epochs=1")
    at = command.index("--output")
    del command[at : at + 2]
    log = tmp_path / "log"
    agent = start_torchrun(
        log, "--standalone", "--nproc-per-node=2", "--max-restarts=3",
        *worker(tmp_path, DIES_ONCE), *command, "--checkpoint_interval=2",
    )  # fmt: skip
    assert_ends_well(log, agent)
    assert "last.pt at epoch 0.40, step 4" in log.read_text()
    (folder,) = (tmp_path / "runs").iterdir()
    assert_same_checkpoint(undisturbed / "last.pt", folder / "last.pt")


@pytest.mark.slow
def test_two_machines(undisturbed: Path, few_digits: Path, tmp_path: Path) -> None:
    """Two agents on this one, each with a process of its own."""
    command = arguments(few_digits, tmp_path / "run", "--data.batch_size=2", "--epochs=1")
    place = ["--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    logs = [tmp_path / f"log {rank}" for rank in (0, 1)]
    agents = [
        start_torchrun(log, *place, f"--node-rank={rank}", "-m", "googlenet_fast.train", *command)
        for rank, log in enumerate(logs)
    ]
    for log, agent in zip(logs, agents, strict=True):
        assert_ends_well(log, agent)
    result = json.loads(logs[0].read_text().rsplit("RESULT ", 1)[1])
    assert (result["world_size"], result["steps"]) == (2, 10)
    assert "RESULT" not in logs[1].read_text()
    losses, expected = (
        [line["loss"] for line in read_metrics(run / "metrics.jsonl")]
        for run in (tmp_path / "run", undisturbed)
    )
    assert losses == pytest.approx(expected, rel=1e-2)


COMES_AND_GOES = """
Recorder()()
train_on, steps = TrainStep.__call__, itertools.count(1)

def train_disturbed(*args, **options):
    step = next(steps)
    if step == 3 and os.environ["MACHINE"] == "dies":
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    train_on(*args, **options)
    if step == 3 and os.environ["WORLD_SIZE"] == "1":
        print("waits for another machine", flush=True)
        while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            time.sleep(0.01)
"""


@pytest.mark.slow
def test_machines_leave_and_join(tmp_path: Path) -> None:
    """Two, one, and two again: the run goes on in the epoch, which has each image once."""
    command = [*worker(tmp_path, COMES_AND_GOES), *many_classes(tmp_path)]
    endpoint = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    log = tmp_path / "log"

    def start(address: str, machine: str) -> ForkServerProcess:
        # Each agent takes the endpoint's address for its own: only one that stays may serve there.
        is_host = int(machine == "stays")
        times = "keep_alive_interval=1,keep_alive_max_attempt=5,last_call_timeout=5"
        return start_torchrun(
            log, "--nnodes=1:2", "--max-restarts=3", "--rdzv-backend=c10d", endpoint,
            f"--rdzv-conf=is_host={is_host},{times}",
            f"--local-addr={address}", *command, "--checkpoint_interval=1",
            MACHINE=machine, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
        )  # fmt: skip

    stays, dies = start("127.0.0.1", "stays"), start("127.0.0.2", "dies")
    deadline = time.monotonic() + 120
    while not log.exists() or "waits for another machine" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    dies.join()
    assert dies.exitcode == -signal.SIGKILL
    assert_ends_well(log, stays, start("127.0.0.2", "joins"))

    first = assert_images_come_once(tmp_path)
    text = log.read_text()
    assert "at epoch 0.36, step 2\n" in text
    assert "at epoch 0.70, step 5\n" in text
    warmup = [0, 8 / 40, 16 / 44, 20 / 44, 24 / 44, 28 / 40, 36 / 40, 1]
    assert [line["lr"] for line in first[:8]] == pytest.approx([0.02 * x for x in warmup])
    result = json.loads(text.rsplit("RESULT ", 1)[1].splitlines()[0])
    assert (result["world_size"], result["steps"]) == (2, 12)
