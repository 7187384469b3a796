"""Builds the compiled extension, googlenet_fast/_C*.so, with ninja against the environment's torch.

It is two libraries: the CPU part, and the CUDA part, which is loaded only beside a CUDA build of
torch. Both keep to LibTorch's stable ABI and use none of Python's, so they serve every Python and
every torch >= 2.10. Objects stay in build/, where the next build finds them.

Installers build in isolation: there torch is not importable, and must not be a build requirement
either, or a second torch is downloaded. So a child process imports the environment's torch and
describes it.

Environment variables:
    GOOGLENET_FAST_BUILD: `auto` (default: build if there is a C++ compiler and torch >= 2.10), `0`
        for an install of Python alone, without the extension, or `1`, to fail without it.
    GOOGLENET_FAST_USE_CUDA: `auto` (default: if torch is a CUDA build and there is a toolkit), `0`
        or `1`. No GPU is needed.
    GOOGLENET_FAST_WERROR: `1` makes warnings of the compilers errors.
    CXX, CXXFLAGS: the C++ compiler and flags to add.
    CUDA_HOME: the CUDA toolkit, if it is not the one of the nvcc on PATH or /usr/local/cuda.
    TORCH_CUDA_ARCH_LIST: GPU architectures such as `8.0;9.0+PTX`; default: all from 7.5 up that
        the toolkit offers, and PTX of the newest for those to come.
    MAX_JOBS: compilers to run at once; default: as cores and memory allow.
    GOOGLENET_FAST_DALI: DALI to depend on: `auto` (default: the build for the CUDA of torch), `12`
        or `13` for that CUDA, `0` for none, as wheels for others have it.
"""

import atexit
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.editable_wheel import editable_wheel

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    sys.exit("error: setuptools is older than 77; type pip install --upgrade setuptools ninja")

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # isolated builds leave it out

from googlenet_fast.files import sources_digest, write_atomically  # noqa: E402
from googlenet_fast.vendors import is_other_vendors  # noqa: E402

OLDEST_TORCH = (2, 10)
"""The first with all of the stable ABI that csrc/ uses."""
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
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
WARNINGS = ["-Wall", "-Wextra"]
DEPENDENCIES = [
    "torch>=2.4",
    "numpy>=1.26",
    "pillow>=11",
    "safetensors>=0.5",
    "pyyaml>=6.0.1",
    "jsonargparse[signatures]>=4.53",
    "tabulate>=0.9",
    "wcwidth>=0.2",
    "tqdm>=4.67",
]
"""What training needs; pyproject.toml has what the extras bring."""
DALI = (
    "nvidia-dali-cuda{}0>=2.0; platform_system == 'Linux' and platform_machine in 'x86_64 aarch64'"
)
OLDEST_ARCHITECTURE = 75
GIB_PER_COMPILER = 2
BUILD_INFO = "csrc/bindings/build_info.cpp"
"""The only source that is compiled with what the build wants remembered."""
CPU_LIBRARY, CUDA_LIBRARY = "_C.abi3.so", "_C_cuda.abi3.so"
NOTE = "_C.absent.txt"
"""Why an install has no libraries; googlenet_fast/extension.py reads it."""
COMPILER_CACHES = ("ccache", "sccache")
"""What may stand before the compiler in CXX; nvcc takes the compiler alone."""

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
    """Ask the environment's torch. Isolated builds need a way out.

    pip's isolation ends with -E. uv and `build` run another interpreter: there that of the
    activated environment is next on PATH. Any torch serves: all have the same stable ABI.
    """
    commands = [[python], [python, "-E"]]  # the first for a torch on PYTHONPATH
    own = Path(sys.executable).parent
    path = os.pathsep.join(
        entry for entry in os.environ.get("PATH", "").split(os.pathsep) if Path(entry) != own
    )
    if activated := shutil.which("python3", path=path) or shutil.which("python", path=path):
        commands.append([activated, "-E"])
    reasons = []
    for command in commands:
        child = subprocess.run(
            [*command, "-c", DESCRIBE_TORCH],
            capture_output=True,
            text=True,
            cwd=tempfile.gettempdir(),
        )
        if child.returncode == 0:
            return Torch(**json.loads(child.stdout.splitlines()[-1]))
        reasons.append((child.stderr.strip().splitlines() or ["no torch"])[-1])
    raise BuildError(
        f"{python} cannot import torch ({reasons[1]}). The compiled extension is built against"
        " the environment's own torch, so install that first: pip install torch && pip"
        " install -e . (with installers other than pip, activate the environment, or add"
        " --no-build-isolation; GOOGLENET_FAST_BUILD=0 installs without the extension)"
    )


