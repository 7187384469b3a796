"""Report the resources of every CUDA C++ kernel; no GPU is needed.

    python -m benchmarks.tools.cuda_resources

Compiles csrc/cuda/ for several architectures. Reads registers, spills and shared memory from
ptxas's report, and the widths of memory accesses from the machine code. Writes
docs/generated/cuda-resources.md. Exits with status 1 if a kernel breaks a rule.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tools import kernel_resources
from benchmarks.tools.kernel_resources import CUOBJDUMP, Limits, Resources
from benchmarks.tools.pages import GENERATED, ROOT, add_output, write
from googlenet_fast.errors import GoogLeNetError, run_command

SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
REPORT = GENERATED / "cuda-resources.md"

LIMITS = {75: Limits(64 * 1024, 64 * 1024, threads=1024, programs=16), **kernel_resources.LIMITS}
"""Those of the Triton kernels, and the oldest that the extension is built for."""

THREADS = 256
"""Per block: kThreads in csrc/cuda/launch.h."""

REGISTERS = 65536
"""Per multiprocessor and per block, on every architecture."""

WITH_ENDS = ("find_nonfinite", "sgd_step")
"""Kernels over whole tensors of any size, whose last values are accessed one by one."""

DTYPES = {"float": "float32", "__half": "float16", "__nv_bfloat16": "bfloat16"}

USAGE = re.compile(
    r"Function properties for (?P<name>\w+)\s+(?P<stack>\d+) bytes stack frame,"
    r" (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\s+"
    r"ptxas info\s+: Used (?P<registers>\d+) registers(?P<rest>.*)"
)
SHARED = re.compile(r"(\d+) bytes smem")
FUNCTION = re.compile(r"Function : (\w+)\n(.*?)(?=\n\s*Function : |\Z)", re.DOTALL)
LOAD, STORE = re.compile(r"\bLDG\.\S+"), re.compile(r"\bSTG\.\S+")
GENERIC = re.compile(r"\b(?:LD|ST)\.\S+")
WIDE, NARROW = re.compile(r"\.(128|256)\b"), re.compile(r"\.[US](8|16)\b")
DOUBLE = re.compile(r"\bD(ADD|MUL|FMA|SETP)\b")
TEMPLATE = re.compile(
    r"(?P<kernel>\w+)_kernel<(?:(?P<dtype>float|__half|__nv_bfloat16), )?(?P<n>\d)"
    r"(?:, [^<>]*::(?P<variant>\w+)>)?"
)


@dataclass(frozen=True)
class Kernel:
    """One instance of a kernel template, compiled for one architecture."""

    source: str
    """Name of its file without suffix: its op."""
    name: str
    dtype: str
    """Of the activations; of sums, float32."""
    width: int
    """Values that a thread moves per access."""
    arch: int
    resources: Resources
    narrow: int
    """Accesses to global memory of one or two bytes per thread."""
    generic: int
    """Accesses by generic addresses: the compiler does not know that the memory is global."""

    @property
    def vectorized(self) -> bool:
        """True for the instance for rows that are aligned to 16 bytes."""
        return self.width > 1

    def broken_rules(self) -> list[str]:
        """Return the rules of every kernel that this one breaks."""
        found = self.resources
        broken = []
        if found.spilled:
            broken.append(f"spills {found.spilled} bytes")
        if found.registers * THREADS > REGISTERS:
            broken.append(f"takes {found.registers} registers, too many for {THREADS} threads")
        if found.f64:
            broken.append("computes in double precision")
        if self.generic:
            broken.append(f"has {self.generic} accesses by generic addresses")
        stores_wide = found.wide_stores or not found.stores
        if self.vectorized and not (found.wide_loads and stores_wide):
            broken.append("moves no 16 bytes at a time")
        if self.vectorized and self.narrow and self.name not in WITH_ENDS:
            broken.append(f"has {self.narrow} accesses of one or two bytes")
        return [f"sm_{self.arch} {self.name} {self.dtype} x{self.width}: {b}" for b in broken]


def find_nvcc() -> str:
    """Return the compiler of $CUDA_HOME, or the one on PATH.

    Raises:
        GoogLeNetError: there is no nvcc.
    """
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which(str(Path(home, "bin", "nvcc")) if home else "nvcc")
    if nvcc is None:
        raise GoogLeNetError(
            "no nvcc: install a CUDA toolkit and put nvcc on PATH, or set CUDA_HOME"
        )
    return nvcc


def compile_kernels(source: Path, arch: int) -> list[Kernel]:
    """Compile a .cu file for an architecture and return its kernels."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder, "kernels.cubin"))
        options = ["-std=c++20", "-O3", "-DUSE_CUDA", "-Xptxas=-v", f"-arch=sm_{arch}", "-cubin"]
        report = _output([find_nvcc(), *options, str(source), "-o", cubin])
        assembly = _output([str(CUOBJDUMP), "-sass", cubin])
    return read_kernels(source.stem, arch, report, assembly)


def _output(command: Sequence[str]) -> str:
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        raise GoogLeNetError(f"{' '.join(command)} failed: {child.stderr.strip().splitlines()[-1]}")
    return child.stdout + child.stderr


