"""Download files: bounded in size and time, encrypted or of a known digest, whole or not at all."""

import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from tqdm import tqdm

from googlenet_fast.errors import GoogLeNetError, printable
from googlenet_fast.files import remove_unfinished, unfinished

try:
    import fcntl
except ImportError:  # Windows has no fcntl; there two processes may download the same file
    fcntl = None  # type: ignore[assignment]

STALL = 30.0
"""Seconds without a byte after which a server counts as gone."""
ATTEMPTS = 3
"""Tries of a download whose server fails or falls silent."""
REDIRECTS = 5
"""The longest chain of redirections that is followed."""
_CHUNK = 1 << 16
_LOST = (
    http.client.IncompleteRead, http.client.BadStatusLine, TimeoutError, ConnectionResetError,
)  # fmt: skip
_LOCAL = ("localhost", "127.0.0.1", "::1")

_log = logging.getLogger("googlenet_fast")


class DownloadError(GoogLeNetError):
    """What keeps a file from being downloaded, in one line with its URL."""

    def __init__(
        self, url: str, reason: object, *, again: bool = False, unreachable: bool = False
    ) -> None:
        super().__init__(f"{printable(url)}: cannot be downloaded ({printable(reason)})")
        self.again = again
        """The next try may succeed."""
        self.unreachable = unreachable
        """The server did not answer, as where there is no network."""


def is_url(text: object) -> bool:
    """Return True for a text that starts with http:// or https://."""
    return isinstance(text, str) and re.match(r"https?://", text, re.IGNORECASE) is not None


