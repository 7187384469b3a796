"""The Inception block: four branches side by side, their outputs concatenated.

Convolutions that read the block's input with a 1x1 kernel (branch 1 and the reductions of
branches 2 and 3) are stored as one, so that one GEMM does them all. State dicts have torchvision's
keys; hooks split and merge what is stored as one.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
import torch.fx
from torch import Tensor, nn

from googlenet_fast import extension
from googlenet_fast.model import folding
from googlenet_fast.model.layers import Conv, Packed, Path, group_of, path_of
from googlenet_fast.model.presets import Preset
from googlenet_fast.ops import (
    concat_bias_relu,
    inception,
    inception_bn,
    max_pool,
    pack_inception,
)
from googlenet_fast.ops.packed_weights import PackedWeights, can_pack

torch.fx.wrap("concat_bias_relu")  # nodes of their own in a symbolic trace
torch.fx.wrap("max_pool")


class Widths(NamedTuple):
    """Output channels of a block's convolutions, named as in Szegedy et al. 2014, table 1."""

    c1: int
    c3_reduce: int
    c3: int
    c5_reduce: int
    c5: int
    pool_project: int

    @property
    def out_channels(self) -> int:
        """Channels of the block's output."""
        return self.c1 + self.c3 + self.c5 + self.pool_project


class Inception(nn.Module):
    """One Inception block: (N, in_channels, H, W) -> (N, widths.out_channels, H, W)."""

    def __init__(self, preset: Preset, in_channels: int, widths: Widths) -> None:
        super().__init__()
        self.stacked = (widths.c1, widths.c3_reduce, widths.c5_reduce)
        self.conv_in = Conv(preset, in_channels, sum(self.stacked), 1)
        self.conv3 = Conv(preset, widths.c3_reduce, widths.c3, 3)
        self.conv5 = Conv(preset, widths.c5_reduce, widths.c5, preset.branch3_kernel)
        self.project = Conv(preset, in_channels, widths.pool_project, 1)
        self.reduce_relu = preset.conv_relu
        self._packed: PackedWeights[Packed] = PackedWeights()
        # The names of torch before 2.5, which later ones keep beside those without underscore.
        self._register_state_dict_hook(_split_on_save)
        self._register_load_state_dict_pre_hook(_merge_on_load, with_module=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the concatenated branches after ReLU; channels_last in and out."""
        convs = (self.conv_in, self.conv3, self.conv5, self.project)
        path = path_of(convs, x)
        if path is Path.WEIGHTS:
            parameters, packed = self._inference_weights(x, convs)
            arguments: list[Any] = [x, *parameters, self.reduce_relu, packed]
            return inception(*arguments)
        if path is Path.COMPOSED:
            y1, r3, r5 = self.conv_in(x).split(self.stacked, dim=1)
            branches = [y1, self.conv3(r3), self.conv5(r5), self.project(max_pool(x))]
            return concat_bias_relu(branches)
        w_in, w3, w5, wp = (conv.conv.weight for conv in convs)
        norms: list[Any] = [conv.bn for conv in convs]
        return inception_bn(x, w_in, w3, w5, wp, norms, group_of(norms[0]))

    def _inference_weights(
        self, x: Tensor, convs: Sequence[Conv]
    ) -> tuple[Sequence[Any], Sequence[Tensor]]:
        """Return weights and biases in turn, batch norm folded in, and packed weights."""
        height, width = x.shape[2:]
        sources: list[Tensor] = []
        parameters: list[Any] = []
        eps: list[float] = []
        for conv in convs:
            sources.append(conv.conv.weight)
            parameters += (conv.conv.weight, conv.conv.bias)
            if conv.bn is not None:
                sources += folding.sources(conv.bn)
                eps.append(conv.bn.eps)
        if not can_pack(sources):
            return [p for conv in convs for p in conv.folded()], ()
        (_, c3r, taps3, _), (_, c5r, taps5, _) = parameters[2].shape, parameters[4].shape
        tiles = [
            extension.tile_points(height, width, taps3, c3r),
            extension.tile_points(height, width, taps5, c5r),
        ]

        def pack(copies: Sequence[Tensor]) -> Packed:
            if not eps:
                return (), pack_inception(copies, height, width)
            folded: list[Tensor] = []
            for i, e in enumerate(eps):
                folded += folding.fold(copies[5 * i : 5 * i + 5], e)
            return folded, pack_inception(folded[::2], height, width)

        folded, packed = self._packed.get(sources, (tiles, eps), pack)
        return folded or parameters, packed

    def state_dict_names(self) -> Iterator[tuple[str, str, slice | None]]:
        """Yield each tensor's name in a state dict, its own name, and its rows there (None: all).

        The order is that of torchvision's block.
        """
        ends = list(accumulate(self.stacked))
        rows = [slice(end - size, end) for end, size in zip(ends, self.stacked, strict=True)]
        modules: list[tuple[str, str, slice | None]] = [
            ("branch1", "conv_in", rows[0]),
            ("branch2.0", "conv_in", rows[1]),
            ("branch2.1", "conv3", None),
            ("branch3.0", "conv_in", rows[2]),
            ("branch3.1", "conv5", None),
            ("branch4.1", "project", None),
        ]
        for theirs, ours, part in modules:
            for name, tensor in _tensors(self.get_submodule(ours)):
                stacked = tensor.ndim > 0 and tensor.size(0) == ends[-1]
                yield f"{theirs}.{name}", f"{ours}.{name}", part if stacked else None


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(), module.named_buffers())


def _split_on_save(
    block: Inception, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict[str, Any]
) -> None:
    """Replace a block's own entries by views of them under torchvision's names."""
    own = {name: state_dict.pop(prefix + name) for name, _ in _tensors(block)}
    for theirs, ours, rows in block.state_dict_names():
        state_dict[prefix + theirs] = own[ours] if rows is None else own[ours][rows]


def _merge_on_load(
    block: Inception,
    state_dict: dict[str, Tensor],
    prefix: str,
    local_metadata: dict[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Replace torchvision's entries by the block's own; what cannot be used keeps its value.

    Problems are reported here, under the names that the state dict has.
    """
    own = {name: tensor.detach() for name, tensor in _tensors(block)}
    parts = defaultdict(list)
    for theirs, ours, rows in block.state_dict_names():
        key, current = prefix + theirs, own[ours] if rows is None else own[ours][rows]
        value = state_dict.pop(key, None)
        if value is None:
            missing_keys.append(key)
        elif value.shape != current.shape:
            error_msgs.append(
                f"size mismatch for {key}: {tuple(value.shape)} in the state dict,"
                f" {tuple(current.shape)} in the model"
            )
            value = None
        parts[ours].append(current if value is None else value)
    for ours, tensors in parts.items():
        whole = len(tensors) == 1 or own[ours].shape == tensors[0].shape
        state_dict[prefix + ours] = (
            tensors[0] if whole else torch.cat([part.to(tensors[0].device) for part in tensors])
        )
