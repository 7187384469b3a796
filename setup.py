"""Builds the compiled extension, googlenet_fast/_C.abi3.so, against the environment's torch.

pip builds in isolation: there torch is not importable, and must not be a build requirement either,
or the extension would be compiled against another torch than the one it will meet. So a child of
the same interpreter, run without pip's PYTHONPATH, imports the environment's torch and describes
it. The extension keeps to LibTorch's and Python's stable ABIs, and so serves every torch >= 2.10
and Python >= 3.10.

Environment variables:
    GOOGLENET_FAST_USE_CUDA: `auto` (default: if torch is a CUDA build and there is a toolkit), `0`
        or `1`. No GPU is needed.
    CUDA_HOME: the CUDA toolkit, if it is not the one of the nvcc on PATH or /usr/local/cuda.
    TORCH_CUDA_ARCH_LIST: GPU architectures such as `8.0;9.0+PTX`; default: all from 7.5 up that
        the toolkit offers, and PTX of the newest for those to come.
    MAX_JOBS: compilers to run at once; default: as cores and memory allow.
    GOOGLENET_FAST_DALI: DALI to depend on: `auto` (default: the build for the CUDA of torch), `12`
        or `13` for that CUDA, `0` for none, as wheels for others have it.
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # isolated builds leave it out

from googlenet_fast.files import sources_digest  # noqa: E402
from googlenet_fast.vendors import is_other_vendors  # noqa: E402

STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DPy_LIMITED_API=0x030a0000"]
INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mfma"],
    "amx": ["-mavx512f", "-mavx512bw", "-mfma", "-mamx-tile", "-mamx-bf16"],
}
"""Compiler flags of the instruction sets that csrc/cpu/kernel_configs.cpp chooses from at run time.
Other architectures than x86-64 build only the baseline."""
VECTORIZE = ["-fno-math-errno", "-fno-trapping-math"]
"""Let square roots and choices be vectors; neither changes a result."""
PER_INSTRUCTION_SET = {
    "isa_kernels.cpp": ("baseline", "avx2", "avx512"),
    "amx_kernels.cpp": ("amx",),
}
"""What sources are compiled for which of them. Without its flags AMX is emulated: on other
machines, and by compilers that do not know it."""
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
DEPENDENCIES = [
    "torch>=2.4",
    "numpy>=1.26",
    "pillow>=11",
    "safetensors>=0.5",
    "pyyaml>=6.0.1",
    "jsonargparse[signatures]>=4.53",
    "tqdm>=4.67",
]
"""What training needs; pyproject.toml has what the extras bring."""
DALI = (
    "nvidia-dali-cuda{}0>=2.0; platform_system == 'Linux' and platform_machine in 'x86_64 aarch64'"
)
OLDEST_ARCHITECTURE = 75
GIB_PER_COMPILER = 2

DESCRIBE_TORCH = """
import json, torch
from pathlib import Path
root = Path(torch.__file__).parent
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "include": [str(root / "include"), str(root / "include/torch/csrc/api/include")],
    "lib": str(root / "lib"),
}))
"""


class BuildError(SystemExit):
    """Stops the build with one message that says what to type."""

    def __init__(self, message: str) -> None:
        super().__init__(f"\nerror: {message}\n")


@dataclass(frozen=True)
class Torch:
    """The torch that the extension is built against."""

    version: str
    """Its version, such as 2.14.1+cu130."""
    cuda: str | None
    """The version of CUDA that it was built with; None for a CPU build."""
    include: list[str]
    """Folders of its headers."""
    lib: str
    """Folder of its libraries."""


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit."""

    root: Path
    """Its folder, with bin, include and lib64."""
    version: str
    """Such as 13.0."""

    @property
    def nvcc(self) -> Path:
        """The compiler."""
        return self.root / "bin" / "nvcc"