def fetch(
    url: str,
    *,
    most_bytes: int,
    seconds: float,
    any_http: bool = False,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Return what a URL gives.

    Args:
        url: of a file.
        most_bytes: a larger one is refused.
        seconds: the longest that it may take.
        any_http: take `http` from any host, not from this machine alone.
        headers: of the request; they go to the host of the URL alone.

    Raises:
        DownloadError: names the URL and the reason.
    """
    chunks: list[bytes] = []
    limits: dict[str, Any] = {"most_bytes": most_bytes, "seconds": seconds, "any_http": any_http}
    _stream(url, chunks.append, headers=headers or {}, **limits)
    return b"".join(chunks)


def download(
    url: str,
    path: Path,
    *,
    most_bytes: int,
    seconds: float,
    digest: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Download a URL to a file, unless the file is there. Any number of processes may call.

    A download that fails midway is tried again from its start; nothing of it is left.

    Args:
        url: `https`; `http` only of this machine, or with a whole SHA-256 as `digest`.
        path: the file; its folder is made, and holds nothing else.
        most_bytes: a larger file is refused.
        seconds: the longest that it may take, all tries together.
        digest: "sha256:" or "md5:" and the first hexadecimal digits, or all.
        headers: of the request; they go to the host of the URL alone.

    Raises:
        DownloadError: names the URL and the reason.
        GoogLeNetError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):
            if path.is_file():
                return
            remove_unfinished(path.parent)
            deadline = time.monotonic() + seconds
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    _download_once(url, path, most_bytes, deadline, digest, headers or {})
                    return
                except DownloadError as error:
                    if not error.again or attempt == ATTEMPTS:
                        raise
                    _log.warning("%s; trying again", error)
                    time.sleep(attempt)
    except OSError as error:
        raise GoogLeNetError(f"cannot save {path}: {error.strerror or error}") from None


def _download_once(
    url: str,
    path: Path,
    most_bytes: int,
    deadline: float,
    digest: str | None,
    headers: Mapping[str, str],
) -> None:
    algorithm, _, expected = (digest or "sha256:").partition(":")
    found = hashlib.new(algorithm, usedforsecurity=False)
    temporary = unfinished(path)
    try:
        with (
            temporary.open("wb") as file,
            tqdm(unit="B", unit_scale=True, desc=path.name, leave=False, disable=None) as progress,
        ):

            def sink(chunk: bytes) -> None:
                file.write(chunk)
                found.update(chunk)
                progress.update(len(chunk))

            _stream(
                url,
                sink,
                most_bytes=most_bytes,
                seconds=deadline - time.monotonic(),
                any_http=algorithm == "sha256" and len(expected) == 64,
                headers=headers,
            )
            file.flush()
            os.fsync(file.fileno())
        if not found.hexdigest().startswith(expected):
            raise DownloadError(
                url, f"its {algorithm} is {found.hexdigest()}, not {expected}: it is another file"
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _log.info("%s: %d bytes, %s %s", path, path.stat().st_size, algorithm, found.hexdigest())


def _stream(
    url: str,
    sink: Callable[[bytes], object],
    *,
    most_bytes: int,
    seconds: float,
    any_http: bool,
    headers: Mapping[str, str],
) -> None:
    """Pass what a URL gives to `sink`, in pieces."""
    deadline = time.monotonic() + seconds
    try:
        _check_scheme(url, any_http)
        request = urllib.request.Request(url)
        for name, value in {"User-Agent": "googlenet_fast", "Accept-Encoding": "identity"}.items():
            request.add_header(name, value)
        for name, value in headers.items():
            request.add_unredirected_header(name, value)
        opener = urllib.request.build_opener(_Redirects(any_http))
        with opener.open(request, timeout=max(0.001, min(STALL, seconds))) as answer:
            length = answer.headers.get("Content-Length")
            expected = int(length) if length is not None and length.isdecimal() else None
            received = 0
            while True:
                if max(received, expected or 0) > most_bytes:
                    raise DownloadError(url, f"it has more than {most_bytes:,} bytes")
                if time.monotonic() > deadline:
                    raise DownloadError(url, f"it takes more than {seconds:.0f} s")
                chunk = answer.read1(_CHUNK)
                if not chunk:
                    break
                sink(chunk)
                received += len(chunk)
            if expected not in (None, received):
                raise DownloadError(
                    url, f"it ends after {received:,} of {expected:,} bytes", again=True
                )
    except DownloadError:
        raise
    except urllib.error.HTTPError as error:
        again = error.code == 429 or error.code >= 500
        raise DownloadError(url, f"HTTP {error.code} {error.reason}", again=again) from None
    except (http.client.HTTPException, ValueError, OSError) as error:
        raise _failed(url, error) from None


def _failed(url: str, error: Exception) -> DownloadError:
    """Return why urllib or http.client failed; only after a lost connection is it tried again."""
    reason: Any = error.reason if isinstance(error, urllib.error.URLError) else error
    again = isinstance(reason, _LOST)
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    unreachable = isinstance(error, urllib.error.URLError)
    return DownloadError(url, text, again=again, unreachable=unreachable)


def _check_scheme(url: str, any_http: bool) -> None:
    """Refuse what is not https, nor http where that is safe, with a ValueError."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise ValueError("not an https:// address")
    if parts.scheme == "http" and not any_http and parts.hostname not in _LOCAL:
        raise ValueError("http is not encrypted: use https, or add #sha256= and the digest")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows few redirections, none to a weaker scheme or from elsewhere to this machine."""

    max_redirections = REDIRECTS

    def __init__(self, any_http: bool) -> None:
        self._any_http = any_http

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the next request; headers meant for one host are not sent to another."""
        target = urljoin(req.full_url, newurl)
        before, after = urlsplit(req.full_url), urlsplit(target)
        _check_scheme(target, self._any_http)
        if before.scheme == "https" and after.scheme == "http":
            raise ValueError(f"it redirects from https to {target}")
        if after.hostname in _LOCAL and before.hostname not in _LOCAL:
            raise ValueError(f"it redirects to {target}")
        request = super().redirect_request(req, fp, code, msg, headers, target)
        if request is not None and after.netloc == before.netloc:
            for name, value in req.unredirected_hdrs.items():
                request.add_unredirected_header(name, value)
        return request


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time into a folder; file systems without locks let all in."""
    with (folder / ".lock").open("w") as lock:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
