"""The compiled extension: where it is, what was built into it, or why it is absent."""

import ctypes
import json
import os
from pathlib import Path

import torch

VARIABLE = "GOOGLENET_FAST_EXTENSION"
"""Environment variable that names another build of the extension, such as a sanitized one."""

PATH = Path(os.environ.get(VARIABLE) or Path(__file__).parents[1] / "_C.abi3.so")
"""Where the build puts the extension."""


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


BUILD_INFO, UNAVAILABLE = _load()
"""What the build recorded (`torch`, and `cuda` and `architectures` of a CUDA part), and why
the extension cannot be used: None if it can."""


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
