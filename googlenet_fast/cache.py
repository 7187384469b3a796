"""Where files that can be made again are kept between runs."""

import json
import logging
import os
import tempfile
from pathlib import Path

_log = logging.getLogger("googlenet_fast")


def cache_dir() -> Path:
    """$GOOGLENET_FAST_CACHE, else googlenet_fast in the user's cache folder; it may not exist."""
    if own := os.environ.get("GOOGLENET_FAST_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "googlenet_fast"


def write_json(path: Path, value: object) -> None:
    """Write a file of the cache whole or not at all; one that cannot be written is done without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, delete=False
        ) as file:
            json.dump(value, file)
        Path(file.name).replace(path)
    except OSError as error:
        _log.warning("%s: not cached (%s)", path, error.strerror)
