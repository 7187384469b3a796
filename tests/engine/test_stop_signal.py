"""Stop requests: one signal asks, a second one acts; all processes stop at the same step."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from googlenet_fast.engine.stop_signal import StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_a_request(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignal(world_size=1) as stop:
        assert not stop.poll()
        os.kill(os.getpid(), number)
        assert stop.poll()
        assert stop.signal == number
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, even where the tests run in the background, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_second_interrupt_acts() -> None:
    with StopSignal(world_size=1):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


COUNT_STEPS = """
import os, signal, sys
from pathlib import Path
import torch.distributed as dist
from googlenet_fast.engine.stop_signal import StopSignal

dist.init_process_group("gloo")
steps = 0
with StopSignal(world_size=2) as stop:
    while not stop.poll():
        if dist.get_rank() == 1 and steps == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        steps += 1
Path(sys.argv[1], f"steps{dist.get_rank()}").write_text(str(steps))
dist.destroy_process_group()
"""


def test_processes_agree_on_the_step(tmp_path: Path) -> None:
    script = tmp_path / "count_steps.py"
    script.write_text(COUNT_STEPS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, str(script), str(tmp_path)], check=True, timeout=120)
    steps = [int((tmp_path / f"steps{rank}").read_text()) for rank in range(2)]
    assert steps[0] == steps[1]
    assert 6 <= steps[0] <= 8
