"""Builds the extension's CUDA part as host C++, on the emulator, in the place of its CPU part."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.sanitizers import COMPILER, SANITIZE
from tests.setup_script import setup

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

COMMON = [
    *("-std=c++20", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing"),
    *("-DUSE_CUDA", "-DGOOGLENET_FAST_CUDA_EMULATOR"),
    f"-DGOOGLENET_FAST_BUILD_INFO={json.dumps(json.dumps({'emulates': 'cuda'}))}",
]
KINDS = {
    "sanitized": SANITIZE,
    "traced": ["-O1", "-fsanitize=thread"],
}
"""Flags for kernels. Those that are traced call a function before each access to memory, which
memory.cpp defines in the place of ThreadSanitizer."""


def why_not() -> str | None:
    """Say why the emulator cannot be built here, or None."""
    if sys.platform != "linux":
        return "fibers and sanitizers are used as Linux has them"
    if shutil.which(COMPILER) is None:
        return f"no C++ compiler {COMPILER}"
    if setup().find_toolkit(os.environ) is None:
        return "no CUDA toolkit, whose headers define the half types"
    return None


def build_kernels(folder: Path, lanes: int, kind: str) -> Path:
    """Build the extension; return its path.

    Args:
        folder: for all builds, which share the objects that are the same in them.
        lanes: of a warp, 32 or 64.
        kind: `sanitized`, with AddressSanitizer and UndefinedBehaviorSanitizer, or `traced`: every
            access to memory is followed.
    """
    torch = setup().describe_torch()
    flags = [*setup().STABLE_ABI, *(f"-isystem{header}" for header in torch.include)]
    names = ["build_info", *(source.stem for source in (ROOT / "csrc").glob("cuda/*.cu"))]
    bindings = {
        folder / f"{name}-bindings.o": [
            *flags,
            "-O0",
            "-c",
            str(ROOT / f"csrc/bindings/{name}.cpp"),
        ]
        for name in names
    }
    sources = [*(ROOT / "csrc").glob("cuda/*.cu"), HERE / "into_slices.cpp"]
    kernels = _kernels(folder, lanes, kind, sources)
    libraries = [f"-L{torch.lib}", "-ltorch_cpu", "-lc10"]
    target = folder / f"kernels-{kind}{lanes}.so"
    return _link(target, kind, {**kernels, **bindings}, libraries)


def build_samples(folder: Path, lanes: int, kind: str) -> Path:
    """Build the kernels of samples.cu alike."""
    kernels = _kernels(folder, lanes, kind, [HERE / "samples.cu"])
    return _link(folder / f"samples-{kind}{lanes}.so", kind, kernels, [])


def _kernels(folder: Path, lanes: int, kind: str, sources: Iterable[Path]) -> dict[Path, list[str]]:
    """Return the objects of kernels and emulator, and what compiles each."""
    warp = f"-DGOOGLENET_FAST_WARP_SIZE={lanes}"
    device = ["-xc++", "-Wno-unknown-pragmas", f"-include{HERE / 'cuda_emulator.h'}"]
    commands = {source: [*device, warp, *KINDS[kind]] for source in sources}
    emulator = ["-O2"] if kind == "traced" else KINDS[kind]
    commands |= {HERE / name: [warp, *emulator] for name in ("fibers.cpp", "memory.cpp")}
    return {
        folder / f"{source.stem}-{kind}{lanes}.o": [*flags, "-c", str(source)]
        for source, flags in commands.items()
    }


def _link(
    target: Path, kind: str, objects: dict[Path, list[str]], libraries: Sequence[str]
) -> Path:
    """Compile what has not been yet, and link; a library that is there may be in use."""
    if target.exists():
        return target
    headers = setup().find_toolkit(os.environ).root / "include"
    flags = [*COMMON, *setup().WARNINGS, f"-isystem{headers}"]
    with ThreadPoolExecutor(2) as pool:
        missing = [path for path in objects if not path.exists()]
        list(pool.map(lambda path: _run([*flags, *objects[path], f"-o{path}"]), missing))
    sanitizers = KINDS[kind] if kind == "sanitized" else []
    _run(["-shared", *sanitizers, *map(str, objects), *libraries, f"-o{target}"])
    return target


def _run(arguments: Sequence[str]) -> None:
    child = subprocess.run([COMPILER, *arguments], capture_output=True, text=True)
    assert child.returncode == 0, f"{' '.join(arguments)}\n{child.stderr}"
