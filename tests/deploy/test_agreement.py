"""A file that computes something else is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from googlenet_fast.deploy import write
from googlenet_fast.deploy.agreement import largest_difference
from googlenet_fast.deploy.samples import files, random_samples
from googlenet_fast.errors import GoogLeNetError
from tests.deploy.trained_networks import SIZE, trained


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_another_result_is_refused_and_nothing_is_written(
    error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = trained("paper", tmp_path, with_preprocessing=True)
    sizes = []

    def run(images: NDArray[Any]) -> NDArray[np.float32]:
        sizes.append(len(images))
        with torch.no_grad():
            probabilities = network.graph(torch.from_numpy(images)).numpy()
        probabilities[0, 0] += error * (len(images) > 1)
        return probabilities

    output = tmp_path / "model.onnx"
    output.write_text("the previous file")
    monkeypatch.setattr(write, "_made", lambda *_: (b"", run))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(GoogLeNetError, match="not written: its probabilities for 8 random images"):
        write.write_graph(network, output, random_samples(SIZE))
    assert sizes == [1, 7], "a single image and several"
    assert output.read_text() == "the previous file"
    assert sorted(tmp_path.iterdir()) == before
    error = 0
    assert largest_difference(run, network, random_samples(SIZE)) < 1e-5


def test_images_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(GoogLeNetError, match=r"--images .*no such file"):
        files([tmp_path / "missing.jpg"])
    with pytest.raises(GoogLeNetError, match=r"--images .*no image in this folder"):
        files([tmp_path])


def test_some_images_are_spread_over_all() -> None:
    samples = random_samples(SIZE)
    some = samples.some(3)
    assert str(some) == "3 of 8 random images"
    assert [image is samples.images[i] for image, i in zip(some.images, (0, 4, 7), strict=True)]
    assert samples.some(8) is samples
