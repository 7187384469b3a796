"""Processes that share work."""

import signal
import subprocess
import sys

from googlenet_fast.data.worker_processes import ignore_sigint

SHOW = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"


def test_started_processes_ignore_sigint_and_this_one_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with ignore_sigint():
        child = subprocess.run([sys.executable, "-c", SHOW], stdout=subprocess.PIPE)
    assert child.stdout.strip() == b"True"
    assert signal.getsignal(signal.SIGINT) is before