def choice(environment: Mapping[str, str], name: str) -> str:
    """Return a variable that is `auto`, which is the default, `0` or `1`."""
    wanted = environment.get(name) or "auto"
    if wanted not in ("auto", "0", "1"):
        raise BuildError(f"{name}={wanted}: choose auto, 0 or 1")
    return wanted


def cxx_compiler(environment: Mapping[str, str]) -> list[str]:
    """Return the C++ compiler, perhaps behind a cache such as ccache, and the user's flags."""
    compiler = environment.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
    return [*shlex.split(compiler), *shlex.split(environment.get("CXXFLAGS", ""))]


def why_without_extension(environment: Mapping[str, str]) -> str | None:
    """Return why Python alone is installed, as a sentence in the past, or None to build.

    Raises:
        BuildError: the extension is asked for and cannot be built.
    """
    wanted = choice(environment, "GOOGLENET_FAST_BUILD")
    if wanted == "0":
        return "GOOGLENET_FAST_BUILD was 0"
    compiler = cxx_compiler(environment)[0]
    torch = describe_torch()
    if tuple(map(int, re.findall(r"\d+", torch.version)[:2])) < OLDEST_TORCH:
        reason = f"torch {torch.version} was older than {'.'.join(map(str, OLDEST_TORCH))}"
        remedy = "install a newer one"
    elif shutil.which(compiler, path=environment.get("PATH")) is None:
        reason = f"there was no C++ compiler ({compiler})"
        remedy = "install one, for instance with apt install g++, or set CXX to yours"
    else:
        return None
    for name in ("GOOGLENET_FAST_BUILD", "GOOGLENET_FAST_USE_CUDA"):
        if environment.get(name) == "1":
            raise BuildError(f"{name}=1, but {reason}: {remedy}, then type pip install -e .")
    return reason


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
    wanted = choice(environment, "GOOGLENET_FAST_USE_CUDA")
    if wanted == "0":
        return None, "CPU part only: GOOGLENET_FAST_USE_CUDA=0"
    other_vendor = is_other_vendors(torch.version)
    if torch.cuda is None or other_vendor or toolkit is None:
        remedy = "install a CUDA build of torch (see pytorch.org)"
        if other_vendor:
            missing = f"torch {torch.version} is not for NVIDIA's GPUs"
        elif torch.cuda is None:
            missing = f"torch {torch.version} is a CPU build"
        else:
            missing = (
                f"torch is built for CUDA {torch.cuda}, but no nvcc is on PATH or in CUDA_HOME"
            )
            remedy = f"install the CUDA toolkit {torch.cuda} and set CUDA_HOME to it"
        if wanted == "1":
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


@dataclass(frozen=True)
class Step:
    """A file that ninja makes: an object from its source, or a library from objects."""

    output: Path
    inputs: Sequence[str | Path]
    command: Sequence[str]
    """The compiler and its flags, without input and output."""
    libraries: Sequence[str] = ()
    """What a library links after the inputs."""

    @property
    def is_library(self) -> bool:
        """False for an object."""
        return self.output.suffix != ".o"


NINJA_RULES = """\
ninja_required_version = 1.5
builddir = {folder}
rule compile
  command = $tool -MD -MF $out.d -o $out -c $in
  depfile = $out.d
  deps = gcc
rule link
  command = $tool -o $out $in $libraries
"""


def ninja_file(folder: Path, steps: Iterable[Step]) -> str:
    """Return the text of a ninja file; its paths are relative to where ninja runs."""

    def path(name: str | Path) -> str:
        return re.sub(r"([$ :])", r"$\1", str(name))

    def arguments(words: Sequence[str]) -> str:
        return shlex.join(words).replace("$", "$$")

    lines = [NINJA_RULES.format(folder=path(folder))]
    for step in steps:
        rule = "link" if step.is_library else "compile"
        lines += [
            f"build {path(step.output)}: {rule} {' '.join(map(path, step.inputs))}",
            f"  tool = {arguments(step.command)}",
            f"  libraries = {arguments(step.libraries)}",
        ]
    return "\n".join([*lines, ""])


