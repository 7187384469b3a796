"""The graph that is exported computes what the network computes, by plain ops."""

from operator import getitem
from pathlib import Path

import numpy as np
import pytest
import torch

from googlenet_fast.classifier.classifier import Classifier
from googlenet_fast.deploy.graph import Graph
from googlenet_fast.deploy.samples import random_samples
from googlenet_fast.deploy.trained import Trained
from googlenet_fast.model.presets import PRESETS, Normalization
from tests.deploy.trained_networks import NAMES, SIZE, random_network, trained, weights_of


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("transform_input", [False, True])
def test_logits_are_those_of_the_network(preset: str, transform_input: bool) -> None:
    """In fp64: folding of batch norm is exact but for rounding."""
    model = random_network(preset).double()
    model.transform_input = transform_input
    images = torch.randn(3, 3, SIZE, SIZE + 7, dtype=torch.float64)
    with torch.no_grad():
        expected, logits = model(images), Graph(model, SIZE, None)(images)
        assert model(images).equal(expected), "the model stays as it is"
    assert logits.std(1).min() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("preset", PRESETS)
def test_images_in_are_probabilities_out(preset: str, tmp_path: Path) -> None:
    """As the classifier gives them for the same files of pixels."""
    network = trained(preset, tmp_path, with_preprocessing=True)
    images = [pixels for pixels in random_samples(SIZE).images if isinstance(pixels, np.ndarray)]
    with torch.no_grad():
        probabilities = network.graph(torch.from_numpy(network.inputs(images)))
    classifier = Classifier(tmp_path / f"{preset}.safetensors", torch.device("cpu"))
    for row, found in zip(probabilities, classifier(images, top=len(NAMES)), strict=True):
        expected = [s.probability for s in sorted(found.scores, key=lambda s: s.index)]
        torch.testing.assert_close(row, torch.tensor(expected), rtol=1e-3, atol=1e-5)
    assert probabilities.std(1).min() > 1e-3


def test_order_of_channels_and_deviation() -> None:
    normalization = Normalization((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "BGR")
    graph = Graph(random_network("paper"), SIZE, normalization)
    red, green, blue = 11, 22, 33
    image = torch.tensor([red, green, blue], dtype=torch.uint8).expand(1, 2, 2, 3)
    assert graph.normalize is not None
    pixel = graph.normalize(image)[0, :, 0, 0]
    torch.testing.assert_close(pixel, torch.tensor([(33 - 1) / 4, (22 - 2) / 5, (11 - 3) / 6]))


def test_the_description(tmp_path: Path) -> None:
    described = trained("paper", tmp_path, with_preprocessing=True).description()
    assert described["class_names"] == NAMES
    assert described["input"] == "uint8 (N, 64, 64, 3), RGB"
    assert described["output"] == "probabilities"
    assert described["channel_order"] == "BGR"
    assert described["resize_size"] == 73
    described = trained("paper", tmp_path, with_preprocessing=False).description()
    assert described["input"].startswith("float32 (N, 3, 64, 64)")
    assert described["output"] == "logits"


def test_auxiliary_heads_are_left_out(tmp_path: Path) -> None:
    network = Trained.load(weights_of("torchvision", tmp_path), None, with_preprocessing=False)
    assert not [name for name, _ in network.graph.named_modules() if "aux" in name or "bn" in name]


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_traced_ops_are_pytorchs_own(preset: str) -> None:
    """Traced once, for any number of images."""
    model = random_network(preset)
    program = Graph(model, SIZE, PRESETS[preset].normalization).traced()
    targets = {n.target for n in program.graph.nodes if n.op == "call_function"} - {getitem}
    assert {str(target).split(".")[0] for target in targets} == {"aten"}
    assert "device" not in program.graph_module.code
    images = torch.randint(256, (5, SIZE, SIZE, 3), dtype=torch.uint8)
    with torch.no_grad():
        for batch in (images, images[:1]):
            expected = Graph(model, SIZE, PRESETS[preset].normalization)(batch)
            torch.testing.assert_close(program.module()(batch), expected)


@pytest.mark.parametrize("with_preprocessing", [True, False])
def test_inputs_are_contiguous(with_preprocessing: bool, tmp_path: Path) -> None:
    """Programs compiled by AOTInductor read other strides wrongly, without an error."""
    network = trained("paper", tmp_path, with_preprocessing=with_preprocessing)
    inputs = network.inputs(random_samples(SIZE).images)
    assert inputs.flags.c_contiguous
    assert inputs.dtype == (np.uint8 if with_preprocessing else np.float32)
