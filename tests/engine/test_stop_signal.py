"""Stop requests: one signal asks, a second one acts; all processes stop at the same step."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from googlenet_fast.engine.distributed import distributed
from googlenet_fast.engine.stop_signal import StopSignal
from tests.engine.runs import finish, free_port, in_environment, warm_process


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


def count_steps(folder: Path) -> None:
    """Stop in the sixth step of the second process."""
    with distributed("cpu") as process:
        steps = 0
        with StopSignal(world_size=2) as stop:
            while not stop.poll():
                if process.rank == 1 and steps == 5:
                    os.kill(os.getpid(), signal.SIGTERM)
                steps += 1
    (folder / str(process.rank)).write_text(str(steps))


def test_processes_agree_on_the_step(tmp_path: Path) -> None:
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    finish(
        *(
            warm_process(in_environment, {**environment, "RANK": rank}, count_steps, tmp_path)
            for rank in "01"
        )
    )
    steps = [int((tmp_path / rank).read_text()) for rank in "01"]
    assert steps[0] == steps[1]
    assert 6 <= steps[0] <= 8
