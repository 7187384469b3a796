"""Parts of a run as the configuration asks for them."""

import torch
from torch import nn

from googlenet_fast.data import open_splits
from googlenet_fast.engine.build import build_model
from googlenet_fast.engine.config import load_config


def test_synchronized_batch_norm() -> None:
    """On tensors without data, since the switch is for GPUs."""
    config = load_config(["--model.preset", "torchvision", "--model.sync_bn", "true"])
    splits = open_splits(None)
    with torch.device("meta"):
        model = build_model(config, splits, torch.device("meta"))
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 30
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
