"""Report the resources of every Triton kernel; no GPU is needed.

    python -m benchmarks.tools.kernel_resources

Collects the launches of training steps and of inference at the network's real shapes and compiles
each as a launch would. Reads registers, shared memory and spills from the machine code, and matrix
instructions and the widths of memory accesses from the assembly. Writes
docs/generated/kernel-resources.md. Lists broken rules and exits with status 1 if there are any.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
import triton.backends.nvidia
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from benchmarks.network import Stage, aux_convolutions, fused_call, has_fused_op, stages
from benchmarks.tools.pages import GENERATED, add_output, write
from googlenet_fast.errors import GoogLeNetError, run_command
from googlenet_fast.kernels.launch import INTERPRETED, MAX_REGISTERS, Launch, observe
from googlenet_fast.model import PRESETS

BATCH = 256
"""Images per launch."""

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

PRESET_NAMES = ["paper", "paddleclas"]
"""Presets without batch norm."""

REPORT = GENERATED / "kernel-resources.md"

CUOBJDUMP = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
"""Part of Triton."""


class Limits(NamedTuple):
    """Limits of a multiprocessor; memory in bytes."""

    shared_program: int
    """Shared memory per program."""
    shared: int
    """Shared memory of all resident programs. Each takes 1 KiB more than it requests."""
    registers: int = 65536
    threads: int = 2048
    programs: int = 32
    tensor_columns: int = 512
    """Columns of tensor memory (sm_100)."""


LIMITS = {
    80: Limits(163 * 1024, 164 * 1024),
    90: Limits(227 * 1024, 228 * 1024),
    100: Limits(227 * 1024, 228 * 1024),
}
"""By architecture: CUDA C++ Programming Guide, Technical Specifications per Compute Capability."""

MATRIX = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b")
LOAD = re.compile(r"\bld\.global\.\S+|\bcp\.async\.c[ag]\.shared\.global.*?\], (?:0x\w+|\d+)")
STORE = re.compile(r"\bst\.global\.\S+")
WIDE = re.compile(r"\.v4\.b32|\.v2\.b64|\.v8\.b32|\.v4\.b64|\], (?:0x10|16)$")


@dataclass(frozen=True)
class Resources:
    """Resources of one compiled kernel."""

    registers: int
    """Per thread."""
    shared: int
    """Bytes of shared memory per program."""
    threads: int
    """Per program."""
    tensor_columns: int
    """Columns of tensor memory per program."""
    spilled: int
    """Bytes of local memory per thread."""
    matrix: int
    """Tensor-core instructions."""
    loads: int
    """Instructions that load from global memory."""
    wide_loads: int
    """Loads of 16 bytes or more per thread."""
    stores: int
    """Instructions that store to global memory."""
    wide_stores: int
    """Stores of 16 bytes or more per thread."""
    f64: bool
    """True if anything is in double precision."""

    def programs(self, limits: Limits) -> int:
        """Return the number of resident programs per multiprocessor."""
        registers = -(-self.registers * 32 // 256) * 256 // 32  # warps get multiples of 256
        bounds = [
            limits.programs,
            limits.threads // self.threads,
            limits.registers // (registers * self.threads),
            limits.shared // (self.shared + 1024),
        ]
        if self.tensor_columns:
            bounds.append(limits.tensor_columns // self.tensor_columns)
        return min(bounds)


def network_launches(preset: str, dtype: torch.dtype) -> list[Launch]:
    """Return the launches of a preset at 224x224, with `dtype` activations.

    In training and in inference, with the auxiliary heads; `paper` with and without local response
    norm. Nothing runs, so the tensors use no memory.
    """
    everything: list[Stage] = [*stages(preset), *aux_convolutions(preset)]
    if PRESETS[preset].lrn:
        everything += stages(preset, lrn=True)
    launches: list[Launch] = []
    with observe(lambda launch, run: launches.append(launch)):
        for stage in everything:
            if has_fused_op(stage):
                for training in (True, False):
                    call = fused_call(stage, BATCH, stage.side_in, dtype, training=training)
                    call.run(training=training)
    return launches


def distinct(launches: Iterable[Launch], *, quick: bool = False) -> list[Launch]:
    """Return one launch per compiled kernel.

    With `quick`, launches that differ only in which sizes are divisible by 16 count as one kernel.
    """
    found: dict[str, Launch] = {}
    for launch in launches:
        source = as_source(launch, target(90))
        types = [kind for kind in source.signature.values() if kind.startswith("*")]
        key: tuple[object, ...] = (
            source.name,
            launch.constants,
            launch.num_warps,
            launch.num_stages,
            types,
        )
        if not quick:
            key += (source.constants, source.attrs)
        found.setdefault(str(key), launch)
    return list(found.values())


def target(arch: int) -> GPUTarget:
    """Return Triton's target of an architecture."""
    return GPUTarget("cuda", arch, 32)


