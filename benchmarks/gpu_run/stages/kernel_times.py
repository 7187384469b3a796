"""Where the time of a captured step goes, by name of kernel."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_network import (
    captured,
    inference,
    package_network,
    plain_network,
    random_batch,
    training,
)
from benchmarks.gpu_run.setting import Setting
from benchmarks.gpu_run.stages.networks import MODES, choose_backends, cudnn_benchmark

STEPS = 5
"""Replays of a profile."""

PROVIDERS = (("this package", package_network), ("PyTorch", plain_network))


def run(setting: Setting) -> None:
    """Record the launches and the microseconds of each kernel in a step."""
    batch = setting.batches[0]
    choose_backends(setting, batch)
    for mode in reversed(MODES):
        for name, make in PROVIDERS[: 1 if setting.dry_run else None]:
            setting.attempt(
                *(mode, batch, name), measure=partial(_profile, setting, mode, batch, make)
            )


def _profile(setting: Setting, mode: str, batch: int, make: Callable[[str], Any]) -> dict[str, Any]:
    device = setting.device
    images, labels = random_batch(batch, device)
    with cudnn_benchmark(True):
        network = make(device)
        step = training(network, images, labels) if mode == "training" else None
        replay = captured(step or inference(network, images), device)
        replay()
        activity = ProfilerActivity.CPU if setting.dry_run else ProfilerActivity.CUDA
        with profile(activities=[activity]) as found:
            for _ in range(1 if setting.dry_run else STEPS):
                replay()
    kernels = [
        {
            "name": event.key,
            "launches": event.count / STEPS,
            "microseconds": _microseconds(event, setting.dry_run) / STEPS,
        }
        for event in found.key_averages()
        if _microseconds(event, setting.dry_run) > 0
    ]
    kernels.sort(key=lambda kernel: -kernel["microseconds"])
    return {
        "launches": sum(kernel["launches"] for kernel in kernels),
        "microseconds": sum(kernel["microseconds"] for kernel in kernels),
        "kernels": kernels,
    }


def _microseconds(event: Any, dry_run: bool) -> float:
    return event.self_cpu_time_total if dry_run else event.self_device_time_total
