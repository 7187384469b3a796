"""Convolution, bias and ReLU as one cuDNN graph that writes into a slice of a wider output."""

from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu_run.clock import seconds
from benchmarks.gpu_run.setting import Setting, SkippedError
from benchmarks.harness import relative_error
from benchmarks.network import Block, Convolution, stages


def run(setting: Setting) -> None:
    """Record the time of each spatial convolution, and of PyTorch's with its bias and ReLU."""
    if find_spec("cudnn") is None:
        raise SkippedError("nvidia-cudnn-frontend is not installed")
    if setting.dry_run:
        raise SkippedError("a dry run has no cuDNN handle")
    for conv in convolutions():
        setting.attempt(conv.name, measure=partial(_time, conv, setting.batches[0]))


def convolutions() -> list[Convolution]:
    """Return the network's 3x3 and 5x5 convolutions."""
    found: list[Convolution] = []
    for stage in stages():
        if isinstance(stage, Convolution) and stage.taps == 3:
            found.append(stage)
        elif isinstance(stage, Block):
            found += [stage.convolutions()["c3"], stage.convolutions()["c5"]]
    return found


def _time(conv: Convolution, batch: int) -> dict[str, Any]:
    import cudnn

    def half(*shape: int) -> torch.Tensor:
        x = torch.randn(shape, device="cuda", dtype=torch.float16)
        return x.contiguous(memory_format=torch.channels_last)

    x = half(batch, conv.channels, conv.side, conv.side)
    w = half(conv.outputs, conv.channels, conv.taps, conv.taps) / conv.channels**0.5
    bias = half(1, conv.outputs, 1, 1)
    wide = half(batch, 2 * conv.outputs, conv.side, conv.side)
    y = wide[:, conv.outputs :]
    pad = [conv.taps // 2] * 2
    handle = cudnn.create_handle()
    cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
    graph = cudnn.pygraph(
        handle=handle,
        io_data_type=cudnn.data_type.HALF,
        intermediate_data_type=cudnn.data_type.FLOAT,
        compute_data_type=cudnn.data_type.FLOAT,
    )
    inputs = [graph.tensor_like(tensor) for tensor in (x, w, bias)]
    product = graph.conv_fprop(
        image=inputs[0], weight=inputs[1], padding=pad, stride=[1, 1], dilation=[1, 1]
    )
    output = graph.relu(input=graph.bias(input=product, bias=inputs[2]))
    output.set_output(True).set_data_type(cudnn.data_type.HALF)
    output.set_dim(list(y.shape)).set_stride(list(y.stride()))
    graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    workspace = torch.empty(graph.get_workspace_size(), device="cuda", dtype=torch.uint8)
    tensors = {**dict(zip(inputs, (x, w, bias), strict=True)), output: y}
    taken = seconds(lambda: graph.execute(tensors, workspace, handle=handle), "cuda")
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        plain = seconds(lambda: F.relu(F.conv2d(x, w, bias.flatten(), padding=pad)), "cuda")
        exact = F.relu(F.conv2d(x.float(), w.float(), bias.flatten().float(), padding=pad))
    return {
        "microseconds": 1e6 * taken,
        "pytorch_microseconds": 1e6 * plain,
        "relative_error": relative_error([y], [exact]),
    }
