"""Builds the extension's CPU part under sanitizers, for every instruction set of the machine."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.sanitizers import COMPILER, SANITIZE
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
    flags = ["-std=c++20", "-fPIC", "-fvisibility=hidden", *SANITIZE, *setup().WARNINGS]
    flags += [*setup().STABLE_ABI, *(f"-isystem{header}" for header in torch.include)]
    flags.append(f"-DGOOGLENET_FAST_BUILD_INFO={info}")
    commands = {}
    sources = [*(ROOT / "csrc").glob("cpu/*.cpp"), *(ROOT / "csrc").glob("bindings/*.cpp")]
    for source in [*sources, HERE / "pool_into.cpp"]:
        for _, isa in setup().translation_units(str(source)):
            own = [] if isa is None else setup().INSTRUCTION_SETS[isa]
            own = [*own, f"-DGOOGLENET_FAST_ISA={isa}"]
            own += ["-O0"] if source.parent.name == "bindings" else []
            built = folder / f"{source.parent.name}-{source.stem}-{isa}.o"
            commands[built] = [*flags, *own, "-c", str(source), f"-o{built}"]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_run, commands.values()))
    libraries = [f"-L{torch.lib}", "-ltorch_cpu", "-lc10"]
    _run(["-shared", *SANITIZE, *map(str, commands), *libraries, f"-o{target}"])
    return target


def _run(arguments: list[str]) -> None:
    child = subprocess.run([COMPILER, *arguments], capture_output=True, text=True)
    assert child.returncode == 0, f"{' '.join(arguments)}\n{child.stderr}"
