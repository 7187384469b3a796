"""The network as plain ops of PyTorch, ready to be traced into a file."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast.model.googlenet import GoogLeNet
from googlenet_fast.model.inception import Inception
from googlenet_fast.model.layers import Conv
from googlenet_fast.model.plain import Plain
from googlenet_fast.model.presets import Normalization

INPUT, BATCH = "images", "N"
"""Names of the input and of its batch dimension."""


class Graph(nn.Module):
    """A network for inference as it is written to a file.

    Args:
        model: without auxiliary heads, in inference mode; it stays as it is.
        image_size: side of the images, in pixels.
        normalization: put in front of the network, with a softmax behind it; None: neither.
    """

    def __init__(
        self, model: GoogLeNet, image_size: int, normalization: Normalization | None
    ) -> None:
        super().__init__()
        self.network = _Unfused(_without_batch_norm(model))
        self.normalize = None if normalization is None else _Normalize(normalization)
        self.image_size = image_size
        self.eval()

    @property
    def output(self) -> str:
        """Name of the output."""
        return "logits" if self.normalize is None else "probabilities"

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of normalised images (N, 3, S, S) fp32.

        With normalisation inside: probabilities of images (N, S, S, 3), uint8 in RGB.
        """
        if self.normalize is None:
            return self.network(images)
        return self.network(self.normalize(images)).softmax(1)

    def example(self) -> Tensor:
        """Return an input to trace with. Its batch is not 1, which tracers take for a constant."""
        side, device = self.image_size, next(self.parameters()).device
        if self.normalize is None:
            return torch.zeros(2, 3, side, side, device=device)
        return torch.zeros(2, side, side, 3, dtype=torch.uint8, device=device)

    def traced(self) -> torch.export.ExportedProgram:
        """Return the graph for any number of images."""
        batch = torch.export.Dim(BATCH, min=1)
        with torch.no_grad():
            program = torch.export.export(self, (self.example(),), dynamic_shapes=({0: batch},))
        for node in list(program.graph.nodes):
            if node.target is torch.ops.aten._assert_tensor_metadata.default:
                program.graph.erase_node(node)  # it would tie the file to this device
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
                node.meta.pop(key, None)  # paths and names of the sources it was traced from
        program.graph_module.recompile()
        return program


class _Normalize(nn.Module):
    """Turn 8-bit images (N, H, W, 3) in RGB into the network's input."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.is_bgr = normalization.channel_order == "BGR"
        self.register_buffer("mean", torch.tensor(normalization.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(normalization.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2)
        if self.is_bgr:
            x = x.flip(1)
        return (x.float() - self.mean) / self.std


class _Unfused(Plain):
    """The network by PyTorch's ops, for tracing: no weight is computed from another."""

    def siblings(self, block: Inception, x: Tensor) -> list[Tensor]:
        y = block.conv_in.conv(x)
        y = F.relu(y) if block.conv_in.relu else y
        return list(y.split(block.stacked, 1))

    def means(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))  # the pool is traced with the strides of its result

    def response_norm(self, x: Tensor) -> Tensor:
        if not torch.onnx.is_in_onnx_export():
            return super().response_norm(x)
        # PyTorch spells it in eight ops. ONNX has it as one, which also divides alpha by the size.
        attributes: dict[str, Any] = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
        return torch.onnx.ops.symbolic("LRN", (x,), attributes, dtype=x.dtype, shape=x.shape)


def _without_batch_norm(model: GoogLeNet) -> GoogLeNet:
    """Return a copy whose convolutions include batch norm in inference."""
    folded = copy.deepcopy(model).eval()
    for layer in folded.modules():
        if isinstance(layer, Conv) and layer.bn is not None:
            weight, bias = layer.folded()
            assert bias is not None
            layer.conv.weight, layer.conv.bias = nn.Parameter(weight), nn.Parameter(bias)
            layer.bn = None
    for parameter in folded.parameters():
        parameter.data = parameter.data.contiguous()  # files have no channels_last
    return folded.requires_grad_(False)
