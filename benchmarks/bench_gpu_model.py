"""Time training steps and inference of GoogLeNet on a GPU in fp16, against PyTorch's modes.

Images are already on the GPU. The backends of this package are autotuned first, as in a long
training run.
"""

import os
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cpu_peers import AUX_WEIGHT, MOMENTUM, our_network
from benchmarks.harness import interleave, relative_error, remarks
from benchmarks.plain_googlenet import plain_googlenet, torch_framework
from googlenet_fast.engine.distributed import distributed
from googlenet_fast.model.calls import calls_of
from googlenet_fast.ops import use_impl
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

Step = Callable[[], object]


def networks(batch: int) -> dict[str, nn.Module]:
    """Return networks with the same weights, by name, channels_last on the GPU; baseline first."""
    torch.manual_seed(0)
    plain = plain_googlenet(torch_framework())
    found = {
        "PyTorch": plain,
        "PyTorch compiled": plain_googlenet(torch_framework()),
        "this package": our_network(),
    }
    for network in found.values():
        network.load_state_dict(plain.state_dict())
        network.to("cuda", memory_format=torch.channels_last)
    found["PyTorch compiled"].compile(fullgraph=True, dynamic=False)
    with distributed("cuda") as process:
        calls = calls_of(found["this package"], batch, 224, torch.float16, process.device)
        lines = search(calls, str(process.device), process.broadcast)
    remarks.extend(lines)
    return found


def training(network: nn.Module, images: Tensor, labels: Tensor) -> Step:
    """Return a training step in mixed precision."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, MOMENTUM, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=128.0)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16, cache_enabled=False):
            main, *aux = (F.cross_entropy(logits, labels) for logits in network(images))
            loss = main + AUX_WEIGHT * sum(aux)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def inference(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """Return a function that computes the logits."""
    network.eval()

    @torch.inference_mode()
    def infer() -> Tensor:
        with torch.autocast("cuda", torch.float16, cache_enabled=False):
            return network(images)

    return infer


def captured(step: Step) -> Step:
    """Capture a step in a CUDA graph and return a function that replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def repeated(step: Step) -> None:
    """Run a step several times, so that launches of one step overlap the previous step."""
    for _ in range(STEPS):
        step()


def images_per_second(images: int, seconds: float) -> str:
    """Return the rate at which images were processed."""
    return f"{images / seconds:.0f} img/s"


def exact_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of plain PyTorch in fp32."""
    with use_impl("reference"), torch.inference_mode():
        return network.eval()(images.float())


@pytest.mark.parametrize("launches", ["host", "graph"])
@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize("batch", BATCHES)
def bench_gpu_model(batch: int, mode: str, launches: str) -> None:
    images = torch.randn(batch, 3, 224, 224, device="cuda", dtype=torch.float16)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), device="cuda")
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
