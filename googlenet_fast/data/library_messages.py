"""Catch what image libraries print to stderr, where it would stand without a file name.

libjpeg, libpng and libtiff print through the C variable `stderr`, which is replaced. Python, torch
and crash reports do not use it. DALI's own lines about a file that it refuses share a C++ stream
with torch; they are caught where that is safe, while one image is decoded.
"""

import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

IMAGE_LIBRARY = re.compile(
    r"\[ ?(ERROR|WARN|INFO|FATAL)|libpng |_?tiff|\w+(Decode|Decoder|Fixup\w+|Lib): |.*\.tif: "
    r"|(Bogus|Corrupt|Inconsistent|Invalid|Premature|Unknown Adobe|Unsupported|Warning: unknown)"
    r"|.*(JPEG|Huffman|quantiz|scan\b|scanline|sampling|coefficient|Input file|image dimension)",
    re.IGNORECASE,
)
"""Lines of DALI and OpenCV, libpng, libtiff, libjpeg."""
SOURCE = re.compile(r"(\[\w+\] )+|Corrupt JPEG data: |libpng \w+: ")
"""How lines begin that say who wrote them, which does not help the reader."""

_lock = Lock()
_users = 0
_terminal: int | None = None
"""The stream that `stderr` was before the first user."""


class Messages:
    """The lines that image libraries printed since this object was made."""

    def __init__(self) -> None:
        stream = _stream()
        self._seen = 0 if stream is None else stream.size()

    def take(self) -> list[str]:
        """Return the lines since the last call, without colours, repetitions and who wrote them."""
        stream = _stream()
        if stream is None or stream.size() == self._seen:
            return []
        start, self._seen = self._seen, stream.size()
        lines = filter(IMAGE_LIBRARY.match, stream.lines(start, self._seen))
        return list(dict.fromkeys(SOURCE.sub("", line) for line in lines))


@contextmanager
def caught() -> Iterator[Messages]:
    """Catch lines in this process; those of other libraries are printed a little later.

    Users at the same time, in other threads or loaders, catch the same lines.
    """
    global _users, _terminal
    messages = Messages()
    stream = _stream()
    with _lock:
        _users += 1
        if stream is not None and _users == 1:
            _terminal, stream.variable.value = stream.variable.value, stream.file
    try:
        yield messages
    finally:
        with _lock:
            _users -= 1
            if stream is not None:
                stream.pass_others()
                if _users == 0:
                    stream.variable.value = _terminal


@contextmanager
def all_caught() -> Iterator[Messages]:
    """Catch whatever is printed to stderr's descriptor, for the time of a short decoding."""
    with caught() as messages:
        if (stream := _stream()) is None:
            yield messages
            return
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(stream.descriptor, 2)
        try:
            yield messages
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


class _Stream:
    """An open C stream onto a file without a name, in place of the C variable `stderr`."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        name = "__stderrp" if sys.platform == "darwin" else "stderr"
        self.variable = ctypes.c_void_p.in_dll(libc, name)
        with tempfile.TemporaryFile() as file:
            self.descriptor = os.dup(file.fileno())
        libc.fdopen.restype = ctypes.c_void_p
        libc.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        self.file = libc.fdopen(self.descriptor, b"a")
        if not self.file:
            raise OSError("fdopen")
        libc.setvbuf(self.file, None, 2, 0)  # unbuffered: _IONBF
        self._passed = 0

    def size(self) -> int:
        """Return the bytes printed so far."""
        return os.fstat(self.descriptor).st_size

    def lines(self, start: int, end: int) -> list[str]:
        """Return the lines in a range of bytes, without colours."""
        text = os.pread(self.descriptor, end - start, start).decode(errors="replace")
        lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
        return [line.strip() for line in lines if line.strip()]

    def pass_others(self) -> None:
        """Print the new lines that no image library wrote."""
        if (end := self.size()) > self._passed:
            start, self._passed = self._passed, end
            for line in self.lines(start, end):
                if not IMAGE_LIBRARY.match(line):
                    print(line, file=sys.stderr)


@cache
def _stream() -> _Stream | None:
    """Return this process's stream; it is never closed, because a library may still print to it.

    None where the C library has no such variable: nothing is caught there.
    """
    try:
        return _Stream()
    except (ValueError, AttributeError, OSError, TypeError):
        return None
