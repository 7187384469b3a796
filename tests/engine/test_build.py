"""Parts of a run as the configuration asks for them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from googlenet_fast.data import open_splits
from googlenet_fast.engine.build import (
    build_model,
    evaluation_preprocessing,
    loader_options,
    with_resize,
)
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.weights import save_weights


def test_synchronized_batch_norm() -> None:
    """On tensors without data, since the switch is for GPUs."""
    config = load_config(["--model.preset", "torchvision", "--model.sync_bn", "true"])
    splits = open_splits(None)
    with torch.device("meta"):
        model = build_model(config, splits, torch.device("meta"))
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 30
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)


@pytest.mark.parametrize(
    ("preset", "suffix", "resize"),
    [
        ("paddleclas", ".pdparams", "cv2"),
        ("paper", ".caffemodel", "cv2"),
        ("torchvision", ".pth", "pillow"),
    ],
)
def test_images_are_resized_as_for_the_weights_to_start_from(
    preset: str, suffix: str, resize: str, tmp_path: Path
) -> None:
    weights = tmp_path / f"w{suffix}"
    save_weights(GoogLeNet(preset, 2, aux=False), weights)
    config = load_config(["--model.preset", preset, "--model.weights", str(weights)])
    own = replace(config, data=replace(config.data, resize="antialias"))
    assert with_resize(own) == own
    resolved = with_resize(config)
    assert resolved.data.resize == resize
    alone = Process(0, 1, 0, 1, torch.device("cpu"))
    for train in (True, False):
        assert loader_options(resolved, alone, train=train).resize == resize
    assert f"(resize={resize})" in str(evaluation_preprocessing(resolved, None))
    weights.unlink()
    with pytest.raises(GoogLeNetError, match="No such file"):
        with_resize(config)
    assert with_resize(replace(config, resume="auto")).data.resize is None
    assert with_resize(load_config([])).data.resize is None
