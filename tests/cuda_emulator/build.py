"""Builds the extension's CUDA part as host C++, on the emulator, in place of its CPU part."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.compiler import COMPILER, Objects, build_library, has_compiler
from tests.raw_kernels.build import SHARED, bindings
from tests.sanitizers import SANITIZE
from tests.setup_script import setup

Build = Callable[[int, str], Path]
"""Makes a library, given the lanes of a warp and the kind of build."""

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RAW = ROOT / "tests" / "raw_kernels"
SOURCES = sorted(ROOT.glob("csrc/cuda/*.cu"))

COMMON = [
    *("-std=c++20", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing"),
    *("-DUSE_CUDA", "-DGOOGLENET_FAST_CUDA_EMULATOR"),
]
KINDS = {
    "sanitized": SANITIZE,
    "traced": ["-O1", "-fsanitize=thread"],
}
"""Flags for kernels. Traced kernels call a function before each memory access, which memory.cpp
defines in place of ThreadSanitizer's."""


def missing() -> str | None:
    """Why the emulator cannot be built here, or None."""
    if sys.platform != "linux":
        return "the emulator's fibers and sanitizers need Linux"
    if not has_compiler():
        return f"no C++ compiler {COMPILER[0]}"
    if setup().find_toolkit(os.environ) is None:
        return "no CUDA toolkit, whose headers define the half types"
    return None


def build_kernels(folder: Path, lanes: int, kind: str) -> Path:
    """Build the extension; return its path.

    Args:
        folder: shared by all builds, which reuse each other's objects.
        lanes: of a warp, 32 or 64.
        kind: `sanitized`, with AddressSanitizer and UndefinedBehaviorSanitizer, or `traced`: every
            memory access is followed.
    """
    torch = setup().describe_torch()
    names = ["build_info", *(source.stem for source in SOURCES)]
    flags = [*setup().STABLE_ABI, *(f"-isystem{header}" for header in torch.include), "-O0"]
    info = f"-DGOOGLENET_FAST_BUILD_INFO={json.dumps(json.dumps({'emulates': 'cuda'}))}"
    own = {
        folder / f"{name}-bindings.o": (
            ROOT / f"csrc/bindings/{name}.cpp",
            [*_common(), *flags, info],
        )
        for name in names
    }
    libraries = [f"-L{torch.lib}", "-ltorch_cpu", "-lc10"]
    kernels = _kernels(folder, lanes, kind, SOURCES)
    return _link(folder / f"kernels-{kind}{lanes}.so", kind, {**kernels, **own}, libraries)


def build_raw(folder: Path, lanes: int, kind: str) -> Path:
    """Build the kernels as a module of functions of NumPy arrays, without torch."""
    sources = [RAW / f"{name}.cpp" for name in ("sgd_step", *SHARED)]
    sanitizers = SANITIZE if kind == "sanitized" else ["-O1"]
    own = bindings(folder, f"{kind}{lanes}", sources, [*_common(), *sanitizers])
    kernels = _kernels(folder, lanes, kind, SOURCES)
    return _link(folder / f"raw_kernels-{kind}{lanes}.so", kind, {**kernels, **own})


def build_samples(folder: Path, lanes: int, kind: str) -> Path:
    """Build the kernels of samples.cu in the same way."""
    objects = _kernels(folder, lanes, kind, [HERE / "samples.cu"])
    return _link(folder / f"samples-{kind}{lanes}.so", kind, objects)


def _common() -> list[str]:
    """Return flags of all sources."""
    return [
        *COMMON,
        *setup().WARNINGS,
        "-Werror",
        f"-isystem{setup().find_toolkit(os.environ).root}/include",
    ]


def _kernels(folder: Path, lanes: int, kind: str, sources: Iterable[Path]) -> Objects:
    """Return the objects of kernels and emulator."""
    warp = f"-DGOOGLENET_FAST_WARP_SIZE={lanes}"
    device = ["-xc++", "-Wno-unknown-pragmas", f"-include{HERE / 'cuda_emulator.h'}"]
    flags = {source: [*device, warp, *KINDS[kind]] for source in sources}
    emulator = ["-O2"] if kind == "traced" else KINDS[kind]
    flags |= {HERE / name: [warp, *emulator] for name in ("fibers.cpp", "memory.cpp")}
    return {
        folder / f"{source.stem}-{kind}{lanes}.o": (source, [*_common(), *own])
        for source, own in flags.items()
    }


def _link(target: Path, kind: str, objects: Objects, libraries: Sequence[str] = ()) -> Path:
    sanitizers = KINDS[kind] if kind == "sanitized" else []
    return build_library(target, objects, [*sanitizers, *libraries])
