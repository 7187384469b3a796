"""The compiled extension: where it is, what was built into it, or why it is absent.

setup.py makes it, two libraries of one build: the CPU part, and the CUDA part, which is loaded only
beside a CUDA build of torch.
"""

import ctypes
import json
import os
import re
import sys
from functools import lru_cache
from pathlib import Path

import torch

from googlenet_fast.files import sources_digest
from googlenet_fast.vendors import is_other_vendors

VARIABLE = "GOOGLENET_FAST_EXTENSION"
"""Environment variable that names another build of the extension, such as a sanitized one."""

_TREE = Path(__file__).parents[1]
_LIBRARY = Path("googlenet_fast", "_C.abi3.so")
_CUDA_LIBRARY = "_C_cuda.abi3.so"  # beside the other
_NOTE = "_C.absent.txt"  # why setup.py built none
_OLDEST_TORCH = (2, 10)  # the first with all of the stable ABI that csrc/ uses


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
    """Load the CPU part; return what the build recorded, and why it cannot be used or None."""
    if not PATH.is_file():
        note = PATH.with_name(_NOTE)
        why = f"when this was installed, {note.read_text()}" if note.is_file() else ""
        return {}, f"the compiled extension is absent: {why or 'pip install -e . builds it'}"
    if _numbers(torch.__version__)[:2] < _OLDEST_TORCH:
        oldest = ".".join(map(str, _OLDEST_TORCH))
        return {}, f"the compiled extension needs torch {oldest} or newer, not {torch.__version__}"
    if reason := _load_library(PATH):
        return {}, f"the compiled extension does not load: {reason}"
    describe = ctypes.CDLL(str(PATH)).googlenet_fast_build_info
    describe.restype = ctypes.c_char_p
    return json.loads(describe()), None


def _load_cuda_part() -> str | None:
    """Load the CUDA part; return why it cannot be used, or None."""
    if "cuda" not in BUILD_INFO:
        return "the compiled extension was built without its CUDA part"
    if torch.version.cuda is None or is_other_vendors(torch.__version__):
        return f"torch {torch.__version__} is not a CUDA build for NVIDIA's GPUs"
    if _numbers(BUILD_INFO["cuda"])[0] != _numbers(torch.version.cuda)[0]:
        return (
            f"the CUDA part was built for CUDA {BUILD_INFO['cuda']},"
            f" but torch for CUDA {torch.version.cuda}"
        )
    path = PATH.with_name(_CUDA_LIBRARY)
    if not path.is_file():
        return f"{path} is absent"
    if BUILD_INFO["csrc"].encode() not in path.read_bytes():
        return f"{path} was built from other C++ sources than {PATH.name}"
    if reason := _load_library(path):
        return f"the CUDA part does not load: {reason}"
    return None


def _load_library(path: Path) -> str | None:
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return str(error.__cause__ or error)
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


PATH, _refusal = _find()

BUILD_INFO, UNAVAILABLE = ({}, _refusal) if _refusal else _load()
"""What the build recorded (`torch`, the digest of `csrc`, and `cuda` and `architectures` of a CUDA
part), and why the extension cannot be used: None if it can."""

_cuda_refusal = UNAVAILABLE or _load_cuda_part()


def missing_part(part: str) -> str | None:
    """Return None if the extension has that part, `cpu` or `cuda`, else why it has not."""
    if UNAVAILABLE is not None or part == "cpu":
        return UNAVAILABLE
    return _cuda_refusal


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
