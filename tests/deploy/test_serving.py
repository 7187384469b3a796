"""The example of docs/deployment.md that serves a network over HTTP."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from googlenet_fast.classifier.classifier import Classifier
from googlenet_fast.classifier.transform import Transform
from googlenet_fast.model.preprocessing import Preprocessing, Resize
from googlenet_fast.model.presets import IMAGENET_RGB
from tests.deploy.trained_networks import NAMES, trained

for needed in ("litserve", "multipart", "onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed)

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("resize", ["antialias", "cv2"])
@pytest.mark.parametrize("size", [(300, 200), (131, 257), (60, 61)])
def test_photos_are_resized_as_in_training(resize: Resize, size: tuple[int, int]) -> None:
    """To the last bit, or to a level where Pillow rounds otherwise than cv2."""
    noise = np.random.default_rng(0).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    photo = Image.fromarray(noise)
    how = Preprocessing(image_size=64, resize_size=73, resize=resize, normalization=IMAGENET_RGB)
    expected = np.asarray(Transform(how).crop(photo)).astype(int)
    square = example("serve").central_square(photo, how.values())
    assert np.abs(square - expected).max() <= (1 if resize == "cv2" else 0)


@contextmanager
def serving(model: Path) -> Iterator[int]:
    """Serve a model; give the port once it answers. In the end no process is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(EXAMPLES / "serve.py"), str(model), "--port", str(port)]
    log = model.with_suffix(".log")
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_until(lambda: server.poll() is not None or answers(port))
        assert server.poll() is None, log.read_text()
        yield port
        server.terminate()
        server.wait(60)
        wait_until(lambda: not lives(server.pid))
    finally:
        if lives(server.pid):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError


def answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


def lives(group: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_the_server_answers_as_the_classifier(tmp_path: Path) -> None:
    from googlenet_fast.deploy.onnx_file import onnx_file

    network = trained("paper", tmp_path, with_preprocessing=True)
    (tmp_path / "model.onnx").write_bytes(onnx_file(network.graph, network.description()))
    photo = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(256, size=(90, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    load = example("load")
    with serving(tmp_path / "model.onnx") as port:

        def post(content: bytes) -> tuple[int, bytes]:
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            form = {"Content-Type": f"multipart/form-data; boundary={load.BOUNDARY}"}
            connection.request("POST", "/predict", load.body_of(content), form)
            answer = connection.getresponse()
            return answer.status, answer.read()

        status, content = post(photo.read_bytes())
        assert status == 200, content
        status, refusal = post(b"no photo")
        assert status == 400
        assert b"must be a file of a photo" in refusal
        taken = load.measure(port, photo.read_bytes(), 4, 1.0)
        assert len(taken) > 4
    weights = tmp_path / "paper.safetensors"
    (expected,) = Classifier(weights, torch.device("cpu"))([photo])
    found = json.loads(content)["classes"]
    assert {entry["name"] for entry in found} == set(NAMES)
    network_says = {score.name: score.probability for score in expected.scores}
    for entry in found:
        assert entry["probability"] == pytest.approx(network_says[entry["name"]], abs=0.01)
