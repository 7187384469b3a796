import json
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


def torch_for(build: ModuleType, cuda: str | None, version: str = "2.14.1") -> Any:
    return build.Torch(version, cuda, include=[], lib="")


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


def empty_environment(folder: Path) -> str:
    """Make an environment without packages; return its interpreter."""
    builder = venv.EnvBuilder(symlinks=os.name == "posix")
    builder.create(folder)
    python: str = builder.ensure_directories(folder).env_exe
    return python


def test_missing_torch_is_reported_with_the_command(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(build.BuildError) as error:
        build.describe_torch(empty_environment(tmp_path))
    assert "No module named 'torch'" in str(error.value)
    assert "pip install torch && pip install -e ." in str(error.value)


def fake_torch(folder: Path, version: str) -> Path:
    """Make a package that describes itself as torch does; return the folder that has it."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(
        f"import types\n__version__ = {version!r}\nversion = types.SimpleNamespace(cuda=None)\n"
    )
    return folder


def test_torch_on_pythonpath_is_found(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(fake_torch(tmp_path / "path", "2.99")))
    assert build.describe_torch(empty_environment(tmp_path / "venv")).version == "2.99"


@posix
def test_torch_of_the_activated_environment_is_found_in_an_isolated_one(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv and `build` run another interpreter, whose folder is put before others on PATH."""
    python = Path(empty_environment(tmp_path / "activated"))
    (site,) = tmp_path.glob("activated/lib/python*/site-packages")
    fake_torch(site, "2.98")
    isolated = Path(empty_environment(tmp_path / "isolated"))
    monkeypatch.setattr(sys, "executable", str(isolated))
    monkeypatch.setenv("PATH", f"{isolated.parent}:{python.parent}")
    assert build.describe_torch(str(isolated)).version == "2.98"


def describe(build: ModuleType, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Have the build find a torch of some version."""
    torch = build.Torch(version, None, [], "")
    monkeypatch.setattr(build, "describe_torch", lambda: torch)


def test_python_alone_is_installed_where_nothing_can_be_compiled(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = {"CXX": sys.executable}
    describe(build, monkeypatch, "2.10.0+cpu")
    assert build.why_without_extension(compiler) is None
    assert build.why_without_extension({"CXX": "/nowhere/c++ -O2"}) == (
        "there was no C++ compiler (/nowhere/c++)"
    )
    describe(build, monkeypatch, "2.9.1+cu128")
    assert build.why_without_extension(compiler) == "torch 2.9.1+cu128 was older than 2.10"
    monkeypatch.delattr(build, "describe_torch")  # torch is not needed
    assert build.why_without_extension({"GOOGLENET_FAST_BUILD": "0"}) == (
        "GOOGLENET_FAST_BUILD was 0"
    )


@pytest.mark.parametrize("name", ["GOOGLENET_FAST_BUILD", "GOOGLENET_FAST_USE_CUDA"])
def test_an_extension_that_is_asked_for_and_cannot_be_built_is_an_error(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    describe(build, monkeypatch, "2.14.1")
    with pytest.raises(build.BuildError) as error:
        build.why_without_extension({"CXX": "/nowhere/c++", name: "1"})
    assert f"error: {name}=1, but there was no C++ compiler (/nowhere/c++)" in str(error.value)
    assert "apt install g++" in str(error.value)
    with pytest.raises(build.BuildError, match=f"{name}=2: choose auto, 0 or 1"):
        build.choice({name: "2"}, name)


def test_compilers_and_flags_are_taken_from_the_environment(build: ModuleType) -> None:
    environment = {"CXX": "ccache clang++ -m64", "CXXFLAGS": "-g -DA='b c'"}
    assert build.cxx_compiler(environment) == ["ccache", "clang++", "-m64", "-g", "-DA=b c"]


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program}")


@posix
@needs("g++")
def test_ninja_compiles_what_changed(build: ModuleType, tmp_path: Path) -> None:
    """The folder's name has what ninja and the shell must be kept from reading."""
    folder = tmp_path / "a b$c:d"
    folder.mkdir()
    sources = [folder / "one.cpp", folder / "two.cpp"]
    header = folder / "header.h"
    header.write_text("inline int value() { return 1; }\n")
    sources[0].write_text('#include "header.h"\nint one() { return value(); }\n')
    sources[1].write_text("const char* two() { return TEXT; }\n")
    text = json.dumps('$HOME "quoted"')

    def run(*flags: str) -> set[str]:
        """Build and return what was made."""
        compiler = ["g++", "-fPIC", f"-DTEXT={text}", *flags]
        steps = [build.Step(path.with_suffix(".o"), [path], compiler) for path in sources]
        objects = [step.output for step in steps]
        link = build.Step(folder / "library.so", objects, ["g++", "-shared"], ["-lm"])
        times = {path: path.stat().st_mtime_ns for path in folder.glob("*.*o")}
        build.run_ninja(folder / "ninja", [*steps, link], 2)
        return {
            path.name for path in folder.glob("*.*o") if path.stat().st_mtime_ns != times.get(path)
        }

    assert run() == {"one.o", "two.o", "library.so"}
    assert b'$HOME "quoted"' in (folder / "library.so").read_bytes()
    assert run() == set()
    header.write_text("inline int value() { return 2; }\n")
    assert run() == {"one.o", "library.so"}
    assert run("-O1") == {"one.o", "two.o", "library.so"}
    sources[1].write_text("no C++")
    with pytest.raises(build.BuildError, match="GOOGLENET_FAST_BUILD=0 pip install"):
        run()


def test_a_missing_ninja_is_reported_with_the_command(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(build.BuildError, match="pip install ninja"):
        build.run_ninja(tmp_path, [], 1)


def compile_commands(build: ModuleType, folder: Path) -> dict[str, list[str]]:
    """Return what makes each file of the extension, by its name below `folder`."""
    steps = build.steps_of_extension(folder, 2)
    return {str(step.output.relative_to(folder)): list(step.command) for step in steps}


def test_the_cuda_part_has_objects_of_its_own(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that neither part is compiled again when the other comes or goes."""
    torch = build.Torch("2.14.1+cu130", "13.0", ["/include"], "/lib")
    monkeypatch.setattr(build, "describe_torch", lambda: torch)
    monkeypatch.setattr(build, "run", lambda command: "compute_90\n")
    monkeypatch.setenv("CXX", "ccache g++")
    monkeypatch.setenv("GOOGLENET_FAST_USE_CUDA", "auto")
    monkeypatch.delenv("GOOGLENET_FAST_WERROR", raising=False)
    monkeypatch.setattr(build, "find_toolkit", lambda environment: None)
    cpu = compile_commands(build, tmp_path)
    toolkit = build.Toolkit(tmp_path, "13.0")
    monkeypatch.setattr(build, "find_toolkit", lambda environment: toolkit)
    both = compile_commands(build, tmp_path)
    info = "csrc/bindings/build_info.cpp.o"
    cuda = both.keys() - cpu.keys()
    assert {name for name in cpu if cpu[name] != both[name]} == {info}
    assert build.CUDA_LIBRARY in cuda
    assert any("-DUSE_CUDA" in both[name] for name in cuda)
    assert not any("-DUSE_CUDA" in both[name] for name in cpu)
    assert "-ccbin=g++" in both["csrc/cuda/max_pool.cu.cuda.o"]
    assert "csrc/bindings/max_pool.cpp.cuda.o" in cuda
    assert "csrc/bindings/inception.cpp.cuda.o" not in cuda

    assert not any("-Werror" in command for command in both.values())
    monkeypatch.setenv("GOOGLENET_FAST_WERROR", "1")
    strict = compile_commands(build, tmp_path)
    assert all("-Werror" in strict[name] for name in cpu if name.startswith("csrc"))
    assert "-Xcompiler=-Werror" in strict["csrc/cuda/max_pool.cu.cuda.o"]
    assert "-Werror=all-warnings" in strict["csrc/cuda/max_pool.cu.cuda.o"]


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


def test_no_cuda_part_is_built_for_other_vendors(build: ModuleType, tmp_path: Path) -> None:
    torch = torch_for(build, "10.2", "2.10.0+corex.4.5.0")
    toolkit = build.Toolkit(tmp_path, "10.2")
    line = "CPU part only: torch 2.10.0+corex.4.5.0 is not for NVIDIA's GPUs"
    assert build.choose_toolkit(torch, toolkit, {}) == (None, line)
    with pytest.raises(build.BuildError, match="GOOGLENET_FAST_USE_CUDA=1, but torch"):
        build.choose_toolkit(torch, toolkit, {"GOOGLENET_FAST_USE_CUDA": "1"})


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
    assert "-py3-none-linux_" in wheel.name or sys.platform != "linux"
    names = set(contents(wheel))
    data = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("py.typed", "configs/*.yaml", "data/*.txt", "engine/*.html")
        for path in (ROOT / "googlenet_fast").glob(pattern)
    }
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("googlenet_fast/**/*.py")}
    assert data
    assert names >= data | modules
    libraries = {name for name in names if "googlenet_fast/_C" in name}
    assert libraries == {"googlenet_fast/_C.abi3.so"}
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
    if "No matching distribution found for" in child.stderr:
        pytest.skip("no package index to take setuptools and ninja from")
    assert child.returncode == 0, child.stdout + child.stderr


DESCRIBE = """
import torch
from googlenet_fast import GoogLeNet
from googlenet_fast.environment import describe_extension
GoogLeNet("torchvision", 2, aux=False)(torch.randn(2, 3, 64, 64)).sum().backward()
print(describe_extension()["cpu part"])
"""


@posix
@pytest.mark.slow
def test_an_install_of_python_alone_works_and_says_why(source_tree: Path, tmp_path: Path) -> None:
    """Without a compiler; what an earlier build left in the tree goes."""
    left = source_tree / "googlenet_fast" / "_C.abi3.so"
    left.touch()
    editable = build_archive(source_tree, "build_editable", tmp_path / "1", Path("/nowhere/c++"))
    assert editable.name.endswith("-py3-none-any.whl")
    assert not left.exists()
    wheel = build_archive(source_tree, "build_wheel", tmp_path / "2", Path("/nowhere/c++"))
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "googlenet_fast/_C.abi3.so" not in contents(wheel)
    python = install(wheel, tmp_path / "environment")
    child = subprocess.run([python, "-c", DESCRIBE], cwd=tmp_path, capture_output=True, text=True)
    assert child.stdout.strip() == (
        "the compiled extension is absent: when this was installed, there was no C++ compiler"
        " (/nowhere/c++)"
    ), child.stderr


@posix
@pytest.mark.slow
def test_unchanged_sources_are_not_compiled_again(source_tree: Path, tmp_path: Path) -> None:
    """In an editable install, nor in a wheel afterwards: the objects stay in the tree."""
    log = tmp_path / "log"
    text = f'echo "$@" >> {log}; while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done'
    compiler = script(tmp_path / "c++", text)

    def compiled(hook: str, output: str) -> list[str]:
        log.write_text("")
        build_archive(source_tree, hook, tmp_path / output, compiler)
        return [line.split()[-1] for line in log.read_text().splitlines() if " -MF " in line]

    assert len(compiled("build_editable", "1")) > 20
    assert compiled("build_editable", "2") == []
    assert compiled("build_wheel", "3") == []
    with (source_tree / "csrc" / "cpu" / "max_pool.cpp").open("a") as source:
        source.write("// edited\n")
    changed = compiled("build_editable", "4")
    assert sorted(changed) == ["csrc/bindings/build_info.cpp", "csrc/cpu/max_pool.cpp"]


@posix
@pytest.mark.slow
def test_a_read_only_tree_can_be_built(
    source_tree: Path, no_compiler: Path, tmp_path: Path
) -> None:
    before = sorted(source_tree.rglob("*"))
    folder = tmp_path / "dist"
    folder.mkdir()
    program = (
        "import os\n"
        "from setuptools import build_meta\n"
        f"access = os.access; tree = {str(source_tree)!r}\n"
        "os.access = lambda path, mode: (\n"
        "    str(path) != tree and access(path, mode)\n"
        ")\n"  # root may write everywhere
        f"build_meta.build_wheel({str(folder)!r})\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program],
        cwd=source_tree,
        env={**os.environ, "GOOGLENET_FAST_USE_CUDA": "0", "CXX": str(no_compiler)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    assert "googlenet_fast/_C.abi3.so" in contents(next(folder.iterdir()))
    assert [path for path in sorted(source_tree.rglob("*")) if "__pycache__" not in path.parts] == [
        path for path in before if "__pycache__" not in path.parts
    ]