def run_ninja(folder: Path, steps: Iterable[Step], jobs: int) -> None:
    """Make what is absent or older than its sources, headers or command.

    Args:
        folder: for the ninja file and ninja's records; the same one the next time.
        steps: what to make; sources are relative to the root of the tree.
        jobs: compilers to run at once.

    Raises:
        BuildError: there is no ninja, or a compiler failed.
    """
    # Next to Python, too: an environment need not be activated.
    ninja = shutil.which("ninja") or shutil.which("ninja", path=Path(sys.executable).parent)
    if ninja is None:
        raise BuildError("ninja is missing; type pip install ninja, then again pip install -e .")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "build.ninja"
    file.write_text(ninja_file(folder, steps))
    if subprocess.run([ninja, "-f", str(file), f"-j{jobs}"], cwd=ROOT).returncode:
        raise BuildError(
            "the compiled extension does not build: see above. GOOGLENET_FAST_BUILD=0 pip install"
            " -e . installs without it"
        )


def isa_flags(isa: str | None, *, amx: bool) -> list[str]:
    """Return the flags of a translation unit; without `amx` its instructions are emulated."""
    if isa is None:
        return []
    own = INSTRUCTION_SETS[isa] if isa != "amx" or amx else []
    return [*VECTORIZE, *own, f"-DGOOGLENET_FAST_ISA={isa}"]


def steps_of_cpu_part(folder: Path, cxx: list[str], torch: Torch) -> list[Step]:
    """Return the steps that make the objects of the CPU part."""
    flags = [*cxx, *STABLE_ABI, *(f"-isystem{include}" for include in torch.include)]
    steps = []
    for source in sources_in("csrc/bindings", "csrc/cpu"):
        for _, isa in translation_units(source):
            own = isa_flags(isa, amx=isa == "amx" and has_amx(cxx))
            steps.append(Step(folder / f"{source}.{isa or 'cpu'}.o", [source], [*flags, *own]))
    return steps


def steps_of_cuda_part(
    folder: Path, cxx: list[str], torch: Torch, toolkit: Toolkit, architectures: list[str]
) -> list[Step]:
    """Return the steps that make the objects of the CUDA part: kernels and their bindings.

    Args:
        folder: for the objects.
        cxx: the C++ compiler and its flags.
        torch: whose headers to use.
        toolkit: of CUDA.
        architectures: nvcc's flags for them.
    """
    kernels = sources_in("csrc/cuda")
    include = ["-DUSE_CUDA", "-isystem", str(toolkit.root / "include")]
    bindings = [*cxx, *STABLE_ABI, *(f"-isystem{path}" for path in torch.include), *include]
    host = next(word for word in cxx if Path(word).name not in COMPILER_CACHES)
    nvcc = [str(toolkit.nvcc), f"-ccbin={host}", "-std=c++20", "-O3", "-lineinfo", "-DUSE_CUDA"]
    nvcc += [*architectures, *(["-Werror=all-warnings"] if "-Werror" in cxx else [])]
    nvcc += [f"-Xcompiler={flag}" for flag in cxx if flag.startswith(("-f", "-W"))]
    pairs = [(f"csrc/bindings/{Path(source).stem}.cpp", bindings) for source in kernels]
    pairs += [(source, nvcc) for source in kernels]
    return [Step(folder / f"{source}.cuda.o", [source], command) for source, command in pairs]


def sources_in(*folders: str) -> list[str]:
    """Return C++ and CUDA sources, but for the one with the build info, relative to the root."""
    paths = (path for folder in folders for path in (ROOT / folder).glob("*.c*"))
    names = sorted(path.relative_to(ROOT).as_posix() for path in paths)
    return [name for name in names if name != BUILD_INFO]


