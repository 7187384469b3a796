"""Stop requests: one signal asks, a second one acts; all processes stop at the same step."""

import os
import signal
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

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


def test_second_interrupt_acts() -> None:
    with StopSignal(world_size=1):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def _count_steps(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    steps = 0
    with StopSignal(world_size=2) as stop:
        while not stop.poll():
            if rank == 1 and steps == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            steps += 1
    Path(folder, f"steps{rank}").write_text(str(steps))
    dist.destroy_process_group()


def test_processes_agree_on_the_step(tmp_path: Path) -> None:
    mp.spawn(_count_steps, args=(str(tmp_path),), nprocs=2)
    steps = [int((tmp_path / f"steps{rank}").read_text()) for rank in range(2)]
    assert steps[0] == steps[1]
    assert 6 <= steps[0] <= 8
