"""Builds the extension's CPU part under sanitizers, for every instruction set of the machine.

AMX is emulated: sanitizers do not see what its tiles load and store.
"""

import json
from pathlib import Path

from tests.compiler import build_library
from tests.raw_kernels.build import cpu_kernels
from tests.sanitizers import SANITIZE
from tests.setup_script import setup

ROOT = Path(__file__).parents[2]


def build(folder: Path) -> Path:
    """Build it in a folder; return its path."""
    torch = setup().describe_torch()
    info = json.dumps(json.dumps({"torch": torch.version}))
    flags = ["-std=c++20", "-fPIC", "-fvisibility=hidden", *SANITIZE, *setup().WARNINGS, "-Werror"]
    headers = [f"-isystem{header}" for header in torch.include]
    binding = [*flags, *setup().STABLE_ABI, *headers, f"-DGOOGLENET_FAST_BUILD_INFO={info}", "-O0"]
    objects = {
        folder / f"{source.stem}-bindings.o": (source, binding)
        for source in (ROOT / "csrc").glob("bindings/*.cpp")
    }
    kernels = cpu_kernels(folder, [*flags, *headers], amx=False)
    libraries = [*SANITIZE, f"-L{torch.lib}", "-ltorch_cpu", "-lc10"]
    return build_library(folder / "cpu-sanitized.so", {**objects, **kernels}, libraries)
