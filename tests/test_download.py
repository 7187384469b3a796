"""Downloads from a server on this machine: limits, digests, retries, redirections, processes."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from googlenet_fast import download as module
from googlenet_fast.download import DownloadError, download, fetch, is_url
from googlenet_fast.errors import GoogLeNetError
from tests.helpers import run_python
from tests.http_server import Server, redirect, send

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LIMITS: dict[str, Any] = {"most_bytes": len(CONTENT), "seconds": 20}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("digest", [None, f"sha256:{SHA256}", f"sha256:{SHA256[:8]}", "md5:"])
def test_a_file_is_downloaded_once(server: Server, tmp_path: Path, digest: str | None) -> None:
    url, path = server.add("/a%20b.pth", CONTENT), tmp_path / "new" / "a b.pth"
    if digest == "md5:":
        digest += hashlib.md5(CONTENT).hexdigest()
    for _ in range(2):
        download(url, path, digest=digest, **LIMITS)
        assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert left(path.parent) == [".lock", "a b.pth"]


@pytest.mark.parametrize("digest", ["sha256:0378be20", "sha256:" + "0" * 64, "md5:" + "0" * 32])
def test_another_file_is_refused(server: Server, tmp_path: Path, digest: str) -> None:
    url = server.add("/w.pth", CONTENT)
    with pytest.raises(DownloadError, match=f"{url}: .* is .*, not 0.*: it is another file"):
        download(url, tmp_path / "w.pth", digest=digest, **LIMITS)
    assert left(tmp_path) == [".lock"]
    assert len(server.requests) == 1


def test_a_download_that_breaks_off_is_tried_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    answers = [
        lambda handler: send(handler, CONTENT[:9000], len(CONTENT)),
        lambda handler: handler.send_error(503),
        lambda handler: send(handler, CONTENT),
    ]
    url = server.add("/w", lambda handler: answers.pop(0)(handler))
    download(url, tmp_path / "w", digest=f"sha256:{SHA256}", **LIMITS)
    assert (tmp_path / "w").read_bytes() == CONTENT

    broken = server.add("/broken", lambda handler: send(handler, CONTENT[:9000], len(CONTENT)))
    with pytest.raises(DownloadError, match="it ends after 9,000 of 256,000 bytes"):
        download(broken, tmp_path / "broken", **LIMITS)
    assert len([path for path, _ in server.requests if path == "/broken"]) == module.ATTEMPTS
    assert left(tmp_path) == [".lock", "w"]


def test_sizes_are_bounded(server: Server) -> None:
    def without_length(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT)

    claimed = server.add("/claims", lambda handler: send(handler, b"", 10**15))
    unclaimed = server.add("/sends", without_length)
    assert fetch(unclaimed, **LIMITS) == CONTENT
    for url in (claimed, unclaimed):
        with pytest.raises(DownloadError, match="it has more than 1,000 bytes"):
            fetch(url, most_bytes=1000, seconds=20)


def test_times_are_bounded(server: Server) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x")
            time.sleep(0.02)

    silent = server.add("/silent", lambda handler: time.sleep(1))
    for url, reason in ((server.add("/drip", drip), "more than 0 s"), (silent, "timed out")):
        start = time.monotonic()
        with pytest.raises(DownloadError, match=reason):
            fetch(url, most_bytes=1000, seconds=0.2)
        assert time.monotonic() - start < 0.9


def test_redirections_are_bounded(server: Server) -> None:
    for i in range(8):
        server.add(f"/{i}", redirect(f"/{i + 1}"))
    url = server.add("/8", CONTENT)
    assert fetch(f"{server.root}/4", **LIMITS) == CONTENT
    with pytest.raises(DownloadError, match=r"HTTP 302 .*redirect"):
        fetch(f"{server.root}/0", **LIMITS)
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "http://example.invalid/x"):
        url = server.add("/elsewhere", redirect(target))
        with pytest.raises(DownloadError, match=r"not an https|http is not encrypted|HTTP 302"):
            fetch(url, **LIMITS)


def test_secrets_stay_with_their_host(server: Server) -> None:
    other = server.root.replace("127.0.0.1", "localhost")
    server.add("/here", redirect("/there"))
    server.add("/there", redirect(f"{other}/away"))
    server.add("/away", CONTENT)
    headers = {"Authorization": "Bearer s"}
    assert fetch(f"{server.root}/here", headers=headers, **LIMITS) == CONTENT
    assert server.requests == [("/here", "Bearer s"), ("/there", "Bearer s"), ("/away", None)]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.invalid/w.pth", "http is not encrypted: use https"),
        ("https:///w.pth", "not an https:// address"),
        ("https://example.invalid:port/", "port"),
        ("https://[/", "Invalid IPv6"),
    ],
)
def test_addresses_that_are_refused(url: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=reason) as caught:
        download(url, tmp_path / "w", **LIMITS)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)


def test_without_a_network_the_url_is_in_the_message(tmp_path: Path) -> None:
    """A whole digest makes up for the encryption that http lacks."""
    for url, digest in (
        ("https://googlenet.invalid/w.pth", None),
        ("http://googlenet.invalid/w.pth", f"sha256:{SHA256}"),
    ):
        with pytest.raises(DownloadError) as caught:
            download(url, tmp_path / "w", digest=digest, **LIMITS)
        assert str(caught.value).startswith(f"{url}: cannot be downloaded (")
        assert "encrypted" not in str(caught.value)


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    url = server.add("/w", CONTENT)
    with pytest.raises(GoogLeNetError, match=r"cannot save .*: File exists"):
        download(url, tmp_path / "file" / "w", **LIMITS)


def test_threads_and_processes_share_one_download(server: Server, tmp_path: Path) -> None:
    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.3)
        send(handler, CONTENT)

    url = server.add("/w", slowly)
    program = (
        "import sys; from pathlib import Path; from googlenet_fast.download import download; "
        f"download(sys.argv[1], Path(sys.argv[2]), most_bytes={len(CONTENT)}, seconds=20)"
    )
    with ThreadPoolExecutor(5) as pool:
        children = [pool.submit(run_python, "-c", program, url, tmp_path / "w") for _ in range(2)]
        threads = [pool.submit(download, url, tmp_path / "w", **LIMITS) for _ in range(3)]
        assert [child.result().returncode for child in children] == [0, 0]
        for thread in threads:
            thread.result()
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_what_a_killed_download_left_is_removed(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".w.123").write_bytes(b"half")
    download(server.add("/w", CONTENT), tmp_path / "w", **LIMITS)
    assert left(tmp_path) == [".lock", "w"]


def test_what_is_a_url() -> None:
    assert is_url("https://a/b.jpg")
    assert is_url("HTTP://a/b.jpg")
    for text in ("a.jpg", "http", "ftp://a", "file:///a", "hf://a/b", Path("https://a")):
        assert not is_url(text)
