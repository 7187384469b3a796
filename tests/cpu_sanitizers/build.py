"""Builds the extension's CPU part under sanitizers, for every instruction set of the machine.

AMX is emulated: sanitizers do not see what its tiles load and store.
"""

import json
from pathlib import Path

from tests.compiler import compile_all, run_compiler
from tests.sanitizers import SANITIZE
from tests.setup_script import setup

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def build(folder: Path) -> Path:
    """Compile and link it into a folder, unless it is there; return its path."""
    target = folder / "cpu-sanitized.so"
    if target.exists():
        return target
    torch = setup().describe_torch()
    info = json.dumps(json.dumps({"torch": torch.version}))
    flags = ["-std=c++20", "-fPIC", "-fvisibility=hidden", *SANITIZE]
    flags += [*setup().WARNINGS, "-Werror", *setup().STABLE_ABI]
    flags += [*(f"-isystem{header}" for header in torch.include)]
    flags.append(f"-DGOOGLENET_FAST_BUILD_INFO={info}")
    commands = {}
    for source in (ROOT / "csrc").glob("bindings/*.cpp"):
        built = folder / f"{source.stem}-bindings.o"
        commands[built] = [*flags, "-O0", "-c", str(source), f"-o{built}"]
    for source in [*(ROOT / "csrc").glob("cpu/*.cpp"), HERE / "pool_into.cpp"]:
        for _, isa in setup().translation_units(str(source)):
            own = [] if isa in (None, "amx") else setup().INSTRUCTION_SETS[isa]
            built = folder / f"{source.stem}-{isa}.o"
            own = [*own, f"-DGOOGLENET_FAST_ISA={isa}"]
            commands[built] = [*flags, *own, "-c", str(source), f"-o{built}"]
    compile_all(commands.values())
    libraries = [f"-L{torch.lib}", "-ltorch_cpu", "-lc10"]
    run_compiler(["-shared", *SANITIZE, *map(str, commands), *libraries, f"-o{target}"])
    return target