def as_source(launch: Launch, target: GPUTarget) -> ASTSource:
    """Return what Triton's own launcher would compile: types, constants, known alignments."""
    backend = make_backend(target)
    kernel, options = launch.kernel, _options(launch)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, extra = bind(**launch.arguments, **launch.constants, **options)
    _, signature, constants, attributes = kernel._pack_args(
        backend, options, bound, specialization, extra
    )
    return ASTSource(kernel, signature, constants, attributes)


def _options(launch: Launch) -> dict[str, int]:
    return {
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
        "maxnreg": MAX_REGISTERS,
    }


def compile_launch(launch: Launch, arch: int) -> Resources:
    """Compile a launch's kernel for an architecture and return its resources."""
    gpu = target(arch)
    compiled = triton.compile(as_source(launch, gpu), target=gpu, options=_options(launch))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", cubin.name], capture_output=True, text=True, check=True
        ).stdout
    return read_resources(compiled.asm["ptx"], usage, compiled.metadata)


def read_resources(ptx: str, usage: str, metadata: Any) -> Resources:
    """Parse a kernel's resources from its assembly, cuobjdump's report and Triton's metadata."""
    counts = {name: int(count) for name, count in re.findall(r"\b([A-Z]+):(\d+)", usage)}
    loads, stores = LOAD.findall(ptx), STORE.findall(ptx)
    return Resources(
        registers=counts["REG"],
        shared=metadata.shared,
        threads=32 * metadata.num_warps,
        tensor_columns=metadata.tmem_size or 0,
        spilled=counts["STACK"] + counts["LOCAL"],
        matrix=len(MATRIX.findall(ptx)),
        loads=len(loads),
        wide_loads=sum(bool(WIDE.search(load)) for load in loads),
        stores=len(stores),
        wide_stores=sum(bool(WIDE.search(store)) for store in stores),
        f64=".f64" in ptx,
    )


def broken_rules(launch: Launch, resources: Resources, limits: Limits) -> list[str]:
    """Return the rules of every kernel that this one breaks."""
    broken = []
    if resources.shared > limits.shared_program:
        broken.append(f"{resources.shared} bytes of shared memory of {limits.shared_program}")
    if resources.spilled:
        broken.append(f"spills {resources.spilled} bytes")
    if resources.f64:
        broken.append("computes in double precision")
    if needs_matrix_units(launch) and not resources.matrix:
        broken.append("multiplies matrices without tensor cores")
    if not resources.wide_loads:
        broken.append("loads no 16 bytes at a time")
    if not resources.wide_stores and not stores_little(launch):
        broken.append("stores no 16 bytes at a time")
    return broken


def needs_matrix_units(launch: Launch) -> bool:
    """Return True if a kernel multiplies matrices of other than exact fp32."""
    exact = launch.constants.get("PRECISION") == "ieee"
    first = next(value for value in launch.arguments.values() if isinstance(value, Tensor))
    return "tl.dot(" in launch.kernel.src and not (exact and first.dtype == torch.float32)


def stores_little(launch: Launch) -> bool:
    """Return True if a program stores less than 16 bytes per thread: sums of a few columns."""
    columns = launch.constants.get("BLOCK_E")
    return columns is not None and 4 * columns < 16 * 32 * launch.num_warps


def describe(launch: Launch) -> tuple[str, str]:
    """Return a kernel's name and the configuration that determines its resources."""
    name = launch.kernel.__name__.strip("_").removesuffix("_kernel")
    constants = launch.constants
    parts = [f"{constants['TAPS']}x{constants['TAPS']}"] if "TAPS" in constants else []
    if constants.get("FLIP"):
        parts.append("flipped")
    blocks = {k.removeprefix("BLOCK_"): v for k, v in constants.items() if k.startswith("BLOCK_")}
    parts.append(" ".join(f"{axis}{size}" for axis, size in blocks.items()))
    parts.append(f"{launch.num_stages} stages")
    return name, ", ".join(parts)


class Compiled(NamedTuple):
    """A launch and the resources of its kernel on one architecture."""

    launch: Launch
    arch: int
    resources: Resources


