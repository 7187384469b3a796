"""The whole network, captured in a CUDA graph: plain PyTorch, this package, and torch.compile.

Variants: `captured` compares eager PyTorch with this package's backends; `MODE:BATCH` compiles both
networks by torch.compile in that mode.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.gpu_network import (
    captured,
    command_inference,
    command_training,
    exact_logits,
    inference,
    package_network,
    plain_network,
    random_batch,
    training,
)
from benchmarks.gpu_run.clock import seconds
from benchmarks.gpu_run.setting import Setting
from benchmarks.harness import relative_error
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.calls import calls_of
from googlenet_fast.ops import use_impl
from googlenet_fast.selfcheck.autotune import search

MODES = ("inference", "training")

COMPILE_MODES = {"default": "default", "max-autotune": "max-autotune-no-cudagraphs"}
"""torch.compile's modes by ours: the graph is captured here, for every provider in the same way."""


class Provider(NamedTuple):
    """Something that computes the network."""

    name: str
    make: Callable[[str], nn.Module]
    """Takes the type of device."""
    impl: str = "auto"
    searches: bool = True
    """Let cuDNN measure its algorithms (`cudnn.benchmark`)."""
    launches: str = "graph"
    """By which: "graph" or "host"."""
    as_commands: bool = False
    """Train by the trainer's step, infer by the frozen network; else as any module."""


PROVIDERS = (
    Provider("PyTorch", plain_network),
    Provider("this package's commands", package_network, as_commands=True),
    Provider("this package", package_network),
    Provider("this package, aten", package_network, "aten"),
    Provider("this package, triton", package_network, "triton"),
    Provider("PyTorch, launched by the host", plain_network, launches="host"),
    Provider("this package, launched by the host", package_network, launches="host"),
    Provider("PyTorch, cuDNN's heuristics", plain_network, searches=False),
    Provider("this package, cuDNN's heuristics", package_network, searches=False),
)


def run(setting: Setting) -> None:
    """Record the time of a step of each provider."""
    if setting.variant == ["captured"]:
        for batch in setting.batches:
            choose_backends(setting, batch)
            for mode in MODES:
                for provider in PROVIDERS[: 3 if setting.dry_run else None]:
                    time_provider(setting, mode, batch, provider)
        return
    name, batch = setting.variant[0], int(setting.variant[1])
    for mode in MODES:
        for provider in (PROVIDERS[0], PROVIDERS[2]):
            make = partial(compiled, provider.make, name, setting.dry_run)
            renamed = provider._replace(name=f"{provider.name}, compiled {name}", make=make)
            time_provider(setting, mode, batch, renamed)


def choose_backends(setting: Setting, batch: int) -> None:
    """Measure this package's backends, as long training runs do."""
    if setting.dry_run:
        return
    network = package_network(setting.device)
    device = torch.device("cuda", 0)
    with cudnn_benchmark(True):
        calls = calls_of(network, batch, 224, torch.float16, device)
        print(*search(calls, str(device), lambda value: value), sep="\n")


def compiled(make: Callable[[str], nn.Module], name: str, dry_run: bool, device: str) -> nn.Module:
    """Return a network compiled in a mode; a dry run only traces it."""
    torch._dynamo.reset()
    network = make(device)
    options: dict[str, Any] = {"backend": "eager"} if dry_run else {"mode": COMPILE_MODES[name]}
    network.compile(fullgraph=True, dynamic=False, **options)
    return network


def time_provider(setting: Setting, mode: str, batch: int, provider: Provider) -> None:
    """Record the median seconds of a step, and in inference the error of the logits."""
    key = mode, batch, provider.name
    setting.attempt(*key, measure=partial(_time, setting, mode, batch, provider))


def _time(setting: Setting, mode: str, batch: int, provider: Provider) -> dict[str, Any]:
    device = setting.device
    images, labels = random_batch(batch, device)
    with (
        use_impl(provider.impl),
        cudnn_benchmark(provider.searches),
    ):
        network = provider.make(device)
        values: dict[str, Any] = {}
        step: Callable[[], object]
        if mode == "inference":
            step = infer = _inference(network, images, provider.as_commands)
            exact = exact_logits(plain_network(device), images)
            values["relative_error"] = relative_error([infer()], [exact])
        elif provider.as_commands:
            assert isinstance(network, GoogLeNet)
            step = command_training(network, images, labels)
        else:
            step = training(network, images, labels)
        replay = captured(step, device) if provider.launches == "graph" else step
        taken = seconds(replay, device, 1 if setting.dry_run else 25)
    return {**values, "seconds": taken, "images_per_second": batch / taken}


def _inference(network: nn.Module, images: Tensor, as_commands: bool) -> Callable[[], Tensor]:
    if not as_commands:
        return inference(network, images)
    assert isinstance(network, GoogLeNet)
    return command_inference(network, images)


def cudnn_benchmark(on: bool) -> AbstractContextManager[None]:
    """Return a context in which cuDNN measures its algorithms, or goes by its heuristics."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=on)
