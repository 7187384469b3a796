import ast
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.tools.hub_kernel import PACKAGE, ROOT, make, relative, sources
from googlenet_fast import ops
from googlenet_fast.errors import GoogLeNetError
from tests.compiler import has_compiler
from tests.helpers import relative_error, run_python

kernels = pytest.importorskip("kernels")

REACH_NOTHING_ELSE = """
import sys
from pathlib import Path
import torch
from kernels import get_local_kernel
sys.path = [entry for entry in sys.path if entry]
kernel = get_local_kernel(Path(sys.argv[1]), backend="cpu")
assert not any(name.split(".")[0] == "googlenet_fast" for name in sys.modules)
print(kernel.max_pool(torch.ones(1, 2, 3, 3)).sum().item())
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    assert make(folder, compiled=False) == ["torch-cuda", "torch-cpu"]
    return folder


def load(folder: Path) -> ModuleType:
    """Return what the loader finds for CPUs."""
    return kernels.get_local_kernel(folder, backend="cpu")


def filters(*shape: int) -> Tensor:
    return torch.randn(shape)


def norms() -> list[nn.BatchNorm2d]:
    torch.manual_seed(3)
    made = [nn.BatchNorm2d(width) for width in (5, 3)]
    for norm in made:
        nn.init.normal_(norm.weight)
    return made


CALLS: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    "inception": (
        lambda m, x, *parameters: m.inception(x, *parameters),
        [
            *(torch.randn(2, 5, 7, 6), filters(24, 5, 1, 1), filters(24), filters(6, 5, 3, 3)),
            *(filters(6), filters(9, 6, 5, 5), filters(9), filters(2, 5, 1, 1), filters(2)),
        ],
    ),
    "conv_bias_relu": (
        lambda m, x, weight, bias: m.conv_bias_relu(x, weight, bias),
        [torch.randn(2, 5, 7, 6), filters(7, 5, 3, 3), filters(7)],
    ),
    "max_pool": (lambda m, x: m.max_pool(x), [torch.randn(2, 5, 7, 6)]),
    "bias_relu_pool": (
        lambda m, x, bias: m.bias_relu_pool(x, bias),
        [torch.randn(2, 5, 7, 6), filters(5)],
    ),
    "local_response_norm": (lambda m, x: m.local_response_norm(x), [10 * torch.randn(2, 9, 7, 6)]),
    "concat_bias_relu": (
        lambda m, a, b, c, d: m.concat_bias_relu([a, b], [c, d]),
        [torch.randn(2, 5, 7, 6), torch.randn(2, 3, 7, 6), filters(5), filters(3)],
    ),
    "bn_relu_concat": (
        lambda m, a, b: m.bn_relu_concat([a, b], norms()),
        [torch.randn(2, 5, 7, 6), torch.randn(2, 3, 7, 6)],
    ),
    "bn_relu_pool": (lambda m, x: m.bn_relu_pool(x, norms()[0], True), [torch.randn(2, 5, 7, 6)]),
}


def outputs_and_gradients(module: Any, op: str, dtype: torch.dtype) -> list[Tensor]:
    function, tensors = CALLS[op]
    leaves = [t.to(dtype).requires_grad_() for t in tensors]
    y = function(module, *leaves)
    torch.manual_seed(4)
    grads = torch.autograd.grad(y, leaves, torch.randn(y.shape).to(dtype))
    return [y.detach(), *grads]


def check(kernel: Any, op: str) -> None:
    """Compare an op, forward and backward, with this package's reference."""
    with ops.use_impl("reference"):
        expected = outputs_and_gradients(ops, op, torch.float32)
    actual = outputs_and_gradients(kernel, op, torch.float32)
    for ours, theirs in zip(actual, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-4


@pytest.mark.filterwarnings("ignore:.* skips backend native:RuntimeWarning")
@pytest.mark.parametrize("op", CALLS)
def test_python_variant_computes_what_the_package_does(output: Path, op: str) -> None:
    check(load(output), op)


def test_it_has_the_package_s_ops(output: Path) -> None:
    kernel = load(output)
    assert set(kernel.__all__) == set(ops.__all__)
    assert kernel.inception is not ops.inception


@pytest.mark.filterwarnings("ignore:.* skips backend native:RuntimeWarning")
def test_two_versions_load_at_once(output: Path, tmp_path: Path) -> None:
    namespaces = []
    for folder, edit in ((output, ""), (tmp_path, "# another version\n")):
        files = sources(ROOT / PACKAGE)
        files[Path("errors.py")] += edit
        make(folder, compiled=False, files=files)
        kernel = load(folder)
        namespaces.append(kernel.max_pool.__module__.split(".")[0])
        assert kernel.max_pool(torch.ones(1, 1, 3, 3)).sum() == 9
    assert len(set(namespaces)) == 2
    assert all(hasattr(getattr(torch.ops, each), "max_pool") for each in namespaces)


def test_it_needs_nothing_but_torch(output: Path, tmp_path: Path) -> None:
    known = {*sys.stdlib_module_names, "torch", "triton"}
    for path in output.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            assert {name.split(".")[0] for name in names} <= known, path
    child = run_python("-c", REACH_NOTHING_ELSE, output, cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == "18.0"


def test_metadata(output: Path) -> None:
    seen = set()
    for backend in ("cpu", "cuda"):
        metadata = json.loads((output / f"build/torch-{backend}/metadata.json").read_text())
        assert metadata["backend"] == {"type": backend}
        assert metadata["python-depends"] == []
        seen.add(metadata["id"])
    assert len(seen) == 2


def test_imports_become_relative() -> None:
    text = (
        "def f():\n    from googlenet_fast.kernels import tiles\nfrom googlenet_fast import files\n"
    )
    expected = "def f():\n    from ..kernels import tiles\nfrom .. import files\n"
    assert relative(text, Path("ops/x.py")) == expected
    assert relative("from googlenet_fast.a.b import c\n", Path("x.py")) == "from .a.b import c\n"
    with pytest.raises(GoogLeNetError, match=r"x\.py: imports googlenet_fast"):
        relative("import googlenet_fast.files\n", Path("x.py"))


@pytest.mark.slow
@pytest.mark.emulator
def test_compiled_variant_computes_what_the_package_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform != "linux" or not has_compiler():
        pytest.skip("needs Linux and a C++ compiler")
    monkeypatch.setenv("GOOGLENET_FAST_USE_CUDA", "0")
    *_, name = make(tmp_path, compiled=True)
    assert name.startswith("torch-stable-abi210-cpu-")
    kernel = load(tmp_path)
    assert Path(str(kernel.__file__)).parents[1].name == name
    with kernel.use_impl("native"):
        for op in CALLS:
            check(kernel, op)