def compile_all(launches: Sequence[Launch], archs: Sequence[int]) -> list[Compiled]:
    """Compile every launch for every architecture, on two threads: ptxas is a process."""
    tasks = [(launch, arch) for launch in launches for arch in archs]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda task: compile_launch(*task), tasks)
        return [Compiled(*task, taken) for task, taken in zip(tasks, found, strict=True)]


def failures(compiled: Iterable[Compiled]) -> list[str]:
    """Return one line per rule that a kernel breaks on an architecture."""
    return [
        f"sm_{arch} {' '.join(describe(launch))}: {broken}"
        for launch, arch, resources in compiled
        for broken in broken_rules(launch, resources, LIMITS[arch])
    ]


def table(compiled: Sequence[Compiled]) -> str:
    """Return a row per kernel and configuration, with the worst of its specialisations."""
    archs = sorted({arch for _, arch, _ in compiled})
    rows: dict[tuple[str, str], dict[int, list[Resources]]] = {}
    for launch, arch, resources in compiled:
        rows.setdefault(describe(launch), {}).setdefault(arch, []).append(resources)
    lines = [
        f"| kernel | configuration | {' | '.join(f'sm_{arch}' for arch in archs)} | 16-byte |",
        f"|---|---|{'---|' * len(archs)}---|",
    ]
    for (name, configuration), by_arch in sorted(rows.items()):
        cells = [_cell(by_arch[arch], LIMITS[arch]) for arch in archs]
        widest = min((r for rs in by_arch.values() for r in rs), key=_wide_share)
        share = f"{widest.wide_loads}/{widest.loads}, {widest.wide_stores}/{widest.stores}"
        lines.append(f"| {name} | {configuration} | {' | '.join(cells)} | {share} |")
    return "\n".join(lines)


def _cell(found: list[Resources], limits: Limits) -> str:
    registers = max(resources.registers for resources in found)
    shared = max(resources.shared for resources in found) / 1024
    programs = min(resources.programs(limits) for resources in found)
    return f"{registers}, {shared:.0f}, {programs}"


def _wide_share(resources: Resources) -> float:
    return resources.wide_loads / resources.loads


HEADER = """# Resources of the Triton kernels

Written by `python -m benchmarks.tools.kernel_resources` (Triton {triton}); no GPU is needed. The
launches are those of {presets} at 224x224, batch {batch}. Each is compiled with the types,
constants and alignments that the launcher would see. Each architecture's column gives

- registers per thread, of 255,
- KiB of shared memory per program, of 163 (sm_80) or 227 (sm_90, sm_100),
- resident programs per multiprocessor, limited by registers, shared memory, threads and tensor
  memory.

The last column gives how many of the load instructions, and of the store instructions, move 16
bytes per thread. A configuration may have several specialisations (with and without a bias or an
index); the row has the worst of them.

The command fails if a kernel spills registers, exceeds shared memory, computes in double precision,
multiplies matrices without tensor cores (`mma`, `wgmma`, `tcgen05`; exact fp32 has none), or has no
16-byte loads or stores. The last rule does not apply to sums of so few columns that a thread stores
less than 16 bytes.
"""


def main() -> None:
    """Compile, write the report, and exit with status 1 if a kernel breaks a rule."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tools.kernel_resources",
        description="Report the resources of every Triton kernel; exit status 1: a broken rule.",
    )
    parser.add_argument("--arch", type=int, nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--preset", nargs="+", choices=PRESET_NAMES, default=PRESET_NAMES)
    add_output(parser, REPORT)
    parser.add_argument(
        "--quick", action="store_true", help="skip what differs only in divisibility of sizes"
    )
    options = parser.parse_args()
    if INTERPRETED:
        raise GoogLeNetError("TRITON_INTERPRET is set: unset it, only real kernels can be compiled")
    report = HEADER.format(
        triton=triton.__version__,
        presets=" and ".join(f"`{preset}`" for preset in options.preset),
        batch=BATCH,
    )
    broken = []
    for dtype in options.dtype:
        launches = [
            launch
            for preset in options.preset
            for launch in network_launches(preset, DTYPES[dtype])
        ]
        compiled = compile_all(distinct(launches, quick=options.quick), options.arch)
        report += f"\n## {dtype}\n\n{table(compiled)}\n"
        broken += [f"{dtype} {line}" for line in failures(compiled)]
    write(report, options.output)
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    run_command(main)
