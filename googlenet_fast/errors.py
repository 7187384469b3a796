"""The one exception for bad input, and how commands report it."""

import copy
import difflib
import errno
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

ADDRESS_SPACE = 4 << 30
"""Bytes of address space that a command needs: importing torch with CUDA maps 3.2 GiB, reading
images with DALI another 0.6 GiB."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Of writes to a full disk, or beyond a quota or limit."""

_CONTROLS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, line ends, changes of direction, and bytes that are not text."""


class GoogLeNetError(ValueError):
    """Input that cannot be used: a path, a flag, a file's content.

    The message is one line: the file, flag or field, and what to do about it.
    """


def printable(text: object) -> str:
    """Return a text of a file or a user in one line; what would control a terminal is escaped."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


class _PrintableArguments(logging.Formatter):
    """Escapes the arguments of messages; the messages themselves are the package's."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            record = copy.copy(record)
            record.args = tuple(
                value if isinstance(value, int | float) else printable(value)
                for value in record.args or ()
            )
        return super().format(record)


def log_to_stderr(level: int) -> None:
    """Print the log of a command, if its caller has not set up logging."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableArguments("%(message)s"))
    logging.basicConfig(handlers=[handler], level=level)


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean X?" with the choice that resembles `word`, or ""."""
    nearest = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def check_address_space() -> None:
    """Exit with one line if `ulimit -v` is too small to import torch, which may abort instead."""
    if (limit := _address_space()) is not None and limit < ADDRESS_SPACE:
        needed = ADDRESS_SPACE >> 10
        _exit(f"ulimit -v {limit >> 10}: is too small, {needed} or more is needed; raise the limit")


def end_on_interrupt() -> None:
    """Let Ctrl-C end this process without a traceback until `run_command`: for long imports."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def long_imports() -> Iterator[None]:
    """Let Ctrl-C end this process without a traceback in this context, where torch is imported."""
    is_main = threading.current_thread() is threading.main_thread()  # others set no handlers
    if is_main:
        end_on_interrupt()
    try:
        yield
    finally:
        if is_main:
            _interrupt_python()


def _interrupt_python() -> None:
    """Undo `end_on_interrupt`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_command(main: Callable[[], object]) -> None:
    """Run an entry point; a `GoogLeNetError` becomes one line on stderr and exit status 2.

    So does a lack of memory under `ulimit -v`. Ctrl-C exits without a message, with status 130 as
    in shells.
    """
    _interrupt_python()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except GoogLeNetError as error:
        _exit(printable(error))
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            _leave_unwritten()
            _exit(f"the output cannot be written: {error.strerror}")
        limit = _address_space()
        if limit is None or not _is_lack_of_memory(error):
            raise
        _exit(f"ulimit -v {limit >> 10}: is too small for this command; raise the limit")


def _leave_unwritten() -> None:
    """Let Python end without writing what is left for stdout, which would fail again."""
    with suppress(OSError, ValueError):  # stdout may be closed, or no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _address_space() -> int | None:
    """Return the limit of this process's address space in bytes (ulimit -v); None without one."""
    if resource is None:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _is_lack_of_memory(error: Exception) -> bool:
    """Recognise what Python, its loader of libraries, and torch raise."""
    words = (
        "cannot allocate memory",
        "can't allocate memory",
        "bad_alloc",
        "failed to map segment",
    )
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or any(text in str(error).lower() for text in words)
    )
