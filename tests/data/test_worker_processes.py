"""Processes that share work."""

import signal
import subprocess
import sys

from googlenet_fast.data.worker_processes import ignore_sigint

TELL = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"


def test_processes_started_deaf_stay_so_and_this_one_hears() -> None:
    before = signal.getsignal(signal.SIGINT)
    with ignore_sigint():
        deaf = subprocess.run([sys.executable, "-c", TELL], stdout=subprocess.PIPE)
    assert deaf.stdout.strip() == b"True"
    assert signal.getsignal(signal.SIGINT) is before
