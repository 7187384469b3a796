"""GoogLeNet as users of PyTorch write it: layer by layer, without this package's ops.

It is what `torch.compile` and the fused network are compared with on a user's machine.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast.model.aux_head import AuxHead
from googlenet_fast.model.googlenet import GoogLeNet, GoogLeNetOutputs, to_half_range
from googlenet_fast.model.inception import Inception
from googlenet_fast.model.layers import Conv


class Plain(nn.Module):
    """Compute a network by PyTorch's own ops, with its weights, in its mode.

    Each branch's convolution is a call of its own, on its rows of what the network stores as one.

    Args:
        network: keeps the weights and the statistics of batch norm, which training updates.

    Raises:
        TypeError: batch norm takes the statistics of several processes.
    """

    def __init__(self, network: GoogLeNet) -> None:
        super().__init__()
        if any(isinstance(module, nn.SyncBatchNorm) for module in network.modules()):
            raise TypeError("plain PyTorch does not share synchronised batch norms")
        self.network = network

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutputs:
        """Return what the network returns for images (N, 3, H, W)."""
        network, preset = self.network, self.network.preset
        if network.transform_input:
            x = to_half_range(x)
        x = x.contiguous(memory_format=torch.channels_last)
        x = _pool(_conv(network.conv1, x), preset.ceil_mode)
        if preset.lrn:
            x = self.response_norm(x)
        x = _conv(network.conv3, _conv(network.conv2, x))
        if preset.lrn:
            x = self.response_norm(x)
        x = self._block(network.inception3a, _pool(x, preset.ceil_mode))
        x = _pool(self._block(network.inception3b, x), preset.ceil_mode)
        after_4a = x = self._block(network.inception4a, x)
        x = self._block(network.inception4c, self._block(network.inception4b, x))
        after_4d = x = self._block(network.inception4d, x)
        x = _pool(self._block(network.inception4e, x), preset.ceil_mode, preset.last_pool)
        x = self._block(network.inception5b, self._block(network.inception5a, x))
        logits = network.fc(network.dropout(self.means(x)))
        if not network.training or network.aux1 is None or network.aux2 is None:
            return logits
        aux1, aux2 = _head(network.aux1, after_4a), _head(network.aux2, after_4d)
        return GoogLeNetOutputs(logits, aux1, aux2)

    def response_norm(self, x: Tensor) -> Tensor:
        """Return the local response normalisation of `x`, of its shape."""
        return F.local_response_norm(x, 5, 1e-4, 0.75, 1.0)

    def siblings(self, block: Inception, x: Tensor) -> list[Tensor]:
        """Return the outputs of the 1x1 convolutions that read a block's input `x`."""
        return _stacked(block, x)

    def means(self, x: Tensor) -> Tensor:
        """Return the mean over all pixels, (N, C)."""
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def _block(self, block: Inception, x: Tensor) -> Tensor:
        branches = self.siblings(block, x)
        branches[1] = _conv(block.conv3, branches[1])
        branches[2] = _conv(block.conv5, branches[2])
        branches.append(_conv(block.project, F.max_pool2d(x, 3, 1, 1)))
        y = torch.cat(branches, 1)
        return y if block.project.relu else F.relu(y, inplace=True)


def _conv(layer: Conv, x: Tensor) -> Tensor:
    x = layer.conv(x)
    if layer.bn is not None:
        x = layer.bn(x)
    return F.relu(x, inplace=True) if layer.relu else x


def _pool(x: Tensor, ceil_mode: bool, kernel: int = 3) -> Tensor:
    return F.max_pool2d(x, kernel, 2, ceil_mode=ceil_mode)


def _stacked(block: Inception, x: Tensor) -> list[Tensor]:
    """Compute the 1x1 convolutions that the block stores as one, each on its own."""
    layer, sizes = block.conv_in, block.stacked
    bias, bn = layer.conv.bias, layer.bn
    biases = [None] * len(sizes) if bias is None else list(bias.split(sizes))
    weights = layer.conv.weight.split(sizes)
    results = [F.conv2d(x, w, b) for w, b in zip(weights, biases, strict=True)]
    if bn is not None:
        assert bn.running_mean is not None
        assert bn.running_var is not None
        assert bn.num_batches_tracked is not None
        if bn.training:
            bn.num_batches_tracked.add_(1)
        tensors = (bn.running_mean, bn.running_var, bn.weight, bn.bias)
        norms = zip(*(tensor.split(sizes) for tensor in tensors), strict=True)
        results = [
            F.batch_norm(y, mean, var, weight, shift, bn.training, bn.momentum or 0.0, bn.eps)
            for y, (mean, var, weight, shift) in zip(results, norms, strict=True)
        ]
    return [F.relu(y, inplace=True) for y in results] if layer.relu else results


def _head(head: AuxHead, x: Tensor) -> Tensor:
    x = F.adaptive_avg_pool2d(x, head.grid) if head.adaptive else F.avg_pool2d(x, 5, 3)
    x = head.fc1(_conv(head.conv, x).flatten(1))
    if head.fc_relu:
        x = F.relu(x, inplace=True)
    return head.fc2(head.dropout(x))
