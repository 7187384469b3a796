import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import googlenet_fast
from googlenet_fast import extension
from googlenet_fast.files import sources_digest
from tests.setup_script import setup

PROGRAM = """
import warnings, torch
from googlenet_fast import extension
from googlenet_fast.model import GoogLeNet
from googlenet_fast.ops import concat_bias_relu, use_impl
branches = [torch.randn(1, c, 3, 3, requires_grad=True) for c in (2, 3)]
biases = [torch.randn(c, requires_grad=True) for c in (2, 3)]
with warnings.catch_warnings(record=True) as caught:
    y = concat_bias_relu(branches, biases)
    concat_bias_relu(branches, biases)
print(extension.UNAVAILABLE)
assert [extension.UNAVAILABLE in str(warning.message) for warning in caught] == [True]
grad = torch.randn_like(y)
expected = torch.autograd.grad(y, branches + biases, grad)
with use_impl("reference"):
    plain = concat_bias_relu(branches, biases)
torch.testing.assert_close(plain, y)
torch.testing.assert_close(torch.autograd.grad(plain, branches + biases, grad), expected)
model = GoogLeNet("torchvision", 3, aux=False)
model(torch.randn(2, 3, 64, 64)).sum().backward()
with torch.no_grad():
    model.eval()(torch.randn(1, 3, 64, 64))
"""


def test_everything_works_without_the_extension(tmp_path: Path) -> None:
    source = Path(googlenet_fast.__file__).parent
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(source, tmp_path / "googlenet_fast", ignore=ignored)
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    assert "the compiled extension is absent" in child.stdout


def test_a_library_that_does_not_load_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "_C.abi3.so"
    path.write_bytes(b"no library")
    monkeypatch.setattr(extension, "PATH", path)
    build_info, reason = extension._load()
    assert build_info == {}
    assert reason is not None
    assert reason.startswith("the compiled extension does not load")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree that is being imported; an installed package is another entry of sys.path."""
    tree = tmp_path / "tree"
    source = tree / "csrc" / "bindings" / "build_info.cpp"
    source.parent.mkdir(parents=True)
    source.write_text("// one\n")
    (tree / "googlenet_fast").mkdir()
    (tmp_path / "installed" / "googlenet_fast").mkdir(parents=True)
    monkeypatch.delenv(extension.VARIABLE, raising=False)
    monkeypatch.setattr(extension, "_TREE", tree)
    monkeypatch.setattr(sys, "path", [str(tree), str(tmp_path / "installed")])
    return tree


def library(folder: Path, sources: Path) -> Path:
    """A file that records the digest of its sources, as the extension does."""
    path = folder / "googlenet_fast" / "_C.abi3.so"
    path.write_bytes(b"\0ELF" + sources_digest(sources).encode() + b"\0")
    return path


def test_a_tree_takes_its_own_library(tree: Path) -> None:
    path = library(tree, tree / "csrc")
    library(tree.parent / "installed", tree / "csrc")
    assert extension._find() == (path, None)


def test_a_tree_takes_an_installed_library_of_the_same_sources(tree: Path) -> None:
    path = library(tree.parent / "installed", tree / "csrc")
    assert extension._find() == (path, None)
    library(tree, tree / "googlenet_fast")  # a stale one does not hide it
    assert extension._find() == (path, None)


def test_a_library_of_other_sources_is_refused(tree: Path) -> None:
    library(tree, tree / "csrc")
    (tree / "csrc" / "bindings" / "build_info.cpp").write_text("// two\n")
    reason = extension._find()[1]
    assert reason == (
        "the compiled extension was built from other C++ sources: type pip install -e ."
    )


def test_what_a_tree_shadows_is_named(tree: Path) -> None:
    path = library(tree.parent / "installed", tree / "googlenet_fast")
    reason = extension._find()[1]
    assert reason is not None
    assert reason.startswith(f"{tree} shadows the installed {path.parent}, whose compiled")
    assert "\n" not in reason


def test_an_installed_package_takes_its_own_library(tree: Path) -> None:
    path = library(tree, tree / "googlenet_fast")
    shutil.rmtree(tree / "csrc")
    assert extension._find() == (path, None)


def test_a_named_library_is_taken_as_it_is(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tree, tree / "csrc")
    monkeypatch.setenv(extension.VARIABLE, "/other/_C.so")
    assert extension._find() == (Path("/other/_C.so"), None)


@pytest.mark.skipif(extension.UNAVAILABLE is not None, reason=str(extension.UNAVAILABLE))
def test_a_missing_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "_cuda_refusal", "there is no CUDA part")
    assert extension.missing_part("cpu") is None
    assert extension.missing_part("cuda") == "there is no CUDA part"
    monkeypatch.setattr(extension, "UNAVAILABLE", "there is no extension")
    assert extension.missing_part("cpu") == extension.missing_part("cuda")


def test_the_reason_for_an_install_without_extension_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension, "PATH", tmp_path / "_C.abi3.so")
    (tmp_path / setup().NOTE).write_text("GOOGLENET_FAST_BUILD was 0")
    assert extension._load()[1] == (
        "the compiled extension is absent: when this was installed, GOOGLENET_FAST_BUILD was 0"
    )


def test_an_older_torch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "_C.abi3.so"
    path.touch()
    monkeypatch.setattr(extension, "PATH", path)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    assert extension._load()[1] == (
        "the compiled extension needs torch 2.10 or newer, not 2.9.1+cu128"
    )


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A CUDA part beside a CUDA build of torch; returns the libraries that are loaded."""
    (tmp_path / setup().CUDA_LIBRARY).write_text("digest")
    monkeypatch.setattr(extension, "PATH", tmp_path / "_C.abi3.so")
    monkeypatch.setattr(extension, "BUILD_INFO", {"cuda": "13.0", "csrc": "digest"})
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch, "__version__", "2.14.1+cu132")
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    return loaded


def test_the_cuda_part_is_loaded_beside_a_cuda_torch(loaded: list[str], tmp_path: Path) -> None:
    assert extension._load_cuda_part() is None
    assert loaded == [str(tmp_path / setup().CUDA_LIBRARY)]


@pytest.mark.parametrize(
    ("cuda", "version", "reason"),
    [
        (None, "2.14.1+cpu", r"torch 2\.14\.1\+cpu is not a CUDA build for NVIDIA's GPUs"),
        ("10.2", "2.10.0+corex.4.5", "is not a CUDA build for NVIDIA's GPUs"),
        ("12.8", "2.14.1+cu128", "built for CUDA 13.0, but torch for CUDA 12.8"),
    ],
)
def test_the_cuda_part_stays_out_beside_another_torch(
    loaded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    cuda: str | None,
    version: str,
    reason: str,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch, "__version__", version)
    assert re.search(reason, str(extension._load_cuda_part()))
    assert loaded == []


def test_a_cuda_part_of_another_build_stays_out(
    loaded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / setup().CUDA_LIBRARY
    part.write_text("other")
    assert "was built from other C++ sources" in str(extension._load_cuda_part())
    part.unlink()
    assert extension._load_cuda_part() == f"{part} is absent"
    monkeypatch.setattr(extension, "BUILD_INFO", {"csrc": "digest"})
    assert extension._load_cuda_part() == "the compiled extension was built without its CUDA part"
    assert loaded == []
