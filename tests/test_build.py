import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.setup_script import setup

pytest.importorskip("setuptools")
ROOT = Path(__file__).parents[1]
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md")
PACKAGES = ("csrc", "kernels", "googlenet_fast")

posix = pytest.mark.skipif(os.name != "posix", reason="uses shell scripts")


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """setup.py as a module."""
    return setup()


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    """A copy of what a build needs, to keep the repository clean."""
    tree = tmp_path / "source"
    tree.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, tree)
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    return tree


def torch_for(build: ModuleType, cuda: str | None) -> Any:
    return build.Torch(version="2.14.1", cuda=cuda, include=[], lib="")


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_torch_of_the_environment_is_found(build: ModuleType) -> None:
    import torch

    described = build.describe_torch()
    assert described.version == torch.__version__
    assert described.cuda == torch.version.cuda
    headers = [Path(folder, "torch/csrc/stable/library.h") for folder in described.include]
    assert any(header.is_file() for header in headers)
    assert any(Path(described.lib).glob("*torch_cpu*"))


def test_missing_torch_is_reported_with_the_command(build: ModuleType, tmp_path: Path) -> None:
    builder = venv.EnvBuilder(symlinks=os.name == "posix")
    builder.create(tmp_path)
    python = builder.ensure_directories(tmp_path).env_exe
    with pytest.raises(build.BuildError) as error:
        build.describe_torch(python)
    assert "No module named 'torch'" in str(error.value)
    assert "pip install torch && pip install -e ." in str(error.value)


def test_missing_compiler_is_reported_with_the_command(source_tree: Path) -> None:
    child = subprocess.run(
        [sys.executable, "setup.py", "build_ext"],
        cwd=source_tree,
        env={**os.environ, "CXX": "/nowhere/c++"},
        capture_output=True,
        text=True,
    )
    assert child.returncode != 0
    assert "error: there is no C++ compiler (/nowhere/c++)" in child.stderr
    assert "pip install -e ." in child.stderr
    assert "Traceback" not in child.stderr


@posix
@pytest.mark.parametrize("known", [True, False])
def test_amx_flags_need_a_compiler_that_has_them(
    build: ModuleType, tmp_path: Path, known: bool
) -> None:
    compiler = script(
        tmp_path / "c++", f'case "$*" in *-mamx-bf16*) {"true" if known else "false"};; esac'
    )
    assert build.has_amx([str(compiler)]) == known


@pytest.mark.parametrize("wanted", ["auto", "1"])
def test_another_major_version_of_cuda_is_refused(
    build: ModuleType, wanted: str, tmp_path: Path
) -> None:
    toolkit = build.Toolkit(tmp_path, "12.4")
    with pytest.raises(build.BuildError) as error:
        build.choose_toolkit(torch_for(build, "13.0"), toolkit, {"GOOGLENET_FAST_USE_CUDA": wanted})
    message = str(error.value)
    assert "is 12.4, but torch 2.14.1 is built for CUDA 13.0" in message
    assert "GOOGLENET_FAST_USE_CUDA=0 pip install -e ." in message


@pytest.mark.parametrize(
    ("cuda", "toolkit_version", "wanted", "reason"),
    [
        (None, "13.0", "auto", "is a CPU build"),
        (None, None, "auto", "is a CPU build"),
        ("13.0", None, "auto", "no nvcc"),
        ("13.0", "12.4", "0", "GOOGLENET_FAST_USE_CUDA=0"),
    ],
)
def test_cpu_only_builds_give_the_reason_in_one_line(
    build: ModuleType,
    tmp_path: Path,
    cuda: str | None,
    toolkit_version: str | None,
    wanted: str,
    reason: str,
) -> None:
    toolkit = None if toolkit_version is None else build.Toolkit(tmp_path, toolkit_version)
    chosen, line = build.choose_toolkit(
        torch_for(build, cuda), toolkit, {"GOOGLENET_FAST_USE_CUDA": wanted}
    )
    assert chosen is None
    assert line.startswith("CPU part only: ")
    assert reason in line
    assert "\n" not in line


def test_a_minor_difference_of_cuda_is_accepted(build: ModuleType, tmp_path: Path) -> None:
    toolkit = build.Toolkit(tmp_path, "13.2")
    assert build.choose_toolkit(torch_for(build, "13.0"), toolkit, {})[0] == toolkit


