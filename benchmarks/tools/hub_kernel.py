"""Make the fused ops a kernel that Hugging Face's `kernels` loads.

    python -m benchmarks.tools.hub_kernel OUTPUT
    python -m benchmarks.tools.hub_kernel OUTPUT --compiled

The output has a folder `build` of variants, of which the loader takes the one that fits:

- `torch-cuda` and `torch-cpu`: Python alone, with the Triton kernels for GPUs. On CPUs the ops are
  their references in plain PyTorch.
- with `--compiled`, `torch-stable-abi210-BACKEND-MACHINE-linux`: also the compiled kernels, for
  torch >= 2.10 on machines like this one. BACKEND is cpu, or such as cu130 if setup.py builds the
  CUDA part here; it takes minutes.

A variant is package `googlenet_fast` without what is not an op: networks, weights, data, training
and commands. Its imports are relative and torch is all that it needs. Its ops are registered in a
namespace of its own, after the digest of its sources, so that a process can load several versions.
"""

import argparse
import ast
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from googlenet_fast.errors import GoogLeNetError, run_command
from googlenet_fast.files import sources_digest

ROOT = Path(__file__).parents[2]
PACKAGE = "googlenet_fast"

VERSION = 1
"""Of the interface, branch v1 on the hub: raised when calls of the last one break."""

ABI = "torch-stable-abi210"
"""The oldest torch whose stable ABI the extension keeps to, as setup.py compiles it."""

INIT = '''"""The fused ops of GoogLeNet and its training; see `ops`."""

from .ops import *
from .ops import __all__
'''

_IMPORT = re.compile(rf"^(\s*)from {PACKAGE}((?:\.\w+)*) import ", re.MULTILINE)
_NAMESPACE = f'NAMESPACE = "{PACKAGE}"\n'

Sources = dict[Path, str]
"""Path in the package -> content."""


def sources(package: Path) -> Sources:
    """Return the ops and all that they import, with relative imports."""
    found: Sources = {}
    waiting = [path.relative_to(package) for path in (package / "ops").glob("*.py")]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        text = (package / path).read_text()
        waiting += [each for each in _imported(text, package) if each != Path("__init__.py")]
        found[path] = relative(text, path)
    for path in (package / "kernels").glob("*.py"):  # import each other relatively
        found[Path("kernels", path.name)] = path.read_text()
    table = Path("selfcheck", "speed_table.json")
    return {**found, table: (package / table).read_text(), Path("__init__.py"): INIT}


def _imported(text: str, package: Path) -> Iterator[Path]:
    """Yield the files of the modules that a module imports, also in its functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            module = Path(*node.module.split(".")[1:]) if node.module else Path()
            for inner in (module, *(module / alias.name for alias in node.names)):
                for path in (Path(f"{inner}.py"), inner / "__init__.py"):
                    if (package / path).is_file():
                        yield path


def relative(text: str, path: Path) -> str:
    """Return a module's text with relative imports of the package.

    Raises:
        GoogLeNetError: it imports the package in another way.
    """
    dots = "." * len(path.parts)
    changed = _IMPORT.sub(lambda m: f"{m[1]}from {dots}{m[2].removeprefix('.')} import ", text)
    for node in ast.walk(ast.parse(changed)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        if any(name.split(".")[0] == PACKAGE for name in names):
            raise GoogLeNetError(
                f"{path}: imports {PACKAGE} by a line that cannot be made relative"
            )
    return changed


def write_variant(
    output: Path, variant: str, backend: str, files: Sources, libraries: Mapping[str, Path], id: str
) -> None:
    """Write the folder of a variant, in place of an older one.

    Args:
        output: of the command.
        variant: its name.
        backend: cpu or cuda.
        files: of the package.
        libraries: compiled ones, by name.
        id: of the variant: the module's name and the ops' namespace.
    """
    folder = output / "build" / variant
    shutil.rmtree(folder, ignore_errors=True)
    for path, text in files.items():
        if path == Path("registry.py"):
            if text.count(_NAMESPACE) != 1:
                raise GoogLeNetError(f"{path}: has no line {_NAMESPACE.strip()}")
            text = text.replace(_NAMESPACE, f'NAMESPACE = "{id}"\n')
        target = folder / PACKAGE / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for name, library in libraries.items():
        shutil.copy2(library, folder / PACKAGE / name)
    metadata = {
        "id": id,
        "name": PACKAGE.replace("_", "-"),
        "version": VERSION,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": backend},
    }
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def compile_extension(folder: Path, namespace: str) -> Mapping[str, Path]:
    """Compile the extension with its ops in a namespace; return its libraries by name."""
    compiler = f"{os.environ.get('CXX', 'g++')} -DGOOGLENET_FAST_NAMESPACE={namespace}"
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    command += [f"--build-lib={folder / 'lib'}", f"--build-temp={folder / 'temp'}"]
    child = subprocess.run(command, cwd=ROOT, env={**os.environ, "CXX": compiler})
    if child.returncode != 0:
        raise GoogLeNetError("--compiled: the extension cannot be built; see above")
    return {path.name: path for path in (folder / "lib" / PACKAGE).glob("*.so")}


def backend_of(library: Path) -> str:
    """Return what a library is for, as the loader names it: cpu, or such as cu130."""
    cuda = re.search(rb'"cuda": "(\d+)\.(\d+)"', library.read_bytes())
    return f"cu{cuda[1].decode()}{cuda[2].decode()}" if cuda else "cpu"


def make(output: Path, *, compiled: bool, files: Sources | None = None) -> list[str]:
    """Write the kernel and return the names of its variants.

    Args:
        output: the folder.
        compiled: also compile the extension.
        files: of the package. Default: those of this tree.
    """
    files = sources(ROOT / PACKAGE) if files is None else files
    content = json.dumps({str(path): text for path, text in sorted(files.items())})
    key = (content + sources_digest(ROOT / "csrc")).encode()
    digest = hashlib.sha256(key).hexdigest()[:12]
    names = []
    for backend in ("cuda", "cpu"):
        names.append(f"torch-{backend}")
        write_variant(output, names[-1], backend, files, {}, f"_{PACKAGE}_{backend}_{digest}")
    if compiled:
        id = f"_{PACKAGE}_compiled_{digest}"
        with tempfile.TemporaryDirectory() as folder:
            libraries = compile_extension(Path(folder), id)
            backends = {backend_of(path) for path in libraries.values()}
            backend = max(backends, key=len)  # cu130 rather than cpu
            names.append(f"{ABI}-{backend}-{platform.machine()}-linux")
            kind = "cpu" if backend == "cpu" else "cuda"
            write_variant(output, names[-1], kind, files, libraries, id)
    return names


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Make the fused ops a kernel for `kernels`.")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder, made if it is absent")
    parser.add_argument(
        "--compiled", action="store_true", help="also a variant with the compiled kernels"
    )
    options = parser.parse_args()
    for name in make(options.output, compiled=options.compiled):
        print(options.output / "build" / name)


if __name__ == "__main__":
    run_command(main)
