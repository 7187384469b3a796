import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import googlenet_fast
from googlenet_fast.ops import extension

PROGRAM = """
import warnings, torch
from googlenet_fast.ops import concat_bias_relu, extension
branches = [torch.randn(1, c, 3, 3, requires_grad=True) for c in (2, 3)]
biases = [torch.randn(c, requires_grad=True) for c in (2, 3)]
with warnings.catch_warnings(record=True) as caught:
    y = concat_bias_relu(branches, biases)
    concat_bias_relu(branches, biases)
print(extension.UNAVAILABLE)
assert [extension.UNAVAILABLE in str(warning.message) for warning in caught] == [True]
grad = torch.randn_like(y)
expected = torch.autograd.grad(y, branches + biases, grad)
op = torch.ops.googlenet_fast.concat_bias_relu.default
torch.testing.assert_close(op(branches, biases, True), y)
actual = torch.autograd.grad(op(branches, biases, True), branches + biases, grad)
torch.testing.assert_close(actual, expected)
torch.library.opcheck(op, (branches, biases, True))
torch.library.opcheck(
    torch.ops.googlenet_fast.concat_bias_relu_backward.default, (grad, y.detach(), [2, 3], True)
)
"""


@pytest.mark.slow
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


@pytest.mark.skipif(extension.UNAVAILABLE is not None, reason=str(extension.UNAVAILABLE))
def test_a_missing_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "BUILD_INFO", {"torch": "2.14.1"})
    assert extension.missing_part("cpu") is None
    assert extension.missing_part("cuda") == (
        "the compiled extension was built without its CUDA part"
    )
