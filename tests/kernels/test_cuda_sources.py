"""The CUDA kernels use nothing that only one vendor's compiler has."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "csrc"
SOURCES = sorted(path for path in (ROOT / "cuda").iterdir() if path.suffix in (".cu", ".h"))
HEADERS = sorted(ROOT.glob("*.h"))


def code(path: Path) -> str:
    """The text without comments."""
    return re.sub(r"//.*", "", path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_kernels_are_portable(path: Path) -> None:
    text = code(path)
    assert not re.search(r"\basm\b", text), "assembly of one vendor"
    sizes = re.findall(r".*\b(?:31|32|0x1f|0xffffffff)\b.*", text)
    assert all("WARP_SIZE" in line for line in sizes), "warps have 64 lanes on some GPUs"
    assert not re.search(r"__(?:shfl|ballot|any|all)(?:_up|_down|_xor)?\(", text), "no mask"
    assert not re.search(r"cooperative_groups|cuda::(?:pipeline|barrier|memcpy_async)", text)
    assert "cudaMalloc" not in text, "only memory of torch can be captured in graphs"
    assert not re.search(r"Synchronize\(|cudaMemcpy\(", text), "waits for the GPU"


def test_launches_are_made_in_one_place() -> None:
    assert [path.name for path in SOURCES if "<<<" in code(path)] == ["launch.h"]


@pytest.mark.parametrize("path", [*SOURCES, *HEADERS], ids=lambda path: path.name)
def test_kernels_are_compiled_without_torch(path: Path) -> None:
    if path.name != "bindings.h":
        assert "torch/" not in code(path)
