"""The constants that predictions use: what memory, L2 cache, matrix units and launches can do."""

import json
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import triton
import triton.language as tl

from benchmarks.gpu_network import captured
from benchmarks.gpu_run.clock import seconds
from benchmarks.gpu_run.setting import Setting

BLOCK = 4096
"""fp32 values that a program reads at a time: 16 KiB."""

NODES = 1000
"""Kernels of the graph that shows the gap between two launches."""


@triton.jit
def _read(x, out, blocks, size: tl.constexpr):  # type: ignore[no-untyped-def]
    """Read all blocks of x, each program from another one on, past the L1 cache."""
    program = tl.program_id(0)
    total = tl.zeros((size,), tl.float32)
    for i in range(blocks):
        block = (i + program) % blocks
        total += tl.load(x + block * size + tl.arange(0, size), cache_modifier=".cg")
    tl.store(out + program, tl.sum(total, 0))


def run(setting: Setting) -> None:
    """Record each constant in the unit of its name."""
    for measure in (memory, l2_cache, matrix_product, launch_gap, cudnn_properties):
        setting.attempt(measure.__name__, measure=partial(measure, setting))


def memory(setting: Setting) -> dict[str, Any]:
    """Copy a buffer far larger than the L2 cache."""
    x = torch.zeros(2**16 if setting.dry_run else 2**28, device=setting.device)
    y = torch.empty_like(x)
    taken = seconds(lambda: y.copy_(x), setting.device)
    return {"tb_per_second": 2 * x.nbytes / taken / 1e12}


def l2_cache(setting: Setting) -> dict[str, Any]:
    """Read a buffer of less than the L2 cache by all multiprocessors, again and again."""
    programs, blocks = 2, 2
    if not setting.dry_run:
        card = torch.cuda.get_device_properties(0)
        programs = 4 * card.multi_processor_count
        blocks = min(32 * 2**20, card.L2_cache_size // 2) // (4 * BLOCK)
    x = torch.ones(blocks * BLOCK, device=setting.device)
    out = torch.empty(programs, device=setting.device)
    taken = seconds(lambda: _read[programs,](x, out, blocks, BLOCK), setting.device)
    assert (out == x.numel()).all(), "a program did not read everything"
    return {"tb_per_second": programs * x.nbytes / taken / 1e12, "mib": x.nbytes / 2**20}


def matrix_product(setting: Setting) -> dict[str, Any]:
    """Multiply large matrices in bf16."""
    side = 64 if setting.dry_run else 8192
    x = torch.randn(side, side, device=setting.device, dtype=torch.bfloat16)
    taken = seconds(lambda: x @ x, setting.device)
    return {"tflops": 2 * side**3 / taken / 1e12}


def launch_gap(setting: Setting) -> dict[str, Any]:
    """Replay a graph of kernels that do next to nothing."""
    x = torch.ones(1, device=setting.device)
    nodes = 10 if setting.dry_run else NODES

    def launches() -> None:
        for _ in range(nodes):
            x.neg_()

    replay = captured(launches, setting.device)
    return {"microseconds": 1e6 * seconds(replay, setting.device) / nodes}


def cudnn_properties(setting: Setting) -> dict[str, Any]:
    """Save the description of the card with which cuDNN plans graphs on machines without it."""
    if setting.dry_run or find_spec("cudnn") is None:
        return {"file": "none: nvidia-cudnn-frontend is not installed"}
    import cudnn

    text = cudnn.create_device_properties(0).serialize()
    path = setting.output / "cudnn-device-properties.json"
    path.write_text(json.dumps(json.loads(text)))
    return {"file": path.name, "cudnn": cudnn.backend_version()}
