"""GoogLeNet for inference alone, with copies of the weights that nothing can change."""

import copy
from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast import extension
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import folding
from googlenet_fast.model.googlenet import GoogLeNet
from googlenet_fast.model.inception import Inception
from googlenet_fast.model.layers import NORMS, Conv, geometry, has_hooks
from googlenet_fast.model.presets import Preset
from googlenet_fast.ops import (
    bias_relu_pool,
    conv_bias_relu,
    inception,
    pack_inception,
    pack_weight,
)
from googlenet_fast.ops.packed_weights import can_pack


class Frozen:
    """A network that owns copies of its weights: packed for CPU kernels, or cast for a GPU.

    Batch norm is folded in, parametrizations are evaluated. Later writes to the model it was made
    from have no effect, so no call checks for them. Any number of threads may call it. It cannot be
    copied or pickled: `freeze` makes another.
    """

    def __init__(self, network: GoogLeNet) -> None:
        self._network = network

    @property
    def preset(self) -> Preset:
        """The network's preset: the normalisation of its input and the sizes it takes."""
        return self._network.preset

    @property
    def num_classes(self) -> int:
        """Length of the logits; 0 without a classifier."""
        weight = getattr(self._network.fc, "weight", None)
        return 0 if weight is None else weight.size(0)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return logits, (N, num_classes).

        Args:
            images: (N, 3, H, W), on the device of the weights, normalised as the preset says;
                fastest in channels_last.

        Raises:
            GoogLeNetError: the preset does not take images of this size.
        """
        return self._network(images)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the output of the last block, (N, 1024, H / 32, W / 32)."""
        return self._network.forward_features(images)

    @torch.no_grad()
    def head(self, features: Tensor) -> Tensor:
        """Return the logits of `features`, (N, num_classes)."""
        return self._network.forward_head(features)

    @property
    def classifier_weight(self) -> Tensor:
        """Weight of the last layer, (num_classes, 1024)."""
        return self._network.fc.weight


@torch.inference_mode(False)
@torch.no_grad()
def freeze(model: GoogLeNet, dtype: torch.dtype | None = None) -> Frozen:
    """Return a network for inference with copies of a model's weights.

    Args:
        model: in training or inference mode; it stays as it is.
        dtype: of the weights on a GPU, to be called under autocast to it; None: as they are. On
            CPUs they stay as they are: the kernels multiply bf16 images by fp32 weights.

    Raises:
        GoogLeNetError: a layer has hooks or a type that the copy could not reproduce; names it.
    """
    for name, module in model.named_modules():
        if has_hooks(module) and not name.startswith("aux"):
            raise GoogLeNetError(
                f"cannot freeze {name or 'the network'}: it has hooks; remove them"
            )
    network = copy.copy(model)
    modules = {
        name: None if name.startswith("aux") else _leaf(name, module, dtype)
        for name, module in model.named_children()
    }
    network.__dict__ |= {"_modules": modules, "training": False, "aux": False}
    return Frozen(network)


def _leaf(name: str, module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    if type(module) is Inception:
        convs = {f"{name}.{child}": conv for child, conv in module.named_children()}
        return _FrozenInception(
            [p for child, conv in convs.items() for p in _folded(child, conv, dtype)],
            module.reduce_relu,
        )
    if type(module) is Conv:
        return _FrozenConv(module, *_folded(name, module, dtype))
    if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
        bias = None if module.bias is None else _copy(module.bias, dtype)
        return _FrozenLinear(_copy(module.weight, dtype), bias)
    if next(module.parameters(), None) is not None:
        raise _refusal(name, module)
    return copy.deepcopy(module).eval()


def _folded(name: str, conv: nn.Module, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
    """Copy weight and bias of a convolution, batch norm folded in."""
    if type(conv) is not Conv:
        raise _refusal(name, conv)
    inner, bn = conv.conv, conv.bn
    if type(inner).forward is not nn.Conv2d.forward or geometry(inner) != conv.geometry:
        raise _refusal(f"{name}.conv", inner)
    weight: Tensor = inner.weight
    bias = inner.bias
    if bn is not None:
        if (
            type(bn) not in NORMS
            or bn.weight is None
            or bn.running_mean is None
            or bias is not None
        ):
            raise _refusal(f"{name}.bn", bn)
        weight, bias = folding.fold((weight, *folding.sources(bn)), bn.eps)
    return _copy(weight, dtype), None if bias is None else bias.detach().clone()


def _copy(weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    copied = weight.detach().clone()
    return copied if dtype is None or copied.device.type == "cpu" else copied.to(dtype)


def _refusal(name: str, module: nn.Module) -> GoogLeNetError:
    return GoogLeNetError(
        f"cannot freeze {name}: {type(module).__name__} is not a layer of GoogLeNet as it was built"
    )


class _PackedByTile:
    """Packed weights for each Winograd tile; entries are made under a lock and never replaced."""

    def __init__(self, pack: Callable[[int, int], list[Tensor]]) -> None:
        self._pack = pack
        self._entries: dict[tuple[int, ...], list[Tensor]] = {}
        self._lock = Lock()

    def get(self, weights: list[Tensor], height: int, width: int) -> list[Tensor]:
        """Return the packed weights for images of a size, nothing where kernels take none.

        Args:
            weights: of the convolutions that the tile depends on.
            height: of the images.
            width: of the images.
        """
        if not can_pack(weights):
            return []
        tile = tuple(extension.tile_points(height, width, w.size(2), w.size(1)) for w in weights)
        packed = self._entries.get(tile)
        if packed is None:
            with self._lock:
                packed = self._entries.get(tile) or self._pack(height, width)
                self._entries[tile] = packed
        return packed


class _FrozenConv(nn.Module):
    def __init__(self, conv: Conv, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.relu, self.stride = conv.relu, conv.conv.stride[0]
        self._packed = _PackedByTile(lambda *size: [pack_weight(weight, *size)])

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.bias, self.relu)

    def pooled(self, x: Tensor, ceil_mode: bool) -> Tensor:
        y = self._convolve(x, None, False)
        return bias_relu_pool(y, self.bias, relu=self.relu, ceil_mode=ceil_mode)

    def _convolve(self, x: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        packed = self._packed.get([self.weight], x.size(2), x.size(3))
        return conv_bias_relu(x, self.weight, bias, relu, self.stride, packed)


class _FrozenInception(nn.Module):
    def __init__(self, parameters: list[Any], reduce_relu: bool) -> None:
        """Take weights and biases in turn, in the order of the op's arguments."""
        super().__init__()
        self.values, self.reduce_relu = parameters, reduce_relu
        weights = parameters[::2]
        self.spatial = weights[1:3]
        self._packed = _PackedByTile(lambda *size: pack_inception(weights, *size))

    def forward(self, x: Tensor) -> Tensor:
        packed = self._packed.get(self.spatial, x.size(2), x.size(3))
        arguments: list[Any] = [x, *self.values, self.reduce_relu, packed]
        return inception(*arguments)


class _FrozenLinear(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)
