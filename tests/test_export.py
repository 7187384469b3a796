"""Conversion of weights on the command line."""

import sys
from pathlib import Path

import pytest
import torch

from googlenet_fast import GoogLeNet, export, load_model, save_weights
from googlenet_fast.errors import run_command


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    run_command(export.main)


@pytest.mark.parametrize(
    ("preset", "suffix"),
    [("torchvision", ".pth"), ("paddleclas", ".pdparams"), ("paper", ".caffemodel")],
)
def test_conversion_keeps_the_network(
    preset: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = GoogLeNet(preset, 3).eval()
    source, output = tmp_path / "source.safetensors", tmp_path / f"converted{suffix}"
    save_weights(model, source, class_names=["a", "b", "c"], image_size=96)
    run(monkeypatch, str(source), str(output))
    converted, info = load_model(output)
    assert info.preset == preset
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(converted(images), model(images))


def test_safetensors_keep_names_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_weights(GoogLeNet("paper", 2), source, class_names=["cat", "dög"], image_size=96)
    run(monkeypatch, str(source), str(output))
    _, info = load_model(output)
    assert info.class_names == ("cat", "dög")
    assert info.image_size == 96


@pytest.mark.parametrize(
    ("name", "expected"),
    [("out.caffemodel", "choose .safetensors or .pth"), ("out.onnx", "unknown suffix")],
)
def test_what_cannot_be_written(
    name: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "source.safetensors"
    save_weights(GoogLeNet("torchvision", 2), source)
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, str(source), str(tmp_path / name))
    assert exit_.value.code == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / name).exists()
