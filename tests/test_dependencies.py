"""What an install depends on: a short core, the build of DALI that fits torch, and extras."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.setup_script import setup

pytest.importorskip("setuptools")
ROOT = Path(__file__).parents[1]
CORE = {
    "torch",
    "numpy",
    "pillow",
    "safetensors",
    "pyyaml",
    "jsonargparse",
    "tqdm",
    "tabulate",
    "wcwidth",
}


@pytest.fixture
def build() -> ModuleType:
    """setup.py as a module."""
    return setup()


def requirements(folder: Path, **environment: str) -> list[str]:
    """Return what the package's metadata requires, without extras."""
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "googlenet_fast", folder / "googlenet_fast", ignore=shutil.ignore_patterns("*.so")
    )
    program = "from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel('.')"
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=os.environ | environment,
        check=True,
        capture_output=True,
    )
    (metadata,) = folder.glob("*.dist-info/METADATA")
    lines = re.findall(r"^Requires-Dist: (.+)$", metadata.read_text(), re.MULTILINE)
    return [line for line in lines if "extra ==" not in line]


def test_the_core_is_short(tmp_path: Path) -> None:
    required = requirements(tmp_path, GOOGLENET_FAST_DALI="0")
    assert {re.split(r"[\[>]", line)[0] for line in required} == CORE
    assert "torch>=2.4" in required


def test_metadata_has_the_build_of_dali_that_is_asked_for(tmp_path: Path) -> None:
    required = requirements(tmp_path, GOOGLENET_FAST_DALI="12")
    dali = [line for line in required if "dali" in line]
    assert len(dali) == 1
    assert dali[0].startswith("nvidia-dali-cuda120>=2.0; ")


@pytest.mark.parametrize(
    ("version", "cuda", "expected"),
    [
        ("2.14.1", "13.0", "nvidia-dali-cuda130"),
        ("2.10.0+cu128", "12.8", "nvidia-dali-cuda120"),
        ("2.4.1+cu118", "11.8", None),  # DALI 2 has no build for it
        ("2.14.1+cpu", None, None),
        ("2.7.1+corex.4.4.0", "10.2", None),
        ("2.10.0+corex.4.5.0", "12.4", None),
        ("2.9.1+rocm6.4", None, None),
    ],
)
def test_dali_fits_the_installed_torch(
    version: str, cuda: str | None, expected: str | None, build: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    torch = build.Torch(version=version, cuda=cuda, include=[], lib="")
    monkeypatch.setattr(build, "describe_torch", lambda: torch)
    for environment in ({}, {"GOOGLENET_FAST_DALI": "auto"}):
        found = build.dali_requirements(environment)
        assert [line.partition(">=")[0] for line in found] == [expected] * (expected is not None)
    assert build.dali_requirements({"GOOGLENET_FAST_DALI": "0"}) == []
    (asked,) = build.dali_requirements({"GOOGLENET_FAST_DALI": "13"})
    assert asked.startswith("nvidia-dali-cuda130>=2.0; platform_system == 'Linux'")


def test_metadata_needs_no_torch(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise build.BuildError("no torch")

    monkeypatch.setattr(build, "describe_torch", absent)
    assert build.dali_requirements({}) == []


def test_an_unknown_dali_is_refused(build: ModuleType) -> None:
    with pytest.raises(build.BuildError, match="GOOGLENET_FAST_DALI=11: choose auto, 0, 12 or 13"):
        build.dali_requirements({"GOOGLENET_FAST_DALI": "11"})


def test_extras() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert 'all = ["googlenet-fast[train,onnx,hub]"]' in text
    for extra in ("train", "onnx", "hub", "all", "torchvision", "dev", "dali12", "dali13"):
        assert re.search(rf"^{extra} = \[", text, re.MULTILINE)
    assert "cuda12 =" not in text
