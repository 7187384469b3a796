"""Conversion of weights on the command line."""

import json
import re
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch

from googlenet_fast import GoogLeNet, evaluate, export, extras, load_model, predict, save_weights
from googlenet_fast.classifier import Classifier
from googlenet_fast.data import sample_dataset
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.trainer import Trainer
from googlenet_fast.errors import GoogLeNetError, run_command
from googlenet_fast.model.preprocessing import Preprocessing
from googlenet_fast.model.presets import PRESETS, Normalization


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
    assert info.preprocessing.class_names == ("cat", "dög")
    assert info.preprocessing.image_size == 96


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("out.caffemodel", "choose .safetensors or .pth"),
        ("out.tflite", "ends in one of .safetensors, .pth, .pdparams, .caffemodel, .onnx, .pt2"),
    ],
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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("a.pth --with-preprocessing", "--with-preprocessing: is for .onnx and .pt2, not for"),
        ("a.pth --images photos", "--images: is for .onnx and .pt2, not for"),
        ("a.onnx --aot", "--aot: is for .pt2, not for"),
        ("a.pt2 --int8 --images photos", "--int8: is for .onnx, not for"),
        ("a.pt2 --device cpu", "--device: is for --aot"),
        (
            "a.onnx --data photos",
            "--data and --list: are for --int8; to check a file on images: ",
        ),
        ("a.onnx --int8", "--int8: needs images to calibrate on: --data, --list or --images"),
        (
            "a.onnx --int8 --images x --list y",
            "--images: choose them, or labelled ones with --da",
        ),
        ("missing/a.onnx", "a.onnx: there is no folder missing"),
    ],
)
def test_mistakes(
    arguments: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GoogLeNetError, match=re.escape(expected)):
        export.parse(["weights.pt", *arguments.split()])
    assert not [*tmp_path.iterdir()]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if "script" in name else True)
    expected = (
        r"m\.onnx cannot be made: onnxscript is not installed: pip install 'googlenet-fast\[onnx"
    )
    with pytest.raises(GoogLeNetError, match=expected):
        export.parse(["weights.pt", str(tmp_path / "m.onnx")])
    assert export.parse(["weights.pt", str(tmp_path / "m.pt2")]).output.suffix == ".pt2"


@pytest.mark.slow
def test_a_graph_is_checked_on_the_users_images(
    few_digits: Path, tmp_path: Path, run_main: Callable[..., tuple[int, str, str]]
) -> None:
    weights, output = tmp_path / "w.safetensors", tmp_path / "model.pt2"
    save_weights(GoogLeNet("torchvision", 10, aux=False), weights, image_size=64)
    photos = [
        sample_dataset() / line.split()[0]
        for line in (few_digits / "val_list.txt").read_text().splitlines()
    ]
    status, stdout, stderr = run_main(
        export.main, weights, output, "--with-preprocessing", "--images", *photos
    )
    assert status == 0, stderr
    first, checked = stdout.splitlines()
    assert first == (
        f"{output}: preset torchvision, 10 classes, uint8 (N, 64, 64, 3), RGB -> probabilities"
    )
    assert re.match(
        r"checked on 10 images of .*: probabilities differ from the network's by at most \d",
        checked,
    )
    assert {path.name for path in tmp_path.iterdir()} == {"w.safetensors", "model.pt2"}


FORMATS = [
    *[(preset, suffix) for preset in PRESETS for suffix in (".safetensors", ".pth")],
    ("paddleclas", ".pdparams"),
    ("paper", ".caffemodel"),
]


