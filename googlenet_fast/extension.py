"""The compiled extension: where it is, what was built into it, or why it is absent."""

import ctypes
import json
import os
import sys
from functools import lru_cache
from pathlib import Path

import torch

from googlenet_fast.files import sources_digest

VARIABLE = "GOOGLENET_FAST_EXTENSION"
"""Environment variable that names another build of the extension, such as a sanitized one."""

_TREE = Path(__file__).parents[1]
_LIBRARY = Path("googlenet_fast", "_C.abi3.so")


def _find() -> tuple[Path, str | None]:
    """Return the path of the extension, and why it cannot be used or None.

    A source tree takes a library only if it was built from the tree's C++ sources. Where the
    package is installed and a program runs in the root of the tree, Python imports the tree, which
    has no library. So the other entries of sys.path are searched, too.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named), None
    built = _TREE / _LIBRARY
    if not (_TREE / "csrc/bindings/build_info.cpp").is_file():  # installed, without sources
        return built, None
    candidates = (built, *(Path(entry, _LIBRARY).absolute() for entry in sys.path))
    libraries = [path for path in candidates if path.is_file()]
    digest = sources_digest(_TREE / "csrc").encode()
    for path in libraries:
        if digest in path.read_bytes():  # part of its build info
            return path, None
    if not libraries:
        return built, None
    other = "was built from other C++ sources: type pip install -e ."
    if libraries[0] == built:
        return built, f"the compiled extension {other}"
    return built, (
        f"{_TREE} shadows the installed {libraries[0].parent}, whose compiled extension {other}"
    )


def _load() -> tuple[dict[str, str], str | None]:
    """Load the extension; return what its build recorded, and why it cannot be used or None."""
    if not PATH.is_file():
        return {}, "the compiled extension is absent (pip install -e . builds it)"
    try:
        torch.ops.load_library(str(PATH))
    except OSError as error:
        return {}, f"the compiled extension does not load: {error.__cause__ or error}"
    describe = ctypes.CDLL(str(PATH)).googlenet_fast_build_info
    describe.restype = ctypes.c_char_p
    return json.loads(describe()), None


PATH, _refusal = _find()

BUILD_INFO, UNAVAILABLE = ({}, _refusal) if _refusal else _load()
"""What the build recorded (`torch`, the digest of `csrc`, and `cuda` and `architectures` of a CUDA
part), and why the extension cannot be used: None if it can."""


def missing_part(part: str) -> str | None:
    """Return None if the extension has that part, `cpu` or `cuda`, else why it has not."""
    if UNAVAILABLE is None and part == "cuda" and "cuda" not in BUILD_INFO:
        return "the compiled extension was built without its CUDA part"
    return UNAVAILABLE


def instruction_set() -> str | None:
    """Return what the CPU kernels run on: amx, avx512, avx2, baseline, or None without them."""
    if UNAVAILABLE is not None:
        return None
    function = getattr(ctypes.CDLL(str(PATH)), "googlenet_fast_instruction_set", None)
    if function is None:
        return None
    function.restype = ctypes.c_char_p
    return function().decode()


@lru_cache(maxsize=4096)
def tile_points(height: int, width: int, taps: int, channels: int) -> int:
    """Return the points of a Winograd tile along an axis, 0 for other convolutions.

    Packed weights for images of one size serve all sizes with the same tile.

    Args:
        height: of the images.
        width: of the images.
        taps: side of the filter.
        channels: of its input.
    """
    if UNAVAILABLE is not None:
        return 0
    function = ctypes.CDLL(str(PATH)).googlenet_fast_tile_points
    function.argtypes, function.restype = [ctypes.c_int64] * 4, ctypes.c_int64
    return function(height, width, taps, channels)
