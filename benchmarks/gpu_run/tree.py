"""What a run measures: a source tree, its extension, and the versions that matter."""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.files import sources_digest

ROOT = Path(__file__).parents[2]
"""Of the source tree."""

EXTENSION = "GOOGLENET_FAST_EXTENSION"
"""Variable that names the extension; `googlenet_fast.extension` reads it."""

CARRIED_LIBRARIES, CARRIED_WHEELS = ("_C.abi3.so", "_C_cuda.abi3.so"), "wheels"
"""In a folder that `benchmarks.gpu_run.carry` made. The first library is what EXTENSION names; the
second, the CUDA part, is found beside it."""


def link_kernels(root: Path = ROOT) -> None:
    """Make googlenet_fast/kernels a symbolic link again where a copy of the tree lost it."""
    link = root / "googlenet_fast" / "kernels"
    if not link.is_dir():
        link.unlink(missing_ok=True)  # in a zip archive it is a text file
        link.symlink_to(Path("..", "kernels"))


def digest(dry_run: bool, root: Path = ROOT) -> str:
    """Return a digest of the sources and versions that results depend on."""
    folders = ("googlenet_fast", "kernels", "csrc", "benchmarks/gpu_run/stages")
    about: dict[str, object] = {folder: sources_digest(root / folder) for folder in folders}
    about |= {package: _version(package) for package in ("torch", "triton")}
    text = json.dumps({**about, "dry_run": dry_run}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_extension(path: Path, root: Path = ROOT) -> None:
    """Refuse an extension that was not built from the tree's sources.

    Raises:
        GoogLeNetError: it is absent, or of other sources.
    """
    if not path.is_file():
        raise GoogLeNetError(f"{path}: no such file; python -m benchmarks.gpu_run.carry builds it")
    if sources_digest(root / "csrc").encode() not in path.read_bytes():
        raise GoogLeNetError(
            f"{path}: was built from other C++ sources than {root / 'csrc'};"
            " build it again with python -m benchmarks.gpu_run.carry"
        )


def environment(
    output: Path, carried: Path | None, dry_run: bool, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the environment of the stages: every cache is below `output`, so that it travels.

    Carried wheels are unpacked there, too: no pip is needed.

    Raises:
        GoogLeNetError: an extension that is named was not built from these sources.
    """
    caches = {
        "TRITON_CACHE_DIR": "triton",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "GOOGLENET_FAST_CACHE": "googlenet_fast",
    }
    found = dict(inherited)
    found |= {name: str(output / "cache" / folder) for name, folder in caches.items()}
    found["PYTHONUNBUFFERED"] = "1"
    path = [str(ROOT), *filter(None, [found.get("PYTHONPATH")])]
    if carried is not None:
        site = output / "site"
        unpack(carried / CARRIED_WHEELS, site)
        path.insert(1, str(site))
        found[EXTENSION] = str(carried / CARRIED_LIBRARIES[0])
    found["PYTHONPATH"] = os.pathsep.join(path)
    if named := found.get(EXTENSION):
        check_extension(Path(named))
    if dry_run:
        found |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    return found


def unpack(wheels: Path, site: Path) -> None:
    """Unpack the wheels of a folder into one for PYTHONPATH."""
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
