"""Builds the kernels without torch, as modules of functions of NumPy arrays.

The libraries lie in build/raw_kernels; ninja compiles what changed since. All that is taken from
torch is two header files, of the half types.
"""

import importlib.util
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pybind11

from tests.compiler import COMPILER, Objects, build_library
from tests.helpers import locked
from tests.sanitizers import SANITIZE
from tests.setup_script import setup

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "raw_kernels"

COMMON = ["-std=c++20", "-fPIC", "-fvisibility=hidden"]
OPTIMIZE = ["-O3"]
SHARED = ("module", "pools", "pointwise", "batch_norm")
"""Sources of the bindings of kernels for CPUs and for GPUs."""


def build_cpu(*, sanitized: bool = False) -> Path:
    """Build the module of the CPU kernels; return its path.

    Args:
        sanitized: under AddressSanitizer and UndefinedBehaviorSanitizer, and with AMX emulated;
            otherwise as the extension is compiled.
    """
    sources = [HERE / f"{name}.cpp" for name in ("convolutions", *SHARED)]
    kind = SANITIZE if sanitized else OPTIMIZE
    name = "cpu-sanitized" if sanitized else "cpu"
    folder = FOLDER / name
    with locked(folder):
        flags = [*COMMON, *kind, *setup().WARNINGS, "-Werror", "-fopenmp", *torch_headers()]
        kernels = cpu_kernels(folder, flags, amx=not sanitized and setup().has_amx(COMPILER))
        objects = {**kernels, **bindings(folder, name, sources, flags)}
        libraries = ["-fopenmp", *(SANITIZE if sanitized else [])]
        return build_library(folder / f"raw_kernels_{name}.so", objects, libraries)


def bindings(folder: Path, kind: str, sources: Sequence[Path], flags: Sequence[str]) -> Objects:
    """Return the objects of the module's own sources, of a kind of build."""
    headers = [pybind11.get_include(), sysconfig.get_paths()["include"]]
    flags = [*flags, *(f"-isystem{header}" for header in headers)]
    return {folder / f"{source.stem}-module-{kind}.o": (source, flags) for source in sources}


def cpu_kernels(folder: Path, flags: Sequence[str], *, amx: bool) -> Objects:
    """Return the objects of csrc/cpu.

    Args:
        folder: of the objects.
        flags: for all of them.
        amx: use the machine's AMX instructions; otherwise they are emulated.
    """
    objects = {}
    for source in (ROOT / "csrc").glob("cpu/*.cpp"):
        for _, isa in setup().translation_units(str(source)):
            own = [*flags, *setup().isa_flags(isa, amx=amx)]
            objects[folder / f"{source.stem}-{isa}.o"] = (source, own)
    return objects


def torch_headers() -> list[str]:
    """Return flags for torch's headers, with ours in place of those that need its libraries."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    return [f"-I{HERE / 'without_torch'}", f"-isystem{Path(torch.origin).parent / 'include'}"]
