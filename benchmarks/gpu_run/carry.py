"""Make what a machine without network and compiler needs to run this source tree.

    python -m benchmarks.gpu_run.carry --output .carry --architecture 9.0 --python 3.12

builds the extension for one GPU architecture, and downloads wheels of the packages that
such a machine may lack. There, with the tree and the folder:

    python -m benchmarks.gpu_run --carried .carry --output gpu-run
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_run.tree import CARRIED_LIBRARIES, CARRIED_WHEELS, ROOT, check_extension
from googlenet_fast.errors import GoogLeNetError, run_command

PACKAGES = (
    *("jsonargparse", "docstring-parser", "typeshed-client", "psutil", "nvidia-cudnn-frontend"),
)
"""What images with torch lack, as seen. The last is optional."""

LIMIT = 64 * 2**20
"""Bytes of the whole folder: what is easily copied to such a machine."""


def main() -> None:
    """Fill the folder and print its size."""
    arguments = _parser().parse_args()
    output: Path = arguments.output
    if arguments.extension is None:
        build(output, arguments.architecture)
    else:
        copy_libraries(arguments.extension, output)
    for name in CARRIED_LIBRARIES:
        check_extension(output / name)
    download_wheels(output / CARRIED_WHEELS, arguments.python, arguments.package)
    print(f"{output}: {check_size(output) / 2**20:.1f} MiB")


def build(output: Path, architecture: str) -> None:
    """Build the extension for one GPU architecture into a folder."""
    variables = {"TORCH_CUDA_ARCH_LIST": architecture, "GOOGLENET_FAST_USE_CUDA": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder]
        if subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}).returncode:
            raise GoogLeNetError("the extension does not build: see above")
        copy_libraries(Path(folder, "googlenet_fast"), output)


def copy_libraries(source: Path, output: Path) -> None:
    """Copy both libraries of a build of the extension from one folder to another.

    Raises:
        GoogLeNetError: one of them is absent.
    """
    output.mkdir(parents=True, exist_ok=True)
    for name in CARRIED_LIBRARIES:
        if not (source / name).is_file():
            raise GoogLeNetError(
                f"{source / name}: no such file; build the extension with its CUDA part"
            )
        shutil.copy(source / name, output)


def download_wheels(wheels: Path, python: str, packages: Sequence[str]) -> None:
    """Download wheels for a version of Python into a folder."""
    shutil.rmtree(wheels, ignore_errors=True)
    if not packages:
        return
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels)]
    command += ["--only-binary=:all:", "--python-version", python]
    command += ["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64"]
    if subprocess.run([*command, *packages]).returncode:
        raise GoogLeNetError(f"pip cannot download {', '.join(packages)} for Python {python}")


def check_size(folder: Path, limit: int = LIMIT) -> int:
    """Return the bytes of all files in a folder.

    Raises:
        GoogLeNetError: more than the limit; names the largest parts.
    """
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    total = sum(sizes.values())
    if total > limit:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        names = ", ".join(f"{path.name} {sizes[path] / 2**20:.0f} MiB" for path in largest)
        raise GoogLeNetError(
            f"{folder}: {total / 2**20:.0f} MiB, more than {limit / 2**20:.0f} ({names});"
            " leave out packages with --package"
        )
    return total


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_run.carry")
    add = parser.add_argument
    add("--output", type=Path, default=Path(".carry"), help="the folder (default .carry)")
    add("--architecture", default="9.0", help="of the GPU (default 9.0: H100 and H200)")
    add("--python", default="3.12", help="version of the other machine's Python (default 3.12)")
    add("--extension", type=Path, help="take the libraries of this folder instead of building them")
    add("--package", nargs="*", default=PACKAGES, help="packages to download")
    return parser


if __name__ == "__main__":
    run_command(main)
