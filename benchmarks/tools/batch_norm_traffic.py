"""Count what training with batch norm moves through memory.

    python -m benchmarks.tools.batch_norm_traffic

Runs a step of torchvision's own network and of preset `torchvision` on the CPU, and counts the
activations that each operation reads and writes. tests/cuda_emulator counts that the CUDA kernels
of batch norm move no more. Writes docs/generated/batch-norm-traffic.md.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.tools.pages import GENERATED, add_output, write
from googlenet_fast.errors import run_command
from googlenet_fast.model import GoogLeNet

BATCH, SIDE = 2, 224
"""Images of the counted step, and their height and width."""

HALF = 2
"""Bytes of an activation element on a GPU, whatever its dtype here."""

STAGES = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b", "all")
"""The blocks and the whole network."""

REPORT = GENERATED / "batch-norm-traffic.md"

aten, ours = torch.ops.aten, torch.ops.googlenet_fast
READ_TWICE: dict[Any, list[int]] = {
    aten.native_batch_norm: [0],
    aten.native_batch_norm_backward: [0, 1],
    aten.convolution_backward: [0],
    ours.conv_bias_relu_backward: [0],
}
"""Indices of arguments that an operation reads twice. PyTorch's batch norm computes statistics, or
sums, in a first pass; a convolution has two gradients. So these are two launches."""


class Moved(NamedTuple):
    """What a step moves."""

    megabytes: float
    """Per image."""
    launches: int


class Counter(TorchDispatchMode):
    """Counts what operations on activations move, without weights and per-channel values."""

    def __init__(self, index_bytes: int) -> None:
        super().__init__()
        self.index_bytes = index_bytes
        self.bytes = self.launches = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count what it reads and writes."""
        result = func(*args, **(kwargs or {}))
        packet, arguments = func.overloadpacket, func._schema.arguments
        if func.is_view or packet in (aten.detach, aten.empty, aten.empty_like):
            return result
        read = [x for i, x in enumerate(args) if not _only_its_size(packet, i)]
        named = {argument.name: x for argument, x in zip(arguments, args, strict=False)}
        two = packet in READ_TWICE and not _is_weight_gradient_alone(named)
        again = [args[i] for i in READ_TWICE.get(packet, [])] if two else []
        written = [x for x, argument in zip(args, arguments, strict=False) if argument.is_write]
        moved = sum(map(self._size, tree_leaves((read, again, written or result))))
        self.bytes += moved
        if moved:
            self.launches += 1 + two
        return result

    def _size(self, x: Any) -> int:
        if not isinstance(x, Tensor) or x.dim() != 4 or x.size(0) != BATCH:
            return 0
        return x.numel() * (HALF if x.is_floating_point() else self.index_bytes)


def _only_its_size(packet: Any, argument: int) -> bool:
    return packet == aten.max_pool2d_with_indices_backward and argument == 1


def _is_weight_gradient_alone(named: dict[str, Any]) -> bool:
    """Return True for the backward of the first convolution, whose input needs no gradient."""
    return not named.get("need_x", True) or not named.get("output_mask", [True])[0]


def step(net: nn.Module, x: Tensor, index_bytes: int) -> Moved:
    """Count the forward and backward pass of a module in training."""
    net.train()
    x.grad = None  # or the gradient would be added to it
    counter = Counter(index_bytes)
    with counter:
        outputs = net(x)
    found = outputs if isinstance(outputs, tuple) else (outputs,)
    grads = [torch.ones_like(y) for y in found]
    with counter:
        torch.autograd.backward(found, grads)
    return Moved(counter.bytes / BATCH / 1e6, counter.launches)


def rows(*names: str) -> dict[str, tuple[Moved, Moved]]:
    """Return what eager PyTorch and the preset move, by block ("3a" to "5b") or "all".

    Auxiliary heads are left out. Indices of max pools are int64 in PyTorch and one byte in the op
    `max_pool`.
    """
    import torchvision

    theirs = torchvision.models.GoogLeNet(aux_logits=False, init_weights=False)
    theirs = theirs.to(memory_format=torch.channels_last)
    fused = GoogLeNet("torchvision", aux=False)
    found = {}
    for name in names:
        if name == "all":
            modules: Sequence[Any] = (theirs, fused)
            shape = (3, SIDE, SIDE)
        else:
            modules = [net.get_submodule(f"inception{name}") for net in (theirs, fused)]
            side = {"3": 28, "4": 14, "5": 7}[name[0]]
            shape = (modules[1].project.conv.in_channels, side, side)
        x = torch.randn(BATCH, *shape).to(memory_format=torch.channels_last)
        x.requires_grad_(name != "all")
        found[name] = (step(modules[0], x, index_bytes=8), step(modules[1], x, index_bytes=1))
    return found


HEADER = """# Memory traffic of training with batch norm

Written by `python -m benchmarks.tools.batch_norm_traffic`; no GPU is needed. Preset `torchvision`
at 224x224 with 2-byte activations, forward and backward, per image, without auxiliary heads. The
loss, the optimizer, weights and per-channel values are left out. Every operation reads and writes
its tensors in memory once. Batch norm reads its inputs twice in each direction, in PyTorch and in
this package, because the statistics are a pass of their own. A launch is an operation; PyTorch's
batch norm and the gradients of convolutions are two launches each. The statistics and the sums of
this package are one launch: its last block adds up what the others stored.

*eager* is torchvision's network, *ours* the preset.

| stage | eager MB | launches | ours MB | launches | ratio |
|---|--:|--:|--:|--:|--:|
"""


def table(found: dict[str, tuple[Moved, Moved]]) -> str:
    """Return the rows of the report."""
    return "".join(
        f"| {name} | {eager.megabytes:.2f} | {eager.launches} | {fused.megabytes:.2f} |"
        f" {fused.launches} | {fused.megabytes / eager.megabytes:.2f} |\n"
        for name, (eager, fused) in found.items()
    )


def main() -> None:
    """Count and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tools.batch_norm_traffic",
        description="What training with batch norm moves through memory, per block.",
    )
    add_output(parser, REPORT)
    write(HEADER + table(rows(*STAGES)), parser.parse_args().output)


if __name__ == "__main__":
    run_command(main)
