"""Where files that can be made again are kept between runs."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """$GOOGLENET_FAST_CACHE, else googlenet_fast in the user's cache folder; it may not exist."""
    if own := os.environ.get("GOOGLENET_FAST_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "googlenet_fast"
