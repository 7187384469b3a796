"""Processes that share work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from googlenet_fast.data.tar_members import Location
from googlenet_fast.data.worker_processes import ignore_sigint

SHOW = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"


def test_started_processes_ignore_sigint_and_this_one_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with ignore_sigint():
        child = subprocess.run([sys.executable, "-c", SHOW], stdout=subprocess.PIPE)
    assert child.stdout.strip() == b"True"
    assert signal.getsignal(signal.SIGINT) is before


HANG = """
from googlenet_fast.data.tar_members import Location
from googlenet_fast.data.worker_processes import CHUNK, parallel_map
from tests.data.test_worker_processes import hang
for _ in parallel_map(hang, [Location("x", "x")] * (2 * CHUNK), 2):
    pass
"""


def hang(image: Location) -> int:
    """Tell the process that reads, and never return."""
    os.write(1, f"{os.getpid()}\n".encode())
    time.sleep(1000)
    return 0


def is_running(process: int) -> bool:
    """Return False also for one that has ended and that nobody has asked about."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_processes_that_hang_end_with_this_one(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANG], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    workers = [int(process.stdout.readline()) for _ in range(2)]
    process.send_signal(number)
    process.wait(timeout=15)
    time.sleep(1)
    left = [worker for worker in workers if is_running(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left
