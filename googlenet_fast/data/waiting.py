"""Name the file that a process waits for, and let Ctrl-C and SIGTERM end the wait.

A read from a dead network drive may never return, and a signal's handler does not run while a
decoder waits for one. So a thread watches the main thread.
"""

import logging
import multiprocessing
import os
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, NoReturn

SLOW = 30.0
"""Seconds after which a wait is told."""
GRACE = 10.0
"""Seconds that a wait may last after a signal."""
PATIENCE = 2.0
"""Seconds for finding the file, of several, that cannot be read."""

_log = logging.getLogger("googlenet_fast")


class _Wait:
    """A wait of the main thread for one of some files."""

    def __init__(self, files: Callable[[], Iterable[str]]) -> None:
        self.files = files
        self.since = time.monotonic()
        self.told = False


class _Watch:
    """What the watching thread knows; one for each process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.waits: list[_Wait] = []
        """The innermost last."""
        self.signals = -1
        """File descriptor from which the numbers of signals are read, or -1."""
        threading.Thread(target=self._run, name="waiting", daemon=True).start()

    def _run(self) -> None:
        signalled: tuple[int, float] | None = None
        while True:
            source = self.signals
            if select.select([source] if source >= 0 else [], [], [], 1.0)[0]:
                if numbers := os.read(source, 64):
                    signalled = numbers[0], time.monotonic()
                else:  # the command has ended
                    os.close(source)
            wait, now = next(iter(self.waits[-1:]), None), time.monotonic()
            if wait is None:
                continue
            if signalled is not None and now - max(wait.since, signalled[1]) > GRACE:
                _end(signal.Signals(signalled[0]), _stuck(wait.files))
            if now - wait.since > SLOW and not wait.told:
                wait.told = True
                _log.warning("still waiting for %s after %.0f s", _stuck(wait.files), SLOW)


_watch: _Watch | None = None


@contextmanager
def waiting_for(files: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Name a file if this block takes long in the main thread.

    Args:
        files: Gives the files of which one may be what is waited for.
    """
    global _watch
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _watch is None or _watch.process != os.getpid():  # a forked process has no such thread
        _watch = _Watch()
    waits = _watch.waits
    waits.append(_Wait(files))
    try:
        yield
    finally:
        waits.pop()


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """End this process if it still waits for a file a while after SIGINT or SIGTERM.

    For commands: a process that must not end like this, as of a notebook, does not call it.
    """
    global _watch
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _watch is None or _watch.process != os.getpid():
        _watch = _Watch()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _watch.signals, before = reader, _watch.signals
    try:
        yield
    finally:
        _watch.signals = before
        signal.set_wakeup_fd(previous)
        os.close(writer)  # the thread, which may wait for the reader, closes that


def _stuck(files: Callable[[], Iterable[str]]) -> str:
    """Return the file that cannot be read at once, or how many it may be one of."""
    candidates = list(dict.fromkeys(files()))
    at = ""

    def probe() -> None:
        nonlocal at
        for at in candidates:
            with suppress(OSError), _opened(at) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return
                file.read(1)
        at = candidates[0] if len(candidates) == 1 else f"one of {len(candidates)} files"

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return at


def _opened(file: str) -> BinaryIO:
    """Open a file, which for a pipe does not wait for its writer."""
    return os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb")


def _end(number: signal.Signals, file: str) -> NoReturn:
    print(
        f"error: {file}: could not be read for {GRACE:.0f} s after {number.name}; ended at once",
        file=sys.stderr,
        flush=True,
    )
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(128 + number)
