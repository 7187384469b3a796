"""ONNX files: right in ONNX Runtime and in OpenVINO, and they say how to use them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from googlenet_fast.deploy.graph import Graph
from googlenet_fast.deploy.trained import Trained
from googlenet_fast.model.presets import PRESETS, Normalization
from tests.deploy.trained_networks import NAMES, SIZE, random_network, trained

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from googlenet_fast.deploy.onnx_file import onnx_file, run_onnx  # noqa: E402


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Trained, bytes]]:
    """Presets with preprocessing inside; in the torchvision file there is none."""
    made = {}
    for preset in PRESETS:
        folder = tmp_path_factory.mktemp("weights")
        network = trained(preset, folder, with_preprocessing=preset != "torchvision")
        made[preset] = network, onnx_file(network.graph, network.description())
    return made


def batch(network: Trained, count: int) -> np.ndarray:
    if network.graph.normalize is None:
        return torch.randn(count, 3, SIZE, SIZE).numpy()
    return np.random.default_rng(1).integers(256, size=(count, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_runtimes_compute_what_the_network_computes(
    preset: str, exported: dict[str, tuple[Trained, bytes]], tmp_path: Path
) -> None:
    network, content = exported[preset]
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    runs = {"ONNX Runtime": run_onnx(content)}
    openvino = pytest.importorskip("openvino")
    (tmp_path / "model.onnx").write_bytes(content)
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # else bf16, where there is AMX
    compiled = core.compile_model(tmp_path / "model.onnx", "CPU")
    runs["OpenVINO"] = lambda images: compiled(images)[0]
    for count in (1, 5):
        images = batch(network, count)
        with torch.no_grad():
            expected = network.graph(torch.from_numpy(images)).numpy()
        for run in runs.values():
            np.testing.assert_allclose(run(images), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_files_are_small_graphs_with_a_description(
    exported: dict[str, tuple[Trained, bytes]],
) -> None:
    for preset, (network, content) in exported.items():
        model = onnx.load_from_string(content)
        ops = [node.op_type for node in model.graph.node]
        assert ops.count("Conv") == 3 + 9 * 4
        assert ops.count("LRN") == (2 if preset == "paper" else 0)
        assert not {"BatchNormalization", "Gather", "Shape"} & {*ops}
        assert {node.domain for node in model.graph.node} == {""}
        described = {p.key: json.loads(p.value) for p in model.metadata_props}
        assert described == network.description()
        assert described["class_names"] == NAMES
        (given,), (result,) = model.graph.input, model.graph.output
        assert given.type.tensor_type.shape.dim[0].dim_param == "N"
        assert result.name == described["output"]
        for trace in (b"googlenet_fast", str(Path(__file__).parents[2]).encode()):
            assert trace not in content


@pytest.mark.slow
def test_one_op_of_onnx_is_local_response_normalisation(tmp_path: Path) -> None:
    """On inputs where alpha matters: 5 channels of 1e3 divide by (1 + 1e-4 / 5 * 5e6) ** 0.75."""
    graph = Graph(random_network("paper"), SIZE, None)

    class Alone(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return graph.network.response_norm(x)

    x = 1e3 * torch.randn(2, 7, 6, 5)
    program = torch.onnx.export(
        Alone().eval(), (x,), dynamo=True, input_names=["images"], verbose=False
    )
    assert program is not None
    model = program.model_proto
    assert [node.op_type for node in model.graph.node] == ["LRN"]
    actual = run_onnx(model.SerializeToString())(x.numpy())
    expected = F.local_response_norm(x.double(), 5, 1e-4, 0.75, 1.0)
    assert (expected.abs() < 0.9 * x.abs()).all()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_change_of_the_mean_is_noticed(
    exported: dict[str, tuple[Trained, bytes]], tmp_path: Path
) -> None:
    """By the check before writing: one unit of 255 in one channel."""
    from googlenet_fast.deploy.agreement import largest_difference
    from googlenet_fast.deploy.samples import random_samples
    from googlenet_fast.errors import GoogLeNetError

    network, content = exported["paper"]
    assert largest_difference(run_onnx(content), network, random_samples(SIZE)) < 1e-5
    other = Graph(network.model, SIZE, Normalization((105.0, 117.0, 123.0), (1.0, 1.0, 1.0), "BGR"))
    with pytest.raises(GoogLeNetError, match="not written"):
        largest_difference(run_onnx(onnx_file(other, {})), network, random_samples(SIZE))