@pytest.fixture(scope="module")
def trained(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the best.pt of a run of one epoch with a preset and unusual preprocessing."""
    runs: dict[str, Path] = {}

    def train(preset: str) -> Path:
        if preset not in runs:
            output = tmp_path_factory.mktemp("run") / preset
            config = load_config([
                "--model.preset", preset, "--model.aux", "false", "--device", "cpu",
                "--data.train_list", str(few_digits / "train_list.txt"),
                "--data.val_list", str(few_digits / "val_list.txt"),
                "--data.root", str(sample_dataset()), "--data.batch_size", "20",
                "--data.image_size", "64", "--data.resize_size", "77", "--data.resize", "cv2",
                "--epochs", "1", "--output", str(output),
            ])  # fmt: skip
            with closing(Trainer(config, Process(0, 1, 0, 1, torch.device("cpu")))) as trainer:
                trainer.run()
            runs[preset] = output / "best.pt"
        return runs[preset]

    return train


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "suffix"), FORMATS)
def test_an_exported_run_predicts_as_the_run(
    preset: str,
    suffix: str,
    trained: Callable[[str], Path],
    few_digits: Path,
    tmp_path: Path,
    run_main: Callable[..., tuple[int, str, str]],
) -> None:
    """Also when it is exported again, from one format to the other."""
    best, first, second = trained(preset), tmp_path / f"a{suffix}", tmp_path / "b.safetensors"
    assert run_main(export.main, best, first)[0] == run_main(export.main, first, second)[0] == 0
    expected = Classifier(best, torch.device("cpu"))
    assert str(expected.preprocessing).startswith("64 px, short side resized to 77 as cv2 does")
    data = ("--list", few_digits / "val_list.txt", "--root", sample_dataset(), "--device", "cpu")
    image = sample_dataset() / (few_digits / "val_list.txt").read_text().split()[0]
    results = []
    for weights in (best, first, second):
        assert Classifier(weights, torch.device("cpu")).preprocessing == expected.preprocessing
        _, stdout, stderr = run_main(evaluate.main, weights, *data, "--json")
        assert "does not say" not in stderr
        evaluated = json.loads(stdout)
        _, stdout, _ = run_main(predict.main, weights, image, "--json", "--device", "cpu")
        (predicted,) = json.loads(stdout)["predictions"]
        keys = ("top1", "top5", "loss", "image_size", "resize_size", "resize", "classes")
        results.append(({key: evaluated[key] for key in keys}, predicted))
    assert results[0] == results[1] == results[2]


@pytest.mark.slow
def test_int8_takes_the_images_of_the_run(
    trained: Callable[[str], Path], tmp_path: Path, run_main: Callable[..., tuple[int, str, str]]
) -> None:
    """For the folder of a run no images need be named."""
    pytest.importorskip("onnxruntime")
    output = tmp_path / "int8.onnx"
    status, stdout, stderr = run_main(
        export.main, trained("torchvision").parent, output, "--int8", "--with-preprocessing"
    )
    assert status == 0, stderr
    assert "in int8, calibrated on 40 training images of " in stdout
    assert re.search(r"^10 validation images of .*: top-1 \d+\.00 % in fp32, \d+", stdout, re.M)
    assert output.exists()


def test_the_description_beside_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights, beside = tmp_path / "w.pth", tmp_path / "w.pth.json"
    preprocessing = Preprocessing(
        image_size=96,
        resize_size=100,
        resize="cv2",
        normalization=Normalization((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "BGR"),
        class_names=("cat", "dög\n"),
    )
    model = GoogLeNet("paper", 2, aux=False, lrn=False)
    save_weights(model, weights, preprocessing=preprocessing)
    loaded, info = load_model(weights)
    assert info.preprocessing == preprocessing
    assert not loaded.preset.lrn
    assert not caplog.records
    good = json.loads(beside.read_text())
    for key, value, message in (
        ("image_size", 0, "field image_size cannot be 0"),
        ("image_size", 10**9, "field image_size cannot be"),
        ("image_size", "96", "field image_size cannot be '96'"),
        ("resize_size", 95, "field resize_size cannot be 95, less than image_size 96"),
        ("resize", "nearest", "field resize cannot be 'nearest'"),
        ("resize", [], "field resize cannot be"),
        ("mean", [1, 2], "field mean cannot be"),
        ("mean", [1, 2, float("nan")], "field mean cannot be"),
        ("std", [1, 0, 1], "field std cannot be"),
        ("std", [1, 10**400, 1], "field std cannot be"),
        ("channel_order", "GBR", "field channel_order cannot be 'GBR'"),
        ("class_names", ["a"], "1 class names for 2 classes"),
        ("class_names", [1, 2], "field class_names cannot be"),
        ("preset", "vgg", "field preset cannot be 'vgg'"),
        ("sha256", "0", "w.pth: is damaged, or w.pth.json describes other weights"),
    ):
        beside.write_text(json.dumps({**good, key: value}))
        with pytest.raises(GoogLeNetError, match=re.escape(message)) as error:
            load_model(weights)
        assert "\n" not in str(error.value)
    beside.write_text("{")
    with pytest.raises(GoogLeNetError, match=r"w\.pth\.json: cannot be read"):
        load_model(weights)
    beside.write_text(json.dumps(good))
    save_weights(model, weights)
    assert not beside.exists()
    assert load_model(weights)[1].preprocessing.image_size == 224
    (note,) = caplog.messages
    assert "w.pth does not say how its images are made, and there is no w.pth.json" in note
    beside.write_text('{"of": "another program"}')
    save_weights(model, weights)
    load_model(weights)
    assert beside.exists()


@pytest.mark.parametrize(
    ("preset", "suffix", "resize"),
    [
        ("paddleclas", ".pdparams", "cv2"),
        ("paper", ".caffemodel", "cv2"),
        ("torchvision", ".pth", "pillow"),
        ("torchvision", ".safetensors", "antialias"),
    ],
)
def test_what_is_not_stated_is_as_the_authors_tools_do(
    preset: str, suffix: str, resize: str, tmp_path: Path
) -> None:
    save_weights(GoogLeNet(preset, 2, aux=False), tmp_path / f"w{suffix}")
    preprocessing = load_model(tmp_path / f"w{suffix}")[1].preprocessing
    assert (preprocessing.image_size, preprocessing.resize_size) == (224, 256)
    assert preprocessing.resize == resize
    assert preprocessing.normalization == PRESETS[preset].normalization
