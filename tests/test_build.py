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


def copy_tree(folder: Path) -> Path:
    """Copy what a build needs, so that it leaves nothing in the repository."""
    folder.mkdir(parents=True)
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored, symlinks=True)
    return folder


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    return copy_tree(tmp_path / "source")


def call_backend(
    tree: Path, hook: str, output: Path, compiler: Path
) -> subprocess.CompletedProcess[str]:
    """Call a hook of setuptools' build backend, such as `build_wheel`, in a source tree."""
    output.mkdir(parents=True, exist_ok=True)
    program = f"from setuptools import build_meta; build_meta.{hook}({str(output)!r})"
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=tree,
        env={**os.environ, "GOOGLENET_FAST_USE_CUDA": "0", "CXX": str(compiler)},
        capture_output=True,
        text=True,
    )


def build_archive(tree: Path, hook: str, output: Path, compiler: Path) -> Path:
    """Return what a hook of the build backend leaves in `output`."""
    child = call_backend(tree, hook, output, compiler)
    assert child.returncode == 0, child.stdout + child.stderr
    (archive,) = output.iterdir()
    return archive


@pytest.fixture(scope="module")
def no_compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiler that leaves an empty file, for tests that do not run the extension."""
    text = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done'
    return script(tmp_path_factory.mktemp("compiler") / "c++", text)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source tree in a folder named googlenet_fast."""
    return copy_tree(tmp_path_factory.mktemp("above") / "googlenet_fast")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, compiled without optimisation, which takes most of the time."""
    folder = tmp_path_factory.mktemp("wheel")
    compiler = script(folder / "c++", f'exec {os.environ.get("CXX", "g++")} "$@" -O0')
    return build_archive(copy_tree(folder / "tree"), "build_wheel", folder / "dist", compiler)


def install(wheel: Path, folder: Path) -> Path:
    """Make a virtual environment with what this one has, and a wheel; return its interpreter."""
    builder = venv.EnvBuilder(symlinks=True)
    builder.create(folder)
    context = builder.ensure_directories(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    others = [entry for entry in sys.path if "site-packages" in entry]
    (site / "others.pth").write_text("\n".join(others))
    return Path(context.env_exe)


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


IMPORTS = """
import runpy, sys
from googlenet_fast import GoogLeNet, extension
print(extension.PATH, extension.UNAVAILABLE)
sys.argv = ["train", "--help"]
runpy.run_module("googlenet_fast.train", run_name="__main__")
"""


def folders(clone: Path, tmp_path: Path) -> list[Path]:
    """Working directories whose entries could be taken for the package."""
    (tmp_path / "other" / "googlenet_fast").mkdir(parents=True)
    return [clone, clone.parent, tmp_path / "other"]


def first_line(python: Path, folder: Path) -> str:
    """Import the package and print a command's help in `folder`; return where the extension is."""
    child = subprocess.run([python, "-c", IMPORTS], cwd=folder, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    first, usage, *_ = child.stdout.splitlines()
    assert usage.startswith("usage: ")
    return first


@posix
@pytest.mark.slow
def test_an_editable_install_is_imported_from_any_folder(
    clone: Path, no_compiler: Path, tmp_path: Path
) -> None:
    editable = build_archive(clone, "build_editable", tmp_path / "dist", no_compiler)
    python = install(editable, tmp_path / "environment")
    for folder in folders(clone, tmp_path):
        assert first_line(python, folder).startswith(f"{clone}/googlenet_fast/_C.abi3.so ")


@posix
@pytest.mark.slow
def test_a_plain_install_is_imported_from_any_folder(
    wheel: Path, clone: Path, tmp_path: Path
) -> None:
    """In the root of a clone, where Python imports the clone, the installed library serves."""
    (clone / "googlenet_fast" / "_C.abi3.so").unlink(missing_ok=True)
    python = install(wheel, tmp_path / "environment")
    (library,) = tmp_path.glob("environment/lib/python*/site-packages/googlenet_fast/_C.abi3.so")
    for folder in folders(clone, tmp_path):
        assert first_line(python, folder) == f"{library} None"


@posix
@pytest.mark.slow
def test_an_installed_library_of_other_sources_is_not_taken_by_a_clone(
    wheel: Path, clone: Path, tmp_path: Path
) -> None:
    edited = shutil.copytree(clone, tmp_path / "clone", symlinks=True)
    (edited / "googlenet_fast" / "_C.abi3.so").unlink(missing_ok=True)
    with (edited / "csrc" / "kernels.h").open("a") as header:
        header.write("// edited\n")
    python = install(wheel, tmp_path / "environment")
    assert f"{edited} shadows the installed {tmp_path}" in first_line(python, edited)


@posix
@pytest.mark.slow
def test_users_of_mypy_see_the_packages_types(
    clone: Path, no_compiler: Path, tmp_path: Path
) -> None:
    pytest.importorskip("mypy")
    editable = build_archive(clone, "build_editable", tmp_path / "dist", no_compiler)
    python = install(editable, tmp_path / "environment")
    program = tmp_path / "program.py"
    program.write_text(
        "from googlenet_fast import GoogLeNet, missing\n"
        "from googlenet_fast.kernels import pool_project\n"
        "reveal_type(GoogLeNet)\nreveal_type(pool_project.forward)\n"
    )
    child = subprocess.run(
        [sys.executable, "-m", "mypy", f"--python-executable={python}", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert 'program.py:1: error: Module "googlenet_fast" has no attribute "missing"' in child.stdout
    assert "GoogLeNet" in child.stdout.split("program.py:3:")[1].splitlines()[0]
    assert "y: torch._tensor.Tensor" in child.stdout.split("program.py:4:")[1].splitlines()[0]


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        assert len(set(archive.namelist())) == len(archive.namelist())
        return {name: archive.read(name) for name in archive.namelist()}


@posix
@pytest.mark.slow
def test_wheels_of_a_clone_an_sdist_and_a_tree_without_links_are_the_same(
    no_compiler: Path, tmp_path: Path
) -> None:
    tree = copy_tree(tmp_path / "tree")
    expected = contents(build_archive(tree, "build_wheel", tmp_path / "1", no_compiler))
    kernels = {f"googlenet_fast/kernels/{path.name}" for path in ROOT.glob("kernels/*.py")}
    assert kernels
    assert {name for name in expected if "kernels/" in name} == kernels

    sdist = build_archive(copy_tree(tmp_path / "2"), "build_sdist", tmp_path / "3", no_compiler)
    shutil.unpack_archive(sdist, tmp_path / "4", filter="data")
    (unpacked,) = (tmp_path / "4").iterdir()
    assert not (unpacked / "googlenet_fast" / "kernels").is_symlink()
    assert contents(build_archive(unpacked, "build_wheel", tmp_path / "5", no_compiler)) == expected

    without_links = copy_tree(tmp_path / "6")
    (without_links / "googlenet_fast" / "kernels").unlink()
    (without_links / "googlenet_fast" / "kernels").write_text("../kernels")
    wheel = build_archive(without_links, "build_wheel", tmp_path / "7", no_compiler)
    assert contents(wheel) == expected
    refused = call_backend(without_links, "build_editable", tmp_path / "8", no_compiler)
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert "error: googlenet_fast/kernels is not a symbolic link" in refused.stderr


@posix
@pytest.mark.slow
def test_the_wheel_is_complete_and_its_extension_works(wheel: Path, tmp_path: Path) -> None:
    assert "-cp310-abi3-" in wheel.name
    names = set(contents(wheel))
    data = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("py.typed", "configs/*.yaml", "data/*.txt", "engine/*.html")
        for path in (ROOT / "googlenet_fast").glob(pattern)
    }
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("googlenet_fast/**/*.py")}
    assert data
    assert names >= data | modules
    assert "googlenet_fast/_C.abi3.so" in names
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"googlenet_fast"}

    program = (
        "import torch, googlenet_fast.kernels.launch\n"
        "from googlenet_fast.ops import concat_bias_relu, use_impl\n"
        "with use_impl('native'):\n"
        "    y = concat_bias_relu([torch.full((1, 2, 3, 3), -1.0)], [torch.tensor([0.0, 3.0])])\n"
        "print(y.sum((0, 2, 3)).tolist())\n"
    )
    python = install(wheel, tmp_path / "environment")
    child = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert child.stdout.strip() == "[0.0, 18.0]", child.stderr


@posix
@pytest.mark.slow
def test_an_isolated_build_finds_torch(
    source_tree: Path, no_compiler: Path, tmp_path: Path
) -> None:
    """pip builds without the environment's packages, but setup.py asks its torch."""
    child = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "-w", str(tmp_path)],
        cwd=source_tree,
        env={**os.environ, "GOOGLENET_FAST_USE_CUDA": "0", "CXX": str(no_compiler)},
        capture_output=True,
        text=True,
    )
    if "No matching distribution found for setuptools" in child.stderr:
        pytest.skip("no package index to take setuptools from")
    assert child.returncode == 0, child.stdout + child.stderr
