""".pt2 files load and run where this package is not installed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from googlenet_fast.deploy.graph import Graph
from googlenet_fast.deploy.pt2_file import DESCRIPTION, aot_file, pt2_file, run_aot, run_pt2
from googlenet_fast.errors import GoogLeNetError
from tests.deploy.trained_networks import NAMES, SIZE, random_network, trained
from tests.helpers import run_python

ALONE = """
import sys
sys.modules["googlenet_fast"] = None  # an ImportError
import numpy, torch
images = torch.from_numpy(numpy.load("images.npy"))
"""


@pytest.mark.slow
def test_an_exported_program_needs_pytorch_alone(tmp_path: Path) -> None:
    network = trained("torchvision", tmp_path, with_preprocessing=True)
    content = pt2_file(network.graph, network.description())
    (tmp_path / "model.pt2").write_bytes(content)
    images = np.random.default_rng(0).integers(256, size=(3, SIZE, SIZE, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    program = f"""{ALONE}
extra = {{"{DESCRIPTION}": ""}}
module = torch.export.load("model.pt2", extra_files=extra).module()
with torch.no_grad():
    numpy.save("probabilities.npy", module(images))
open("description.json", "w").write(extra["{DESCRIPTION}"])
"""
    child = run_python("-c", program, cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    with torch.no_grad():
        expected = network.graph(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), expected, rtol=1e-5)
    np.testing.assert_array_equal(run_pt2(content)(images[:1]).argmax(1), expected[:1].argmax(1))
    described = json.loads((tmp_path / "description.json").read_text())
    assert described == network.description()
    assert described["class_names"] == NAMES
    assert str(Path(__file__).parents[2]).encode() not in content


@pytest.mark.slow
def test_a_compiled_program_needs_pytorch_alone(tmp_path: Path) -> None:
    """Of a small network: to compile the whole one takes minutes."""
    graph = Graph(random_network("paper"), SIZE, None)
    graph.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())  # type: ignore[assignment]
    content = aot_file(graph, {"class_names": NAMES}, "cpu")
    (tmp_path / "model.pt2").write_bytes(content)
    images = torch.randn(3, 3, SIZE, SIZE)
    np.save(tmp_path / "images.npy", images)
    program = f"""{ALONE}
module = torch._inductor.aoti_load_package("model.pt2")
numpy.save("outputs.npy", module(images).detach())
print(module.get_metadata()["{DESCRIPTION}"])
"""
    child = run_python("-c", program, cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout)["class_names"] == NAMES
    with torch.no_grad():
        expected = graph(images).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), expected, rtol=1e-4, atol=1e-5)
    actual = run_aot(content, "cpu")(images[:1].numpy())
    np.testing.assert_allclose(actual, expected[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_missing() -> None:
    with pytest.raises(GoogLeNetError, match="--device cuda: PyTorch finds no GPU here"):
        aot_file(Graph(random_network("paper"), SIZE, None), {}, "cuda")


def test_a_missing_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    from googlenet_fast.deploy import pt2_file as module

    def fail(*_: object, **__: object) -> None:
        raise InvalidCxxCompiler

    monkeypatch.setattr(module, "aoti_compile_and_package", fail)
    monkeypatch.setattr(Graph, "traced", lambda _: None)
    with pytest.raises(GoogLeNetError, match=r"--aot: needs a C\+\+ compiler; install g\+\+"):
        aot_file(Graph(random_network("paper"), SIZE, None), {}, "cpu")
