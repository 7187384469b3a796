"""Every backend of every op against the reference in float64, in fp16, bf16 and fp32.

Several processes compile kernels at the same time.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any

import torch

import googlenet_fast.ops  # noqa: F401  (defines the ops)
from benchmarks.gpu_run.setting import Setting
from googlenet_fast.registry import OPS, Backend, Call, Op
from googlenet_fast.selfcheck.accuracy import check_backend, dtype_name
from googlenet_fast.selfcheck.cases import activations, resized

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

PROCESSES = 8
"""At most, one for two cores; each has a context on the card."""

INTERPRETED_SIDE = 5
"""Largest height and width of images for Triton's interpreter."""


def run(setting: Setting) -> None:
    """Record the largest relative error of each backend in each dtype, or how it is wrong."""
    cases = list(product(DTYPES, OPS))
    if setting.dry_run:
        for dtype, name in cases:
            check(setting, dtype, name)
        return
    processes = max(1, min(PROCESSES, len(os.sched_getaffinity(0)) // 2))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(check, setting), *zip(*cases, strict=True)))


def check(setting: Setting, dtype: torch.dtype, name: str) -> None:
    """Check the backends of an op in a dtype."""
    op = OPS[name]
    for backend in op.on(setting.device):
        # The interpreter's product of bf16 is wrong.
        if not (setting.dry_run and backend.name == "triton" and dtype == torch.bfloat16):
            key = name, backend.name, dtype_name(dtype)
            setting.attempt(*key, measure=partial(_check, setting, dtype, op, backend))


def _check(setting: Setting, dtype: torch.dtype, op: Op, backend: Backend) -> dict[str, Any]:
    samples = list(op.samples())
    if setting.dry_run:
        samples = samples[:1]
        if backend.name == "triton":
            samples = list(map(_small, samples))
    found = check_backend(op, backend, setting.device, samples, [dtype])
    if found.failure is not None:
        return {"failure": found.failure}
    if found.reason is not None:
        return {"unsupported": found.reason}
    return {"relative_error": found.errors.get(dtype_name(dtype))}


def _small(call: Call) -> Call:
    _, _, height, width = activations(call)[0]
    return resized(call, 1, (min(height, INTERPRETED_SIDE), min(width, INTERPRETED_SIDE)))
