"""Every format saves and loads the same network."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from torch import Tensor

from googlenet_fast.engine.checkpoint import save_checkpoint
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import PRESETS, GoogLeNet
from googlenet_fast.model.weights import load_model, load_weights, pytorch, save_weights
from googlenet_fast.model.weights.load import read_weights
from googlenet_fast.model.weights.pytorch import write_safetensors

NAMES = ("cat", "dög", 'a "quoted", name')


def network(preset: str, *, aux: bool = False) -> GoogLeNet:
    """A network whose every entry, statistics included, is random."""
    model = GoogLeNet(preset, 3, aux=aux)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.01, 0.02)
        else:
            value.fill_(7)
    return model


def assert_same(actual: GoogLeNet, expected: dict[str, Tensor]) -> None:
    state = actual.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert torch.equal(state[key], value), key


FORMATS = [
    *[(preset, suffix) for preset in PRESETS for suffix in (".safetensors", ".pth")],
    ("paddleclas", ".pdparams"),
    ("paper", ".caffemodel"),
]


@pytest.mark.parametrize(("preset", "suffix"), FORMATS)
def test_round_trip(preset: str, suffix: str, tmp_path: Path) -> None:
    model, path = network(preset, aux=True), tmp_path / f"weights{suffix}"
    save_weights(model, path)
    assert list(tmp_path.iterdir()) == [path]
    twin = GoogLeNet(preset, 3)
    report = load_weights(twin, path)
    assert_same(twin, model.state_dict())
    assert (report.loaded, report.reinitialised) == (len(model.state_dict()), ())


@pytest.mark.parametrize(("preset", "suffix"), FORMATS)
def test_build_from_a_file_named_misleadingly(preset: str, suffix: str, tmp_path: Path) -> None:
    model = network(preset, aux=True)
    save_weights(model, tmp_path / f"weights{suffix}")
    path = (tmp_path / f"weights{suffix}").rename(tmp_path / "weights.jpg")
    loaded, info = load_model(path)
    assert (info.preset, info.num_classes) == (preset, 3)
    assert not loaded.training
    state = model.state_dict()
    assert_same(loaded, {key: state[key] for key in state if not key.startswith("aux")})


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pdparams"])
def test_half_precision_networks(suffix: str, tmp_path: Path) -> None:
    model = network("paddleclas").to(torch.bfloat16)
    save_weights(model, tmp_path / f"w{suffix}")
    twin = GoogLeNet("paddleclas", 3, aux=False)
    load_weights(twin, tmp_path / f"w{suffix}")
    assert_same(twin.to(torch.bfloat16), model.state_dict())


def test_safetensors_describe_the_network(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model = GoogLeNet("paper", 3, aux=False, lrn=False, dropout=0.25, transform_input=True)
    save_weights(model, path, class_names=NAMES, image_size=192)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["preset"] == "paper"
    assert len(metadata.pop("sha256")) == 64
    assert {key: json.loads(value) for key, value in metadata.items() if key != "preset"} == {
        "num_classes": 3,
        "aux": False,
        "lrn": False,
        "dropout": 0.25,
        "transform_input": True,
        "class_names": list(NAMES),
        "image_size": 192,
    }
    loaded, info = load_model(path)
    assert (info.preset, info.num_classes) == ("paper", 3)
    preprocessing = info.preprocessing
    assert (preprocessing.class_names, preprocessing.image_size) == (NAMES, 192)
    assert loaded.preset == model.preset
    assert loaded.transform_input


def test_safetensors_whose_length_begins_like_a_pickle(tmp_path: Path) -> None:
    state = {"fc.weight": torch.zeros(3, 1024)}
    files = [write_safetensors(state, {"class_names": ["x" * n]}) for n in range(0, 256, 8)]
    path = tmp_path / "w.safetensors"
    path.write_bytes(next(content for content in files if content[0] == 0x80))
    assert read_weights(path).format == "safetensors"


def test_checkpoints_give_their_averaged_weights(tmp_path: Path) -> None:
    model, averaged = network("paper"), network("paper")
    meta = {
        "preset": "paper",
        "num_classes": 3,
        "aux": False,
        "lrn": False,
        "dropout": None,
        "class_names": list(NAMES),
        "image_size": 96,
    }
    state = {"meta": meta, "model": model.state_dict(), "optimizer": {"state": {}}}
    save_checkpoint(tmp_path / "plain.pt", state)
    save_checkpoint(tmp_path / "ema.pt", {**state, "ema": averaged.state_dict()})
    loaded, info = load_model(tmp_path / "plain.pt")
    assert_same(loaded, model.state_dict())
    preprocessing = info.preprocessing
    assert (preprocessing.class_names, preprocessing.image_size) == (NAMES, 96)
    assert (preprocessing.resize_size, preprocessing.resize) == (110, "antialias")  # an older file
    assert not loaded.preset.lrn
    assert_same(load_model(tmp_path / "ema.pt")[0], averaged.state_dict())


@pytest.mark.parametrize("zip_archive", [True, False])
def test_torchvision_files(zip_archive: bool, tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.GoogLeNet(num_classes=3, init_weights=False).eval()
    path = tmp_path / "googlenet.pth"
    torch.save(theirs.state_dict(), path, _use_new_zipfile_serialization=zip_archive)
    ours, info = load_model(path)
    assert info.preset == "torchvision"
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))

    save_weights(network("torchvision", aux=True), path)
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=True)


def test_state_dicts_saved_by_a_parallel_trainer(tmp_path: Path) -> None:
    model, path = network("torchvision"), tmp_path / "checkpoint.pth"
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"model": state, "epoch": 3}, path)
    twin = GoogLeNet("torchvision", 3, aux=False)
    load_weights(twin, path)
    assert_same(twin, model.state_dict())


def test_published_torchvision_weights_expect_transformed_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pth"
    save_weights(network("torchvision"), path)
    assert not load_model(path)[0].transform_input
    monkeypatch.setattr(pytorch, "TORCHVISION_SHA256", "")
    assert load_model(path)[0].transform_input
    tuned = GoogLeNet("torchvision", 9, aux=False)
    load_weights(tuned, path)
    assert tuned.transform_input


def test_a_file_that_paddle_wrote() -> None:
    path = Path(__file__).parents[2] / "golden" / "sample.pdparams"
    expected = pickle.loads(path.read_bytes())
    state = read_weights(path).state
    assert np.array_equal(state["conv1.conv.weight"], expected["_conv._conv.weight"])
    assert np.array_equal(
        state["inception3a.branch3.0.conv.weight"], expected["_ince3a._conv5r._conv.weight"]
    )
    assert np.array_equal(state["fc.weight"], expected["_fc_out.weight"].T)
    assert np.array_equal(state["fc.bias"], expected["_fc_out.bias"])
    assert len(state) == 4


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_pdparams_of_every_kind(protocol: int, dtype: str, tmp_path: Path) -> None:
    weight = np.random.default_rng().standard_normal((1024, 3)).astype(dtype)
    path = tmp_path / "w.pdparams"
    arrays = {"_fc_out.weight": weight, "_out1.weight": np.asfortranarray(weight)}
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    state = read_weights(path).state
    assert np.array_equal(state["fc.weight"], weight.T.astype("f4"))
    assert np.array_equal(state["aux1.fc2.weight"], weight.T.astype("f4"))


def test_pdparams_as_paddle_reads_them(tmp_path: Path) -> None:
    model, path = network("paddleclas", aux=True), tmp_path / "w.pdparams"
    save_weights(model, path)
    content = path.read_bytes()
    assert b"numpy._core" not in content  # NumPy 1 does not have it
    arrays = pickle.loads(content)
    table = arrays.pop("StructuredToParameterName@@")
    golden = Path(__file__).parents[2] / "golden" / "paddleclas_googlenet.json"
    manifest = json.loads(golden.read_text())["manifest"]
    assert set(arrays) == set(table) == set(manifest)
    for name, array in arrays.items():
        classes_last = name.startswith(("_fc_out", "_out"))
        shape = [*manifest[name][:-1], 3] if classes_last else manifest[name]
        assert list(array.shape) == shape, name
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
    assert np.array_equal(arrays["_fc_o2.weight"], model.state_dict()["aux2.fc1.weight"].T)


@pytest.mark.parametrize(
    ("preset", "suffix", "message"),
    [
        ("paper", ".pdparams", "for preset paddleclas, not paper; choose .safetensors or .pth"),
        ("torchvision", ".caffemodel", "for preset paper, not torchvision"),
        ("paper", ".onnx", "unknown suffix; choose one of .safetensors, .pth, .pdparams"),
        ("paper", "", "unknown suffix"),
    ],
)
def test_formats_that_cannot_hold_a_network(
    preset: str, suffix: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(GoogLeNetError, match=message):
        save_weights(network(preset), tmp_path / f"w{suffix}")
    assert not list(tmp_path.iterdir())


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(GoogLeNetError, match=r"cannot save .*missing/w\.pth"):
        save_weights(network("paper"), tmp_path / "missing" / "w.pth")
