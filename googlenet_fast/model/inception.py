"""The Inception block: four branches side by side, their outputs concatenated.

Convolutions that read the block's input with a 1x1 kernel (branch 1 and the reductions of
branches 2 and 3) are stored as one, so that one GEMM does them all. State dicts have torchvision's
keys; hooks split and merge what is stored as one.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast.model.kept import Kept
from googlenet_fast.model.layers import Conv, group_of
from googlenet_fast.model.presets import Preset
from googlenet_fast.ops import (
    concat_bias_relu,
    inception,
    inception_bn,
    max_pool,
    prepare_inception,
)
from googlenet_fast.ops.prepared import tile_points


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
        self.siblings = (widths.c1, widths.c3_reduce, widths.c5_reduce)
        self.conv_in = Conv(preset, in_channels, sum(self.siblings), 1)
        self.conv3 = Conv(preset, widths.c3_reduce, widths.c3, 3)
        self.conv5 = Conv(preset, widths.c5_reduce, widths.c5, preset.branch3_kernel)
        self.project = Conv(preset, in_channels, widths.pool_project, 1)
        self.reduce_relu = preset.conv_relu
        self._prepared: Kept[list[Tensor]] = Kept()
        self.register_state_dict_post_hook(_split_on_save)
        self.register_load_state_dict_pre_hook(_merge_on_load)

    def train(self, mode: bool = True) -> "Inception":
        """Switch between training and inference."""
        self._prepared.forget()
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Return the concatenated branches after ReLU; channels_last in and out."""
        convs = (self.conv_in, self.conv3, self.conv5, self.project)
        if all(conv.normalizes for conv in convs):
            return self._forward_training(x)
        if any(conv.normalizes for conv in convs):
            return self._forward_batch_norm(x)
        (w_in, b_in), (w3, b3), (w5, b5), (wp, bp) = (conv.parameters_folded() for conv in convs)
        weights, size = (w_in, w3, w5, wp), x.shape[2:]
        prepared = self._prepared.later(
            weights,
            partial(prepare_inception, *weights, *size),
            lambda: tuple(tile_points(*w.shape[1:3], *size) for w in (w3, w5)),
        )
        return inception(x, w_in, b_in, w3, b3, w5, b5, wp, bp, self.reduce_relu, prepared)

    def _forward_training(self, x: Tensor) -> Tensor:
        """With the statistics of the batch in all layers."""
        norms = [conv.norm for conv in (self.conv_in, self.conv3, self.conv5, self.project)]
        siblings, projected = self.conv_in.raw(x), self.project.raw(max_pool(x))
        w3, w5 = self.conv3.conv.weight, self.conv5.conv.weight
        return inception_bn(siblings, projected, w3, w5, norms, group_of(norms[0]))

    def _forward_batch_norm(self, x: Tensor) -> Tensor:
        """With each layer as it is: some of them may be frozen."""
        y1, r3, r5 = self.conv_in.unclipped(x).split(self.siblings, dim=1)
        y3 = self.conv3.unclipped(F.relu(r3))
        y5 = self.conv5.unclipped(F.relu(r5))
        yp = self.project.unclipped(max_pool(x))
        return concat_bias_relu([y1, y3, y5, yp])

    def state_dict_names(self) -> Iterator[tuple[str, str, slice | None]]:
        """Yield each tensor's name in a state dict, its own name, and its rows there (None: all).

        The order is that of torchvision's block.
        """
        ends = list(accumulate(self.siblings))
        rows = [slice(end - size, end) for end, size in zip(ends, self.siblings, strict=True)]
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
                yield f"{theirs}.{name}", f"{ours}.{name}", part if tensor.ndim else None


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
        whole = len(tensors) == 1 or own[ours].ndim == 0
        state_dict[prefix + ours] = (
            tensors[0] if whole else torch.cat([part.to(tensors[0].device) for part in tensors])
        )
