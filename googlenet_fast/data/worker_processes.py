"""Share work among processes; only the parent reacts to Ctrl-C."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from googlenet_fast.data.tar_members import Location
from googlenet_fast.errors import GoogLeNetError

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


def end_with_parent() -> None:
    """Let this process end when the one that started it does, also while it waits for a file."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="end_with_parent", daemon=True).start()


def parallel_map(
    function: Callable[[Location], R], images: Sequence[Location], processes: int
) -> Iterator[R]:
    """Yield the function's values in order; few images are processed in this process.

    Raises:
        GoogLeNetError: a process was killed, for example because memory ran out.
    """
    processes = min(processes, len(images) // CHUNK)
    if processes < 2:
        yield from map(function, images)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, spawn, initializer=end_with_parent)
    workers: list[multiprocessing.Process] = []
    try:
        with ignore_sigint():
            results = pool.map(function, images, chunksize=CHUNK)
        workers = list(pool._processes.values())  # there is no public way to end them before 3.14
        yield from results
        workers.clear()
    except BrokenProcessPool:
        raise GoogLeNetError(
            f"one of {processes} processes that read images was killed (out of memory?); "
            "choose fewer workers or a smaller max_pixels"
        ) from None
    finally:
        for worker in workers:  # after Ctrl-C, or an error; one may wait for a dead drive
            worker.kill()
        pool.shutdown(cancel_futures=True)
