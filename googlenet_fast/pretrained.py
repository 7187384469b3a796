"""Weights by name, URL, or repository of Hugging Face: downloaded once, to the cache."""

import hashlib
import json
import logging
import os
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from googlenet_fast.download import DownloadError, download, fetch, is_url
from googlenet_fast.errors import GoogLeNetError, printable, suggestion
from googlenet_fast.files import cache_dir
from googlenet_fast.limits import MOST_WEIGHT_BYTES

MOST_SECONDS = 3600.0
"""The longest that a download of weights may take."""
HUB = "https://huggingface.co"
"""Where `hf://` leads, unless HF_ENDPOINT names another server."""
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".pdparams", ".caffemodel")
"""Of files of weights in a repository, best first: the first suffix that any file has must have
one file alone, which is taken."""

_HUB_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?")

_log = logging.getLogger("googlenet_fast")


@cache
def published() -> dict[str, dict[str, str]]:
    """Return the table of weights with a name: URL, digest and licence of each."""
    table = resources.files("googlenet_fast") / "pretrained.json"
    return json.loads(table.read_text(encoding="utf-8"))


def is_remote(weights: str | Path) -> bool:
    """Return True for a name, a URL or `hf://`; any other text is a path, as is `./caffe`."""
    return isinstance(weights, str) and (
        weights in published() or is_url(weights) or weights.startswith("hf://")
    )


def local_file(weights: str | Path) -> Path:
    """Return the path of weights; what is not here is downloaded to the cache first.

    Args:
        weights: a path; a name in `published()`; a URL, which may end in `#sha256=` and the digest
            of the file; or `hf://owner/name`, `hf://owner/name/file`, with `@revision` after the
            name if wanted.

    Raises:
        GoogLeNetError: names the URL that cannot be downloaded, and why.
    """
    if not is_remote(weights):
        return Path(weights)
    name = str(weights)
    entry = published().get(name, {})
    key = hashlib.sha256(json.dumps(entry or name).encode()).hexdigest()[:16]
    folder = cache_dir() / "weights" / key
    cached = [file for file in folder.glob("*") if not file.name.startswith(".")]
    if cached:
        return cached[0]
    try:
        if name.startswith("hf://"):
            return _from_hub(name, folder)
        url, _, pin = entry.get("url", name).partition("#")
        if entry:
            _log.info("weights %s: from %s, licence: %s", name, url, entry["licence"])
        return _download(url, folder, entry.get("digest") or _pinned(pin))
    except GoogLeNetError as error:
        advice = ""
        if isinstance(error, DownloadError) and error.unreachable:
            advice = "; where there is no network, download it elsewhere and name the file"
        raise GoogLeNetError(f"weights {printable(weights)}: {error}{advice}") from None


def no_such_name(weights: str | Path) -> str:
    """Return the end of a message about a missing file: which name may have been meant."""
    return suggestion(str(weights), published())


def _pinned(fragment: str) -> str | None:
    if not fragment:
        return None
    if not re.fullmatch(r"sha256=[0-9a-f]{64}", fragment):
        raise GoogLeNetError(f"#{printable(fragment)}: write #sha256= and 64 hexadecimal digits")
    return fragment.replace("=", ":")


def _download(url: str, folder: Path, digest: str | None, **options: Any) -> Path:
    name = re.sub(r"[^\w.-]", "_", urlsplit(url).path.rpartition("/")[2])[-100:].lstrip(".")
    path = folder / (name or "weights")
    download(
        url,
        path,
        most_bytes=MOST_WEIGHT_BYTES,
        seconds=MOST_SECONDS,
        digest=digest,
        **options,
    )
    return path


def _from_hub(weights: str, folder: Path) -> Path:
    """Download a file of a repository, as its server lists it, with the digest that it lists."""
    found = _HUB_NAME.fullmatch(weights)
    if found is None:
        raise GoogLeNetError(
            "write hf://owner/name or hf://owner/name/file, @revision after the name"
        )
    repository, revision, file = found[1], found[2] or "main", found[3]
    server = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    listing = f"{server}/api/models/{repository}/revision/{revision}?blobs=True"
    answer = fetch(listing, most_bytes=1 << 24, seconds=60, headers=headers)
    try:
        files = {entry["rfilename"]: entry for entry in json.loads(answer)["siblings"]}
    except (ValueError, KeyError, TypeError):
        raise GoogLeNetError(f"{listing}: is not the list of a repository's files") from None
    file = file or _only_weights(list(files))
    if file not in files or ".." in file.split("/"):
        raise GoogLeNetError(f"no such file{suggestion(file, files)}")
    sha256 = (files[file].get("lfs") or {}).get("sha256")
    url = f"{server}/{repository}/resolve/{revision}/{quote(file)}"
    return _download(url, folder, sha256 and f"sha256:{sha256}", headers=headers)


def _only_weights(files: list[str]) -> str:
    for suffix in SUFFIXES:
        named = [file for file in files if file.endswith(suffix)]
        if len(named) == 1:
            return named[0]
        if named:
            raise GoogLeNetError(f"holds {', '.join(named[:4])}; name one, hf://owner/name/file")
    raise GoogLeNetError(f"holds no file of weights ({', '.join(SUFFIXES)})")
