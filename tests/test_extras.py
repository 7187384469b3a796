"""Core dependencies are enough; what an extra brings is left out with a note, or asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.extras import EXTRAS, missing, require

ROOT = Path(__file__).parents[1]
OPTIONAL = (
    *("matplotlib", "tensorboard", "jinja2", "markupsafe", "google.protobuf", "sklearn", "scipy"),
    *("torchvision", "nvidia.dali", "onnx", "onnxruntime", "huggingface_hub"),
)
WITHOUT = f"import sys\nsys.modules |= dict.fromkeys({OPTIONAL})\n"
"""For the start of a program: these packages cannot be imported."""


def run(module: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command where core dependencies alone are installed."""
    program = f"{WITHOUT}import runpy\nrunpy.run_module('{module}', None, '__main__', True)"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_what_is_installed_is_not_missing() -> None:
    assert missing(["torch"]) is None
    require("a tensor", "torch")


def test_what_is_missing_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = "matplotlib is not installed: pip install 'googlenet-fast[train]'"
    assert missing(["torch", "matplotlib"]) == line
    with pytest.raises(GoogLeNetError, match=r"^a report cannot be made: matplotlib is not"):
        require("a report", "matplotlib")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert missing(["jinja2", "matplotlib"]) == (
        "jinja2 and matplotlib are not installed: pip install 'googlenet-fast[train]'"
    )


def test_extras_bring_what_is_asked_of_them() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    brought = {line.partition(" = ")[0]: line for line in lines if " = [" in line}
    for package, extra in EXTRAS.items():
        assert f'"{package}>=' in brought[extra]


@pytest.mark.slow
def test_core_dependencies_train_evaluate_and_predict(few_digits: Path, tmp_path: Path) -> None:
    data = [f"--data.{s}_list={few_digits / f'{s}_list.txt'}" for s in ("train", "val")]
    root = os.environ["GOOGLENET_FAST_CACHE"]
    done = run(
        "googlenet_fast.train", *data, "--data.root", Path(root) / "digits-64", "--epochs", 1,
        "--data.batch_size", 8, "--data.image_size", 64, "--output", "run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        "note: no TensorBoard file and no curves.png: tensorboard and matplotlib are not installed:"
        " pip install 'googlenet-fast[train]'\n"
    ) in done.stdout
    assert "Pillow decodes" in done.stdout
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"best.pt", "metrics.jsonl"} <= files
    assert not any("events" in name or name == "curves.png" for name in files)

    done = run("googlenet_fast.evaluate", "run", "--output", "results", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "confusion.csv (no confusion.png: matplotlib is not installed: pip" in done.stdout
    assert not (tmp_path / "results" / "confusion.png").exists()

    image = next(Path(root).rglob("*.jpg"))
    done = run("googlenet_fast.predict", "run", image, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    for module, arguments, what in (
        ("predict", ("run", image, "--sheet", "sheet.png"), "a contact sheet"),
        ("report", ("run",), "a report"),
    ):
        done = run(f"googlenet_fast.{module}", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {what} cannot be made: ")
        assert done.stderr.endswith("pip install 'googlenet-fast[train]'\n")
