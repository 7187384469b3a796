"""Quantised ONNX files, and how they are compared with fp32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from googlenet_fast import export
from googlenet_fast.data.tar_members import Location
from googlenet_fast.deploy.samples import Samples, random_samples
from googlenet_fast.deploy.trained import Trained
from googlenet_fast.errors import GoogLeNetError
from tests.deploy.trained_networks import SIZE, trained

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from googlenet_fast.deploy.int8 import int8_file, quality  # noqa: E402
from googlenet_fast.deploy.onnx_file import onnx_file, run_onnx  # noqa: E402


def outputs(*rows: list[float]) -> Any:
    """What returns these rows, whatever it is given, up to the number of its images."""
    return lambda images: np.array(rows, np.float32)[: len(images)]


def test_accuracy_is_counted(tmp_path: Path) -> None:
    network = trained("paper", tmp_path, with_preprocessing=True)
    samples = Samples(random_samples(SIZE).images[:4], "images", np.array([0, 1, 2, 0]))
    fp32 = outputs([0.9, 0.1, 0], [0, 1, 0], [0, 0.6, 0.4], [1, 0, 0])
    int8 = outputs([0.9, 0.1, 0], [0, 1, 0], [0, 0.4, 0.6], [0.9, 0.1, 0])
    result = quality(fp32, int8, network, samples)
    assert result.agreement == 75
    assert result.accuracy == {"top-1": (75, 100), "top-5": (100, 100)}
    assert str(result) == (
        "top-1 75.00 % in fp32, 100.00 % in int8; top-5 100.00 % in fp32, 100.00 % in int8; "
        "the same class for 75.00 %"
    )
    without = quality(fp32, int8, network, Samples(samples.images, "images"))
    assert str(without) == "the same class for 75.00 %"


def test_too_much_change_is_refused(tmp_path: Path) -> None:
    network = trained("paper", tmp_path, with_preprocessing=True)
    samples = Samples(random_samples(SIZE).images[:1], "photos")
    with pytest.raises(
        GoogLeNetError, match=r"8 bits change the probabilities of 1 photos by 50 % on"
    ):
        quality(outputs([0.9, 0.1]), outputs([0.4, 0.6]), network, samples)
    network = trained("paper", tmp_path, with_preprocessing=False)  # which gives logits
    with pytest.raises(GoogLeNetError, match=r"by 52 % on average"):
        quality(outputs([0.0, 5.0]), outputs([0.1, 0.0]), network, samples)


@pytest.mark.slow
@pytest.mark.parametrize("with_preprocessing", [True, False])
def test_a_whole_network(with_preprocessing: bool, tmp_path: Path) -> None:
    network = trained("torchvision", tmp_path, with_preprocessing=with_preprocessing)
    samples = random_samples(SIZE)
    fp32 = onnx_file(network.graph, network.description())
    int8 = int8_file(fp32, network, samples)
    assert len(int8) < 0.35 * len(fp32)
    before, after = onnx.load_from_string(fp32), onnx.load_from_string(int8)
    onnx.checker.check_model(after, full_check=True)
    assert sorted(map(str, after.metadata_props)) == sorted(map(str, before.metadata_props))
    weights = [t for t in after.graph.initializer if t.name.endswith("weight_quantized")]
    assert len(weights) == 3 + 9 * 4 + 1
    assert {t.data_type for t in weights} == {onnx.TensorProto.INT8}
    scales = {t.name: t for t in after.graph.initializer}
    assert len(scales[weights[0].name.replace("_quantized", "_scale")].dims) == 1, "per channel"
    assert after.graph.node[-1].op_type == ("Softmax" if with_preprocessing else "Gemm")
    run = run_onnx(int8)
    for part in (samples.images[:1], samples.images):
        inputs = network.inputs(part)
        expected = run_onnx(fp32)(inputs)
        error = np.abs(run(inputs) - expected).max()
        assert 0 < error < 0.2 * np.abs(expected).max()


@pytest.mark.slow
def test_real_photos_of_imagenet_keep_their_classes(shared_data: Path) -> None:
    """47 photos, of which 32 are right in fp32, resized as cv2 does."""
    weights = shared_data / "bvlc_googlenet" / "bvlc_googlenet.caffemodel"
    network = Trained.load(weights, None, with_preprocessing=True)
    folder = shared_data / "dali_jpeg47"
    lines = [line.split() for line in (folder / "image_list.txt").read_text().splitlines()]
    images = [Location(name, str(folder / name)) for name, _ in lines]
    labels: NDArray[np.int64] = np.array([int(label) for _, label in lines])
    fp32 = onnx_file(network.graph, network.description())
    int8 = int8_file(fp32, network, Samples(images[::2], "photos"))
    result = quality(run_onnx(fp32), run_onnx(int8), network, Samples(images, "photos", labels))
    top1_fp32, top1_int8 = result.accuracy["top-1"]
    assert top1_fp32 == pytest.approx(100 * 32 / 47)
    assert top1_int8 >= top1_fp32 - 100 * 2 / 47
    assert result.agreement >= 90


@pytest.mark.slow
def test_the_command_measures_both(
    few_digits: Path, tmp_path: Path, run_main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On lists with images to calibrate on; digits are not what these weights were made for."""
    from googlenet_fast import GoogLeNet, save_weights
    from googlenet_fast.data import sample_dataset

    weights, output = tmp_path / "w.safetensors", tmp_path / "int8.onnx"
    save_weights(GoogLeNet("torchvision", 10, aux=False), weights, image_size=SIZE)
    status, stdout, stderr = run_main(
        export.main, weights, output, "--int8", "--list", few_digits / "train_list.txt",
        "--root", sample_dataset(),
    )  # fmt: skip
    assert status == 0, stderr
    first, checked, calibrated, measured, last = stdout.split("\n")
    assert first.startswith(f"{output}: preset torchvision, 10 classes, float32 (N, 3, 64, 64)")
    assert checked.startswith("in fp32 checked on ")
    assert calibrated.startswith("in int8, calibrated on 30 training images of ")
    assert measured.startswith("10 validation images of ")
    assert "(held out as training does): top-1 " in measured
    assert " % in fp32, " in measured
    assert not last
    assert torch.from_numpy(run_onnx(output.read_bytes())(np.zeros((2, 3, 64, 64), "f4"))).ndim == 2