def read_kernels(source: str, arch: int, report: str, assembly: str) -> list[Kernel]:
    """Parse the kernels of a file from ptxas's report and their machine code."""
    code = dict(FUNCTION.findall(assembly))
    usages = {usage["name"]: usage for usage in USAGE.finditer(report)}
    names = _output(["c++filt", *usages]).splitlines()
    kernels = []
    for (symbol, usage), name in zip(usages.items(), names, strict=True):
        template = TEMPLATE.search(name)
        if template is None:
            raise GoogLeNetError(
                f"{source}.cu: {name} is not one of the kernel templates known here"
            )
        loads, stores = LOAD.findall(code[symbol]), STORE.findall(code[symbol])
        shared = SHARED.search(usage["rest"])
        resources = Resources(
            registers=int(usage["registers"]),
            shared=int(shared[1]) if shared else 0,
            threads=THREADS,
            tensor_columns=0,
            spilled=int(usage["stack"]) + int(usage["stores"]) + int(usage["loads"]),
            matrix=0,
            loads=len(loads),
            wide_loads=sum(bool(WIDE.search(load)) for load in loads),
            stores=len(stores),
            wide_stores=sum(bool(WIDE.search(store)) for store in stores),
            f64=bool(DOUBLE.search(code[symbol])),
        )
        kernels.append(
            Kernel(
                source=source,
                name=" ".join(filter(None, (template["kernel"], template["variant"]))),
                dtype=DTYPES[template["dtype"] or "float"],
                width=int(template["n"]),
                arch=arch,
                resources=resources,
                narrow=sum(bool(NARROW.search(access)) for access in (*loads, *stores)),
                generic=len(GENERIC.findall(code[symbol])),
            )
        )
    return kernels


def compile_all(archs: Iterable[int]) -> list[Kernel]:
    """Compile every file for every architecture, two at a time."""
    tasks = [(source, arch) for source in SOURCES for arch in archs]
    with ThreadPoolExecutor(2) as pool:
        return [
            kernel
            for found in pool.map(lambda task: compile_kernels(*task), tasks)
            for kernel in found
        ]


def table(kernels: Sequence[Kernel]) -> str:
    """Return a row for each instance of each kernel."""
    archs = sorted({kernel.arch for kernel in kernels})
    rows: dict[tuple[str, str, str, int], dict[int, Kernel]] = {}
    for kernel in kernels:
        key = (kernel.source, kernel.name, kernel.dtype, kernel.width)
        rows.setdefault(key, {})[kernel.arch] = kernel
    lines = [
        f"| file | kernel | dtype | values | {' | '.join(f'sm_{arch}' for arch in archs)}"
        " | 16-byte |",
        f"|---|---|---|---|{'---|' * len(archs)}---|",
    ]
    for (source, name, dtype, width), by_arch in sorted(rows.items()):
        cells = [_cell(by_arch[arch].resources, LIMITS[arch]) for arch in archs]
        found = by_arch[archs[0]].resources
        share = f"{found.wide_loads}/{found.loads}, {found.wide_stores}/{found.stores}"
        lines.append(f"| {source} | {name} | {dtype} | {width} | {' | '.join(cells)} | {share} |")
    return "\n".join(lines)


def _cell(found: Resources, limits: Limits) -> str:
    return f"{found.registers}, {found.shared / 1024:.0f}, {found.programs(limits)}"


HEADER = """# Resources of the CUDA C++ kernels

Written by `python -m benchmarks.tools.cuda_resources` ({nvcc}); no GPU is needed. Each kernel of
`csrc/cuda/` has two instances. One moves 16 bytes per thread (4 or 8 values) and needs aligned
rows; the other moves single values of any rows. {with_ends} have one instance, which has both
accesses: tensors of any size end in single values. Each architecture's column gives

- registers per thread, of 255,
- KiB of shared memory per block,
- resident blocks of {threads} threads per multiprocessor, of 8 (sm_75: of 4).

The last column gives how many of the load instructions, and of the store instructions, move 16
bytes per thread (sm_{arch}). The other accesses of an instance for aligned rows read biases,
indices (one byte per value) and the next few channels, and write indices and sums.

The command fails if a kernel spills registers, takes more of them than a block of {threads} threads
can have, computes in double precision, or accesses memory by generic addresses. An instance for
aligned rows must also have 16-byte accesses, and none of one or two bytes but for single values at
the ends of tensors.

"""


def main() -> None:
    """Compile, write the report, and exit with status 1 if a kernel breaks a rule."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tools.cuda_resources",
        description="Report the resources of every CUDA C++ kernel; exit status 1: a broken rule.",
    )
    parser.add_argument("--arch", type=int, nargs="+", choices=LIMITS, default=list(LIMITS))
    add_output(parser, REPORT)
    options = parser.parse_args()
    kernels = compile_all(options.arch)
    release = re.search(r"release [\d.]+", _output([find_nvcc(), "--version"]))
    report = HEADER.format(
        nvcc=f"nvcc {release[0]}" if release else "nvcc",
        threads=THREADS,
        arch=min(options.arch),
        with_ends=" and ".join(f"`{name}`" for name in WITH_ENDS),
    )
    report += table(kernels) + "\n"
    write(report, options.output)
    broken = [line for kernel in kernels for line in kernel.broken_rules()]
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    run_command(main)
