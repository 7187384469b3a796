import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.tools.kernel_resources import LIMITS, Resources, network_launches
from tests.helpers import run_python

pytestmark = pytest.mark.triton

ROOT = Path(__file__).parents[2]

SAMPLES = """
import json
import torch, triton
import triton.language as tl
from benchmarks.tools.kernel_resources import LIMITS, broken_rules, compile_launch
from googlenet_fast.kernels.launch import Launch

@triton.jit
def copy(x, y, N, DOUBLE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < N, other=0)
    if DOUBLE:
        value = tl.sqrt(value.to(tl.float64)).to(tl.float32)
    tl.store(y + i, value, mask=i < N)

@triton.jit
def keep_many(x, y, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, ROWS)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    a = tl.load(x + i)
    total = tl.sum(a)
    for step in range(3):
        total += tl.sum(a * total)
    tl.store(y + i, a * total)

@triton.jit
def multiply(x, w, y, PRECISION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    product = tl.dot(tl.load(x + i), tl.load(w + i), input_precision=PRECISION)
    tl.store(y + i, product)

def tensors(*names, dtype=torch.float32):
    return {name: torch.empty(2**17, dtype=dtype) for name in names}

def launch(kernel, arguments, **constants):
    return Launch(kernel, (1,), arguments, constants, 4, 2)

xy = tensors("x", "y")
multiplied = {**tensors("x", "w"), **tensors("y")}
halves = {**tensors("x", "w", dtype=torch.float16), **tensors("y")}
samples = {
    "wide": launch(copy, {**xy, "N": 4096}, DOUBLE=False, BLOCK=1024),
    "odd size": launch(copy, {**xy, "N": 4095}, DOUBLE=False, BLOCK=1024),
    "odd input": launch(copy, {**xy, "x": xy["x"][1:], "N": 4096}, DOUBLE=False, BLOCK=1024),
    "double": launch(copy, {**xy, "N": 4096}, DOUBLE=True, BLOCK=1024),
    "spill": launch(keep_many, xy, ROWS=256, BLOCK=256),
    "fp16": launch(multiply, halves, PRECISION="ieee", BLOCK=32),
    "tf32": launch(multiply, multiplied, PRECISION="tf32", BLOCK=32),
    "fp32": launch(multiply, multiplied, PRECISION="ieee", BLOCK=32),
}
results = {}
for arch, limits in LIMITS.items():
    found = {name: compile_launch(launch, arch) for name, launch in samples.items()}
    results[arch] = {
        "rules": {name: broken_rules(samples[name], found[name], limits) for name in samples},
        "matrix": {name: resources.matrix for name, resources in found.items()},
    }
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def compiling(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process that compiles kernels outside the user's cache."""
    cache = str(tmp_path_factory.mktemp("kernels"))
    return {"TRITON_CACHE_DIR": cache, "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_kernels_of_the_network_follow_the_rules(compiling: dict[str, str]) -> None:
    """Check `paper` in fp16 on sm_90; CI runs the whole command."""
    subset = ["--quick", "--preset", "paper", "--dtype", "float16", "--arch", "90"]
    command = ("-m", "benchmarks.tools.kernel_resources", *subset, "--output", "-")
    result = run_python(*command, environment=compiling)
    assert result.returncode == 0, result.stderr
    assert "conv1x1_forward" in result.stdout


@pytest.fixture(scope="module")
def samples(compiling: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The rules that each sample breaks and its matrix instructions, by architecture."""
    script = tmp_path_factory.mktemp("samples") / "samples.py"
    script.write_text(SAMPLES)
    result = run_python(script, environment=compiling)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("arch", LIMITS)
def test_broken_rules_are_found(arch: int, samples: dict[str, Any]) -> None:
    found = samples[str(arch)]
    rules: dict[str, list[str]] = found["rules"]
    for name in ("wide", "fp16", "tf32", "fp32"):
        assert rules[name] == [], name
    assert rules["odd size"] == ["loads no 16 bytes at a time", "stores no 16 bytes at a time"]
    assert rules["odd input"] == ["loads no 16 bytes at a time"]
    assert rules["double"] == ["computes in double precision"]
    assert any("spills" in broken for broken in rules["spill"])
    matrix: dict[str, int] = found["matrix"]
    assert min(matrix["fp16"], matrix["tf32"]) > 0
    assert matrix["fp32"] == matrix["wide"] == 0


def test_every_kernel_is_launched_by_the_network() -> None:
    defined = {
        node.name
        for path in (ROOT / "kernels").glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel")
    }
    launched = {launch.kernel.fn.__name__ for launch in network_launches("paper", torch.float16)}
    assert launched == defined


@pytest.mark.parametrize(
    ("changes", "programs"),
    [
        ({}, 16),  # 2048 threads
        ({"threads": 32}, 32),  # as many programs as there may be
        ({"registers": 168}, 3),  # 3 * 128 * 168 = 64512 of 65536 registers
        ({"registers": 129}, 3),  # rounded up to 136
        ({"shared": 36 * 1024}, 6),  # 6 * 37 = 222 of 228 KiB
        ({"tensor_columns": 128}, 4),  # of 512
    ],
)
def test_programs_of_a_multiprocessor(changes: dict[str, Any], programs: int) -> None:
    little = {"registers": 32, "shared": 0, "threads": 128, "tensor_columns": 0}
    unread = dict.fromkeys(["spilled", "matrix", "loads", "wide_loads", "stores", "wide_stores"], 0)
    resources = Resources(**{**little, **unread, "f64": False, **changes})
    assert resources.programs(LIMITS[90]) == programs