def steps_of_extension(folder: Path, jobs: int) -> list[Step]:
    """Return all steps of the extension. The libraries, which `folder` gets, are the last.

    The CUDA runtime is linked statically: torch's own lies in a folder that depends on how torch
    was installed, and a static one shares torch's context and streams all the same. torch's
    libraries are found when ours load, being loaded already.
    """
    torch = describe_torch()
    toolkit, summary = choose_toolkit(torch, find_toolkit(os.environ), os.environ)
    print(f"googlenet_fast: torch {torch.version}; {summary}; {jobs} compilers at once", flush=True)
    compiler = cxx_compiler(os.environ)
    cxx = [*compiler, "-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", *WARNINGS]
    if os.environ.get("GOOGLENET_FAST_WERROR") == "1":
        cxx.append("-Werror")
    info = {"torch": torch.version, "csrc": sources_digest(ROOT / "csrc")}
    link = [*compiler, *(["-dynamiclib"] if sys.platform == "darwin" else ["-shared", "-s"])]
    libraries = [f"-L{torch.lib}", "-ltorch_cpu", "-lc10"]

    cpu = steps_of_cpu_part(folder, cxx, torch)
    parts = [(CPU_LIBRARY, cpu, libraries)]
    if toolkit is not None:
        names, flags = architecture_flags(
            run([str(toolkit.nvcc), "--list-gpu-arch"]), os.environ.get("TORCH_CUDA_ARCH_LIST")
        )
        info |= {"cuda": toolkit.version, "architectures": " ".join(names)}
        cuda = steps_of_cuda_part(folder, cxx, torch, toolkit, flags)
        runtime = [f"-L{toolkit.root / 'lib64'}", "-ltorch_cuda", "-lcudart_static"]
        parts.append((CUDA_LIBRARY, cuda, [*libraries, *runtime, "-ldl", "-lrt", "-lpthread"]))
    # Only this object has the digest: after an edit all others stay as they are.
    text = f"-DGOOGLENET_FAST_BUILD_INFO={json.dumps(json.dumps(info))}"
    steps = [Step(folder / f"{BUILD_INFO}.o", [BUILD_INFO], [*cxx, text])]
    objects = [step for _, part, _ in parts for step in part]
    linked = [
        Step(folder / name, [step.output for step in [*steps, *part]], link, names)
        for name, part, names in parts
    ]
    return [*steps, *objects, *linked]


@cache
def build_folder() -> Path:
    """Where to build: in the tree, or in a temporary folder if that is read-only."""
    if os.access(ROOT, os.W_OK):
        return ROOT / "build"
    folder = tempfile.mkdtemp(prefix="googlenet_fast-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def build_libraries() -> list[Path]:
    """Compile and link what changed; return the libraries."""
    folder = build_folder() / f"ninja-{sysconfig.get_platform()}"
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    jobs = parallel_jobs(os.environ, cores, free_memory_gib())
    steps = steps_of_extension(folder, jobs)
    run_ninja(folder, steps, jobs)
    return [step.output for step in steps if step.is_library]


class BuildExtension(build_ext):
    """Builds the libraries, or leaves a note that says why there are none."""

    def run(self) -> None:
        """Put what belongs to this build into the package, and take the rest away."""
        if reason := why_without_extension(os.environ):
            print(f"googlenet_fast: installed without its compiled extension: {reason}")
            content = {NOTE: reason.encode()}
        else:
            content = {path.name: path.read_bytes() for path in build_libraries()}
        target = Path(self.get_ext_fullpath("googlenet_fast._C")).parent
        target.mkdir(parents=True, exist_ok=True)
        for name in (CPU_LIBRARY, CUDA_LIBRARY, NOTE):
            if name in content:
                write_atomically(target / name, content[name])
            else:
                (target / name).unlink(missing_ok=True)


class BuildWheel(bdist_wheel):
    """Tags wheels for every Python: the libraries use nothing of Python's."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of Python, its ABI and the platform."""
        platform = "any" if why_without_extension(os.environ) else super().get_tag()[2]
        return "py3", "none", platform


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
    # With a value for "" setuptools makes an editable install of one .pth file, not an import hook.
    package_dir = {"": "."}
    commands = {"build_ext": BuildExtension, "bdist_wheel": BuildWheel}
    if not Path("googlenet_fast/kernels").is_dir():
        package_dir["googlenet_fast.kernels"] = "kernels"
        commands["editable_wheel"] = RefuseEditable
    options = {}
    if (folder := build_folder()) != ROOT / "build":
        options = {"build": {"build_base": str(folder)}, "egg_info": {"egg_base": str(folder)}}
    setup(
        packages=[*find_packages(include=["googlenet_fast*"]), "googlenet_fast.kernels"],
        package_dir=package_dir,
        install_requires=[*DEPENDENCIES, *dali_requirements(os.environ)],
        package_data={
            "googlenet_fast": [
                "py.typed",
                "*.json",
                "configs/*.yaml",
                "data/*.npz",
                "data/*.txt",
                "engine/*.html",
                "selfcheck/*.json",
            ]
        },
        ext_modules=[Extension("googlenet_fast._C", [], py_limited_api=True)],
        cmdclass=commands,
        options=options,
    )


if __name__ == "__main__":
    main()