@pytest.mark.parametrize(
    ("cuda", "wanted", "message"),
    [
        (None, "1", "install a CUDA build of torch"),
        ("13.0", "1", "install the CUDA toolkit 13.0 and set CUDA_HOME"),
        ("13.0", "yes", "GOOGLENET_FAST_USE_CUDA=yes: choose auto, 0 or 1"),
    ],
)
def test_a_cuda_part_that_cannot_be_built_is_an_error(
    build: ModuleType, cuda: str | None, wanted: str, message: str
) -> None:
    with pytest.raises(build.BuildError, match=message):
        build.choose_toolkit(torch_for(build, cuda), None, {"GOOGLENET_FAST_USE_CUDA": wanted})


@posix
def test_the_toolkit_behind_a_wrapper_of_nvcc_is_found(build: ModuleType, tmp_path: Path) -> None:
    root = tmp_path / "cuda-12.4"
    nvcc = script(
        root / "bin/nvcc",
        'if [ "$1" = --version ]; then echo "Cuda compilation tools, release 12.4, V12.4.1"\n'
        f'else echo "#$ TOP={root}/bin/.." >&2; fi',
    )
    wrapper = script(tmp_path / "bin/nvcc", f'exec {nvcc} "$@"')
    environment = {"PATH": str(wrapper.parent)}
    assert build.find_toolkit(environment) == build.Toolkit(root.resolve(), "12.4")
    other = tmp_path / "other"
    assert build.find_toolkit({**environment, "CUDA_HOME": str(other)}) is None


def test_architectures(build: ModuleType) -> None:
    offered = "compute_50\ncompute_75\ncompute_90\ncompute_100\n"
    names, flags = build.architecture_flags(offered, None)
    assert names == ["75", "90", "100"]
    assert flags == [
        "-gencode=arch=compute_75,code=sm_75",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]
    assert build.architecture_flags(offered, "8.0;9.0a+PTX") == (
        ["80", "90a"],
        [
            "-gencode=arch=compute_80,code=sm_80",
            "-gencode=arch=compute_90a,code=sm_90a",
            "-gencode=arch=compute_90a,code=compute_90a",
        ],
    )
    with pytest.raises(build.BuildError, match="TORCH_CUDA_ARCH_LIST=Hopper"):
        build.architecture_flags(offered, "Hopper")


@pytest.mark.parametrize(
    ("environment", "cores", "free_gib", "jobs"),
    [
        ({}, 8, 64.0, 8),
        ({}, 8, 6.5, 3),
        ({}, 8, 0.5, 1),
        ({"MAX_JOBS": "5"}, 2, 1.0, 5),
    ],
)
def test_compilers_are_limited_by_cores_and_memory(
    build: ModuleType, environment: dict[str, str], cores: int, free_gib: float, jobs: int
) -> None:
    assert build.parallel_jobs(environment, cores, free_gib) == jobs


def test_a_bad_number_of_jobs_is_refused(build: ModuleType) -> None:
    with pytest.raises(build.BuildError, match="MAX_JOBS=many"):
        build.parallel_jobs({"MAX_JOBS": "many"}, 2, 8)


@pytest.mark.slow
@posix
def test_the_wheel_is_complete_and_its_extension_works(source_tree: Path, tmp_path: Path) -> None:
    """Built without optimisation, which takes most of the time."""
    compiler = script(tmp_path / "c++", f'exec {os.environ.get("CXX", "g++")} "$@" -O0')
    child = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "-w", str(tmp_path)],
        cwd=source_tree,
        env={**os.environ, "GOOGLENET_FAST_USE_CUDA": "0", "CXX": str(compiler)},
        capture_output=True,
        text=True,
    )
    if "No matching distribution found for setuptools" in child.stderr:
        pytest.skip("no package index to take setuptools from")
    assert child.returncode == 0, child.stdout + child.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "unpacked")
    data = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("configs/*.yaml", "data/*.txt", "engine/*.html")
        for path in (ROOT / "googlenet_fast").glob(pattern)
    }
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("googlenet_fast/**/*.py")}
    assert data
    assert names >= data | modules
    assert {"googlenet_fast/_C.abi3.so", "googlenet_fast/kernels/__init__.py"} <= names
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"googlenet_fast"}

    program = (
        "import torch, googlenet_fast.kernels\n"
        "from googlenet_fast.ops import concat_bias_relu, use_impl\n"
        "with use_impl('native'):\n"
        "    y = concat_bias_relu([torch.full((1, 2, 3, 3), -1.0)], [torch.tensor([0.0, 3.0])])\n"
        "print(y.sum((0, 2, 3)).tolist())\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "unpacked",
        capture_output=True,
        text=True,
    )
    assert child.stdout.strip() == "[0.0, 18.0]", child.stderr
