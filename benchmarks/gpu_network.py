"""Training steps and inference of GoogLeNet in mixed precision, on a GPU and captured in a graph.

The network is without LRN and dropout, with the same weights in plain PyTorch and in this package.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cpu_peers import AUX_WEIGHT, MOMENTUM, our_network
from benchmarks.plain_googlenet import plain_googlenet, torch_framework
from googlenet_fast.engine.config import OptimizerConfig
from googlenet_fast.engine.half_weights import HalfWeights
from googlenet_fast.engine.optimizer import build_optimizer
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.frozen import freeze
from googlenet_fast.ops import use_impl
from googlenet_fast.ops.sgd_step import why_not_fused

Step = Callable[[], object]

AMP = {"cuda": torch.float16, "cpu": torch.bfloat16}
"""dtype of mixed precision by type of device."""


def plain_network(device: str) -> nn.Module:
    """Return the network in plain PyTorch, channels_last; the same weights in every call."""
    torch.manual_seed(0)
    return plain_googlenet(torch_framework()).to(device, memory_format=torch.channels_last)


def package_network(device: str) -> GoogLeNet:
    """Return this package's network with the weights of `plain_network`."""
    network = our_network()
    network.load_state_dict(plain_network("cpu").state_dict())
    return network.to(device, memory_format=torch.channels_last)


def random_batch(batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, 224, 224) in half precision, channels_last, and labels."""
    generator = torch.Generator(device).manual_seed(0)
    images = torch.randn(batch, 3, 224, 224, device=device, generator=generator)
    labels = torch.randint(1000, (batch,), device=device, generator=generator)
    return images.to(AMP[device], memory_format=torch.channels_last), labels


def training(network: nn.Module, images: Tensor, labels: Tensor) -> Step:
    """Return a training step in mixed precision."""
    network.train()
    device = images.device.type
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, MOMENTUM, fused=True)
    scaler = torch.amp.GradScaler(device, init_scale=128.0)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, AMP[device], cache_enabled=False):
            main, *aux = (F.cross_entropy(logits, labels) for logits in network(images))
            loss = main + AUX_WEIGHT * sum(aux)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def inference(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """Return a function that computes the logits."""
    network.eval()
    device = images.device.type

    @torch.inference_mode()
    def infer() -> Tensor:
        with torch.autocast(device, AMP[device], cache_enabled=False):
            return network(images)

    return infer


def command_training(network: GoogLeNet, images: Tensor, labels: Tensor) -> Step:
    """Return a training step as this package's trainer makes it."""
    network.train()
    dtype = AMP[images.device.type]
    half = HalfWeights(network, dtype) if why_not_fused(images.device) is None else None
    optimizer = build_optimizer(network, OptimizerConfig(lr=1e-3, momentum=MOMENTUM), half)
    step = TrainStep(network if half is None else half, optimizer, amp_dtype=dtype)
    return partial(step, images, labels)


def command_inference(network: GoogLeNet, images: Tensor) -> Callable[[], Tensor]:
    """Return a function that computes the logits as this package's commands do: frozen."""
    device = images.device.type
    frozen = freeze(network, AMP[device])

    def infer() -> Tensor:
        with torch.autocast(device, AMP[device], cache_enabled=False):
            return frozen(images)

    return infer


def captured(step: Step, device: str = "cuda") -> Step:
    """Capture a step in a CUDA graph and return a function that replays it.

    On a CPU the step itself is the replay.
    """
    if device == "cpu":
        return step
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


def exact_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of plain PyTorch in fp32."""
    with use_impl("reference"), torch.inference_mode():
        return network.eval()(images.float())
