"""What every Triton kernel takes of a GPU, without one: `python -m benchmarks.kernel_resources`.

Collects the launches of training steps and of inference at the network's real shapes, compiles
each as a launch would, and reads registers, shared memory and spills off the machine code, matrix
instructions and the widths of memory accesses off its assembly. Writes docs/kernel-resources.md,
then lists what breaks a rule, and exits with status 1 if anything does.
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
from googlenet_fast.errors import UserError, run_command
from googlenet_fast.kernels.launch import INTERPRETED, MAX_REGISTERS, Launch, observe
from googlenet_fast.model import PRESETS

BATCH = 256
"""Images at which launches are collected."""

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

PRESET_NAMES = ["paper", "paddleclas"]
"""Those that do without batch normalisation."""

REPORT = Path(__file__).parents[1] / "docs" / "kernel-resources.md"

CUOBJDUMP = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
"""Comes with Triton."""


class Limits(NamedTuple):
    """What a multiprocessor offers, in bytes and numbers."""

    shared_program: int
    """Shared memory that one program can have."""
    shared: int
    """Shared memory of all its programs, of which each takes 1 KiB more than it asks for."""
    registers: int = 65536
    threads: int = 2048
    programs: int = 32
    tensor_columns: int = 512
    """Columns of tensor memory, which sm_100 has."""


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
    """What one compiled kernel takes."""

    registers: int
    """Of a thread."""
    shared: int
    """Bytes of shared memory of a program."""
    threads: int
    """Of a program."""
    tensor_columns: int
    """Columns of tensor memory of a program."""
    spilled: int
    """Bytes of local memory of a thread."""
    matrix: int
    """Instructions that multiply matrices."""
    loads: int
    """Instructions that load from global memory."""
    wide_loads: int
    """Those of them that load 16 bytes a thread or more."""
    stores: int
    """Instructions that store to global memory."""
    wide_stores: int
    """Those of them that store 16 bytes a thread or more."""
    f64: bool
    """Whether there is anything in double precision."""

    def programs(self, limits: Limits) -> int:
        """Programs that a multiprocessor holds at a time."""
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
    """The launches of a preset at 224x224, with `dtype` activations.

    In training and in inference, with the auxiliary heads; `paper` with and without local response
    normalisation. Nothing runs, so that the tensors take no memory.
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
    """One launch of each set that share a compiled kernel.

    With `quick`, those count as shared that differ only in which sizes are divisible by 16.
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
    """An architecture as Triton names it."""
    return GPUTarget("cuda", arch, 32)


def as_source(launch: Launch, target: GPUTarget) -> ASTSource:
    """What Triton's own launcher would compile: types, constants, known alignments."""
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
    """Compile a launch's kernel for an architecture and read what it takes."""
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
    """Read a kernel's resources off its assembly, cuobjdump's report and Triton's metadata."""
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
    """What every kernel must keep to, where this one does not."""
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
    """Whether a kernel multiplies matrices that tensor cores take: all but exact fp32."""
    exact = launch.constants.get("PRECISION") == "ieee"
    first = next(value for value in launch.arguments.values() if isinstance(value, Tensor))
    return "tl.dot(" in launch.kernel.src and not (exact and first.dtype == torch.float32)


def stores_little(launch: Launch) -> bool:
    """Whether a program stores less than 16 bytes a thread: sums of a few columns."""
    columns = launch.constants.get("BLOCK_E")
    return columns is not None and 4 * columns < 16 * 32 * launch.num_warps


def describe(launch: Launch) -> tuple[str, str]:
    """A kernel's name and the configuration that sets its resources."""
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
    """A launch and what its kernel takes on one architecture."""

    launch: Launch
    arch: int
    resources: Resources


def compile_all(launches: Sequence[Launch], archs: Sequence[int]) -> list[Compiled]:
    """Compile every launch for every architecture, on two threads; ptxas runs beside Python."""
    tasks = [(launch, arch) for launch in launches for arch in archs]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda task: compile_launch(*task), tasks)
        return [Compiled(*task, taken) for task, taken in zip(tasks, found, strict=True)]


def failures(compiled: Iterable[Compiled]) -> list[str]:
    """One line for each rule that a kernel breaks on an architecture."""
    return [
        f"sm_{arch} {' '.join(describe(launch))}: {broken}"
        for launch, arch, resources in compiled
        for broken in broken_rules(launch, resources, LIMITS[arch])
    ]


def table(compiled: Sequence[Compiled]) -> str:
    """A row for each kernel and configuration, with the worst of its specialisations."""
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


HEADER = """# What the Triton kernels take of a GPU

Written by `python -m benchmarks.kernel_resources` (Triton {triton}); no GPU is needed. The launches
are those of {presets} at 224x224, batch {batch}, compiled with the types, constants and alignments
that the launcher would see. Each architecture's column gives

- registers of a thread, of 255,
- KiB of shared memory of a program, of 163 (sm_80) or 227 (sm_90, sm_100),
- programs that a multiprocessor holds at a time: registers, shared memory, threads and tensor
  memory permitting;

the last one how many of the instructions that load, and that store, move 16 bytes a thread. Where
specialisations of a configuration differ (a bias or none, an index or none), the row has the worst.

The command fails if any kernel spills registers, exceeds shared memory, has double precision in it,
multiplies matrices without tensor cores (`mma`, `wgmma`, `tcgen05`; exact fp32 has none), or has no
16-byte loads or stores. Sums of so few columns that a thread stores less than 16 bytes are let off
the last.
"""


def main() -> None:
    """Compile, write the report, and exit with status 1 if a kernel breaks a rule."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel_resources",
        description="What every Triton kernel takes of a GPU; exit status 1: one breaks a rule.",
    )
    parser.add_argument("--arch", type=int, nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--preset", nargs="+", choices=PRESET_NAMES, default=PRESET_NAMES)
    parser.add_argument("--output", default=str(REPORT), help="file to write, or - to print")
    parser.add_argument(
        "--quick", action="store_true", help="skip what differs only in divisibility of sizes"
    )
    options = parser.parse_args()
    if INTERPRETED:
        raise UserError("TRITON_INTERPRET is set: unset it, only real kernels can be compiled")
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
    if options.output == "-":
        print(report)
    else:
        Path(options.output).write_text(report)
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    run_command(main)
