"""Time the trainer against a bare loop over the same training step, on synthetic data."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import interleave
from googlenet_fast.capture import Captured, capturer_for
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import distributed
from googlenet_fast.engine.stop_signal import StopSignal
from googlenet_fast.engine.trainer import Trainer

STEPS = 10
"""Per timing. Few, so that both sides see the same noise."""


def bench_trainer_overhead(tmp_path: Path) -> None:
    """Time steps of digits, on a GPU both in graphs. Target: a ratio of at least 0.97."""
    config = load_config(
        ["--data.loader", "synthetic", "--epochs", "1000", "--output", str(tmp_path)]
    )
    with distributed(config.device) as process, StopSignal(world_size=1) as stop:
        trainer = Trainer(config, process)
        model, optimizer = trainer.model, trainer.train_step.optimizer
        images, labels = next(iter(trainer.train_loader))

        def bare_step(images: Tensor, labels: Tensor) -> None:
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        step = Captured(bare_step, capturer_for(config.graph, process.device))

        def bare_loop() -> None:
            for _ in range(STEPS):
                step(images, labels)
            if images.is_cuda:
                torch.cuda.synchronize()

        def trainer_loop() -> None:
            trainer.images_seen = (trainer.steps_per_epoch - STEPS) * config.data.batch_size
            trainer.train_epoch(stop)

        interleave(
            "trainer overhead",
            {"bare loop": bare_loop, "trainer": trainer_loop},
            repeats=21,
        )
