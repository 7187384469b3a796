"""Time training steps and inference of GoogLeNet on a GPU in fp16, against PyTorch's modes.

Images are already on the GPU. The backends of this package are autotuned first, as in a long
training run.
"""

import os
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks.gpu_network import (
    Step,
    captured,
    exact_logits,
    inference,
    package_network,
    plain_network,
    random_batch,
    training,
)
from benchmarks.harness import interleave, relative_error, remarks
from googlenet_fast.engine.distributed import distributed
from googlenet_fast.model.calls import calls_of
from googlenet_fast.selfcheck.autotune import search

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

BATCHES = [int(batch) for batch in os.environ.get("GOOGLENET_FAST_BENCH_BATCHES", "64 256").split()]
"""Images per step."""

STEPS = 5
"""Per timing."""

TOLERANCE = 5e-2
"""Largest relative error, in norm, of logits against the plain network's in fp32."""


def networks(batch: int) -> dict[str, nn.Module]:
    """Return networks with the same weights, by name, channels_last on the GPU; baseline first."""
    ours = package_network("cuda")
    found = {
        "PyTorch": plain_network("cuda"),
        "PyTorch compiled": plain_network("cuda"),
        "this package": ours,
    }
    found["PyTorch compiled"].compile(fullgraph=True, dynamic=False)
    with distributed("cuda") as process:
        calls = calls_of(ours, batch, 224, torch.float16, process.device)
        lines = search(calls, str(process.device), process.broadcast)
    remarks.extend(lines)
    return found


def repeated(step: Step) -> None:
    """Run a step several times, so that launches of one step overlap the previous step."""
    for _ in range(STEPS):
        step()


def images_per_second(images: int, seconds: float) -> str:
    """Return the rate at which images were processed."""
    return f"{images / seconds:.0f} img/s"


@pytest.mark.parametrize("launches", ["host", "graph"])
@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize("batch", BATCHES)
def bench_gpu_model(batch: int, mode: str, launches: str) -> None:
    images, labels = random_batch(batch, "cuda")
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        found = networks(batch)
        exact = [exact_logits(found["PyTorch"], images)]
        errors = {
            name: relative_error([inference(network, images)()], exact)
            for name, network in found.items()
        }
        assert max(errors.values()) < TOLERANCE, errors
        make = partial(training, labels=labels) if mode == "training" else inference
        steps = {name: make(network, images=images) for name, network in found.items()}
        if launches == "graph":
            steps = {name: captured(step) for name, step in steps.items()}
        runs = {name: partial(repeated, step) for name, step in steps.items()}
        title = f"{mode}, batch {batch}, {STEPS} steps launched by {launches}"
        rate = partial(images_per_second, STEPS * batch)
        interleave(title, runs, errors=errors, rate=rate)
