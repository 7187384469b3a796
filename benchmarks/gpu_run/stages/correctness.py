"""Every backend of every op against the reference in float64, in fp16, bf16 and fp32.

Kernels are compiled by several threads at once; Triton's interpreter knows one only.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

import googlenet_fast.ops  # noqa: F401  (defines the ops)
from benchmarks.gpu_run.setting import Setting
from googlenet_fast.registry import OPS, Backend, Call, Op
from googlenet_fast.selfcheck.accuracy import check_backend, dtype_name
from googlenet_fast.selfcheck.cases import activations, resized

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

INTERPRETED_SIDE = 5
"""Largest height and width in a dry run."""

Case = tuple[Op, Backend, torch.dtype]


def run(setting: Setting) -> None:
    """Record the largest relative error of each backend in each dtype, or how it is wrong."""

    def check(case: Case) -> None:
        op, backend, dtype = case
        key = op.name, backend.name, dtype_name(dtype)
        setting.attempt(*key, measure=partial(_check, case, setting))

    threads = 1 if setting.dry_run else os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(check, _cases(setting)))


def _cases(setting: Setting) -> Iterator[Case]:
    for dtype in DTYPES:
        for op in OPS.values():
            for backend in op.on(setting.device):
                # The interpreter's product of bf16 is wrong.
                if not (setting.dry_run and backend.name == "triton" and dtype == torch.bfloat16):
                    yield op, backend, dtype


def _check(case: Case, setting: Setting) -> dict[str, Any]:
    op, backend, dtype = case
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
