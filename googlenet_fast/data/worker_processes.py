"""Share work among processes; only the parent reacts to Ctrl-C."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from googlenet_fast.data.tar_members import Location
from googlenet_fast.errors import UserError

CHUNK = 32
"""Images that a process is given at a time."""

R = TypeVar("R")


@contextmanager
def ignore_sigint() -> Iterator[None]:
    """Let processes started in this context ignore Ctrl-C, which a terminal sends to all.

    They inherit the handler, so even a process that is still importing prints no traceback.
    """
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def parallel_map(
    function: Callable[[Location], R], images: Sequence[Location], processes: int
) -> Iterator[R]:
    """Yield the function's values in order; few images are processed in this process.

    Raises:
        UserError: a process was killed, for example because memory ran out.
    """
    processes = min(processes, len(images) // CHUNK)
    if processes < 2:
        yield from map(function, images)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    try:
        with ignore_sigint():
            results = pool.map(function, images, chunksize=CHUNK)
        yield from results
    except BrokenProcessPool:
        raise UserError(
            f"one of {processes} processes that read images was killed (out of memory?); "
            "choose fewer workers or a smaller max_pixels"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