@cache
def describe_torch(python: str = sys.executable) -> Torch:
    """Ask the environment's torch; -E and the neutral folder lead past pip's isolation."""
    child = subprocess.run(
        [python, "-E", "-c", DESCRIBE_TORCH],
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    if child.returncode:
        lines = child.stderr.strip().splitlines() or ["no torch"]
        raise BuildError(
            f"{python} cannot import torch ({lines[-1]}). The compiled extension is built against"
            " the environment's own torch, so install that first: pip install torch && pip"
            " install -e . (with installers other than pip, add --no-build-isolation)"
        )
    return Torch(**json.loads(child.stdout.splitlines()[-1]))


def dali_requirements(environment: Mapping[str, str]) -> list[str]:
    """Return the build of DALI for the environment's torch, if it is one for NVIDIA's GPUs.

    The files of DALI's builds have the same names, so a second one would overwrite the first.
    """
    wanted = environment.get("GOOGLENET_FAST_DALI") or "auto"
    if wanted not in ("auto", "0", "12", "13"):
        raise BuildError(f"GOOGLENET_FAST_DALI={wanted}: choose auto, 0, 12 or 13")
    if wanted == "auto":
        try:
            torch = describe_torch()
        except BuildError:  # the extension's build reports it; an sdist needs no torch
            return []
        if torch.cuda is None or is_other_vendors(torch.version):
            return []
        wanted = torch.cuda.split(".")[0]
    return [DALI.format(wanted)] if wanted in ("12", "13") else []


def find_toolkit(environment: Mapping[str, str]) -> Toolkit | None:
    """Find the CUDA toolkit: $CUDA_HOME, that of the nvcc on PATH, or /usr/local/cuda."""
    nvcc = shutil.which("nvcc", path=environment.get("PATH"))
    if environment.get("CUDA_HOME"):
        roots = [Path(environment["CUDA_HOME"])]
    else:
        roots = [*([real_root(nvcc)] if nvcc else []), Path("/usr/local/cuda")]
    for root in roots:
        if (root / "bin" / "nvcc").is_file():
            about = run([str(root / "bin" / "nvcc"), "--version"])
            release = re.search(r"release (\d+\.\d+)", about)
            if release:
                return Toolkit(root, release[1])
    return None


def real_root(nvcc: str) -> Path:
    """Ask nvcc where its toolkit is: the one on PATH may be a script that calls the real one."""
    dry_run = subprocess.run([nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", dry_run.stderr, re.MULTILINE)
    return Path(top[1]).resolve() if top else Path(nvcc).resolve().parents[1]


def choose_toolkit(
    torch: Torch, toolkit: Toolkit | None, environment: Mapping[str, str]
) -> tuple[Toolkit | None, str]:
    """Return the toolkit for the CUDA part, or None to leave that out, and a line to print."""
    wanted = environment.get("GOOGLENET_FAST_USE_CUDA") or "auto"
    if wanted not in ("auto", "0", "1"):
        raise BuildError(f"GOOGLENET_FAST_USE_CUDA={wanted}: choose auto, 0 or 1")
    if wanted == "0":
        return None, "CPU part only: GOOGLENET_FAST_USE_CUDA=0"
    if torch.cuda is None or toolkit is None:
        missing = (
            f"torch {torch.version} is a CPU build"
            if torch.cuda is None
            else f"torch is built for CUDA {torch.cuda}, but no nvcc is on PATH or in CUDA_HOME"
        )
        if wanted == "1":
            remedy = (
                "install a CUDA build of torch (see pytorch.org)"
                if torch.cuda is None
                else f"install the CUDA toolkit {torch.cuda} and set CUDA_HOME to it"
            )
            raise BuildError(f"GOOGLENET_FAST_USE_CUDA=1, but {missing}: {remedy}")
        return None, f"CPU part only: {missing}"
    if toolkit.version.split(".")[0] != torch.cuda.split(".")[0]:
        raise BuildError(
            f"the CUDA toolkit in {toolkit.root} is {toolkit.version}, but torch {torch.version} is"
            f" built for CUDA {torch.cuda}: install the CUDA toolkit {torch.cuda} and type"
            " CUDA_HOME=/path/to/it pip install -e . or go without the CUDA kernels:"
            " GOOGLENET_FAST_USE_CUDA=0 pip install -e ."
        )
    return toolkit, f"CPU and CUDA parts: toolkit {toolkit.version} in {toolkit.root}"


def architecture_flags(offered: str, wanted: str | None) -> tuple[list[str], list[str]]:
    """Return the GPU architectures to compile for, and nvcc's flags for them.

    Args:
        offered: what `nvcc --list-gpu-arch` prints.
        wanted: TORCH_CUDA_ARCH_LIST.
    """
    if wanted:
        entries = wanted.replace(";", " ").split()
        if not all(re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", entry) for entry in entries):
            raise BuildError(f"TORCH_CUDA_ARCH_LIST={wanted}: write versions, such as 8.0;9.0+PTX")
        binary = [entry.removesuffix("+PTX").replace(".", "") for entry in entries]
        portable = [
            arch for arch, entry in zip(binary, entries, strict=True) if entry.endswith("+PTX")
        ]
    else:
        known = sorted({int(arch) for arch in re.findall(r"compute_(\d+)\b", offered)})
        binary = [str(arch) for arch in known if arch >= OLDEST_ARCHITECTURE]
        portable = binary[-1:]
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in binary]
    flags += [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in portable]
    return binary, flags


def translation_units(source: str) -> list[tuple[str, str | None]]:
    """Return what a source is compiled as: once, or for each of the machine's instruction sets."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    sets = PER_INSTRUCTION_SET.get(Path(source).name, ())
    return [(source, isa) for isa in sets if x86 or isa == "baseline"] or [(source, None)]


def has_amx(compiler: list[str]) -> bool:
    """Whether a C++ compiler knows AMX's flags, and its assembler the instructions."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "amx.cpp"
        source.write_text('void release() { asm volatile("tilerelease"); }\n')
        command = [*compiler, *INSTRUCTION_SETS["amx"], "-c", str(source), "-o", f"{source}.o"]
        return subprocess.run(command, capture_output=True).returncode == 0


def parallel_jobs(environment: Mapping[str, str], cores: int, free_gib: float) -> int:
    """Return how many compilers to run at once."""
    wanted = environment.get("MAX_JOBS")
    if wanted:
        if not wanted.isdecimal() or int(wanted) < 1:
            raise BuildError(f"MAX_JOBS={wanted}: write a number from 1 up")
        return int(wanted)
    return max(1, min(cores, int(free_gib // GIB_PER_COMPILER)))


def free_memory_gib() -> float:
    """Memory available to new processes; where the system does not say, assumed to be ample."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return float("inf")
    available = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
    return int(available[1]) / 2**20 if available else float("inf")


def run(command: list[str]) -> str:
    """Run a program and return what it prints; stop the build if it fails."""
    program = subprocess.run(command, capture_output=True, text=True)
    if program.returncode:
        raise BuildError(f"{shlex.join(command)}\n{program.stdout}{program.stderr}")
    return program.stdout


class BuildExtension(build_ext):
    """Compiles csrc/ with the C++ compiler and, where wanted, nvcc, several files at once."""

    def build_extension(self, ext: Extension) -> None:
        """Compile and link everything: what to build depends on more than file dates."""
        torch = describe_torch()
        compiler = self.compiler.compiler_cxx[0]
        if shutil.which(compiler) is None:
            raise BuildError(
                f"there is no C++ compiler ({compiler}): install one, for instance with apt install"
                " g++, or set CXX to yours, then type pip install -e ."
            )
        toolkit, summary = choose_toolkit(torch, find_toolkit(os.environ), os.environ)
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        jobs = parallel_jobs(os.environ, cores, free_memory_gib())
        print(f"googlenet_fast: torch {torch.version}; {summary}; {jobs} compilers at once")

        sources = [source for source in ext.sources if toolkit or not source.endswith(".cu")]
        objects = [unit for source in sources for unit in translation_units(source)]
        commands = self.compile_commands([source for source, _ in objects], torch, toolkit, jobs)
        built = []
        for command, (source, isa) in zip(commands, objects, strict=True):
            target = Path(self.build_temp).resolve() / f"{source}.{isa or ''}.o"
            target.parent.mkdir(parents=True, exist_ok=True)
            if isa is not None:
                flags = INSTRUCTION_SETS[isa]
                known = isa != "amx" or has_amx(self.compiler.compiler_cxx)
                command += [*VECTORIZE, *(flags if known else []), f"-DGOOGLENET_FAST_ISA={isa}"]
            command += ["-o", str(target)]
            built.append(target)
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(run, commands))
        self.link(built, torch, toolkit, Path(self.get_ext_fullpath(ext.name)))

    def compile_commands(
        self, sources: list[str], torch: Torch, toolkit: Toolkit | None, jobs: int
    ) -> list[list[str]]:
        """Return the command that compiles each source, but for where its object goes."""
        info = {"torch": torch.version, "csrc": sources_digest(ROOT / "csrc")}
        cxx = [*self.compiler.compiler_cxx, "-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden"]
        cxx += [*WARNINGS, *STABLE_ABI]
        for folder in torch.include:
            cxx += ["-isystem", folder]
        nvcc: list[str] = []
        if toolkit is not None:
            architectures, flags = architecture_flags(
                run([str(toolkit.nvcc), "--list-gpu-arch"]), os.environ.get("TORCH_CUDA_ARCH_LIST")
            )
            info |= {"cuda": toolkit.version, "architectures": " ".join(architectures)}
            cxx += ["-DUSE_CUDA", "-isystem", str(toolkit.root / "include")]
            threads = max(1, jobs // sum(source.endswith(".cu") for source in sources))
            nvcc = [str(toolkit.nvcc), f"-ccbin={cxx[0]}", "-std=c++20", "-O3", "-lineinfo"]
            nvcc += [*flags, f"--threads={threads}", "-DUSE_CUDA", "-Werror=all-warnings"]
            nvcc += [f"-Xcompiler={flag}" for flag in ("-fPIC", "-fvisibility=hidden", *WARNINGS)]
        commands = [
            [*(nvcc if source.endswith(".cu") else cxx), "-c", source] for source in sources
        ]
        # No other command has the digest, so that a compiler cache serves the files that stay.
        index = [Path(source).name for source in sources].index("build_info.cpp")
        commands[index].append(f"-DGOOGLENET_FAST_BUILD_INFO={json.dumps(json.dumps(info))}")
        return commands

    def link(
        self, objects: list[Path], torch: Torch, toolkit: Toolkit | None, target: Path
    ) -> None:
        """Link the extension; torch's libraries are found when it loads, being loaded already.

        The CUDA runtime is linked statically: torch's own lies in a folder that depends on how
        torch was installed, and a static one shares torch's context and streams all the same.
        """
        libraries = ["-ltorch_cpu", "-lc10"]
        folders = [f"-L{torch.lib}"]
        if toolkit is not None:
            folders += [f"-L{toolkit.root / 'lib64'}"]
            libraries += ["-ltorch_cuda", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shared = "-dynamiclib" if sys.platform == "darwin" else "-shared"
        command = [*self.compiler.compiler_cxx, shared, *map(str, objects), *folders, *libraries]
        run([*command, "-o", str(target)])


class RefuseEditable(editable_wheel):
    """Refuses editable installs of a tree that lost its symbolic link, as zip archives do."""

    def run(self) -> None:
        """Stop the build."""
        raise BuildError(
            "googlenet_fast/kernels is not a symbolic link to ../kernels, which an editable install"
            " needs: clone with git -c core.symlinks=true, or install without -e"
        )


def main() -> None:
    """Describe the package to setuptools; the rest is in pyproject.toml."""
    sources = sorted(
        str(path) for suffix in ("cpp", "cu") for path in Path("csrc").rglob(f"*.{suffix}")
    )
    # With a value for "" setuptools makes an editable install of one .pth file, not an import hook.
    package_dir = {"": "."}
    commands = {"build_ext": BuildExtension}
    if not Path("googlenet_fast/kernels").is_dir():
        package_dir["googlenet_fast.kernels"] = "kernels"
        commands["editable_wheel"] = RefuseEditable
    setup(
        packages=[*find_packages(include=["googlenet_fast*"]), "googlenet_fast.kernels"],
        package_dir=package_dir,
        install_requires=[*DEPENDENCIES, *dali_requirements(os.environ)],
        package_data={
            "googlenet_fast": [
                "py.typed",
                "configs/*.yaml",
                "data/*.npz",
                "data/*.txt",
                "engine/*.html",
                "selfcheck/*.json",
            ]
        },
        ext_modules=[Extension("googlenet_fast._C", sources, py_limited_api=True, language="c++")],
        cmdclass=commands,
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )


if __name__ == "__main__":
    main()
