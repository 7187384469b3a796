"""Builds the extension's CUDA part as host C++, on the emulator, in place of its CPU part."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.compiler import COMPILER, compile_all, has_compiler, run_compiler
from tests.sanitizers import SANITIZE
from tests.setup_script import setup

Build = Callable[[int, str], Path]
"""Makes a library, given the lanes of a warp and the kind of build."""

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
    csrc = ROOT / "csrc"
    sources = sorted(csrc.glob("cuda/*.cu"))
    names = ["build_info", *(source.stem for source in sources)]
    flags = [*setup().STABLE_ABI, *(f"-isystem{header}" for header in torch.include), "-O0"]
    bindings = {
        folder / f"{name}-bindings.o": [*flags, "-c", str(csrc / f"bindings/{name}.cpp")]
        for name in names
    }
    kernels = _kernels(folder, lanes, kind, [*sources, HERE / "into_slices.cpp"])
    libraries = [f"-L{torch.lib}", "-ltorch_cpu", "-lc10"]
    target = folder / f"kernels-{kind}{lanes}.so"
    return _link(target, kind, {**kernels, **bindings}, libraries)


def build_samples(folder: Path, lanes: int, kind: str) -> Path:
    """Build the kernels of samples.cu in the same way."""
    objects = _kernels(folder, lanes, kind, [HERE / "samples.cu"])
    return _link(folder / f"samples-{kind}{lanes}.so", kind, objects, [])


def _kernels(folder: Path, lanes: int, kind: str, sources: Iterable[Path]) -> dict[Path, list[str]]:
    """Return the objects of kernels and emulator, each with the arguments that compile it."""
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
    """Compile the objects that are missing, and link. A library that exists may be in use."""
    if target.exists():
        return target
    headers = setup().find_toolkit(os.environ).root / "include"
    flags = [*COMMON, *setup().WARNINGS, "-Werror", f"-isystem{headers}"]
    missing = [path for path in objects if not path.exists()]
    compile_all([*flags, *objects[path], f"-o{path}"] for path in missing)
    sanitizers = KINDS[kind] if kind == "sanitized" else []
    run_compiler(["-shared", *sanitizers, *map(str, objects), *libraries, f"-o{target}"])
    return target
