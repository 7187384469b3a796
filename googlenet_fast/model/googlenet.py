"""GoogLeNet (Inception v1), Szegedy et al. 2014, https://arxiv.org/abs/1409.4842."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast.choices import Initialization
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.aux_head import AuxHead
from googlenet_fast.model.inception import Inception, Widths
from googlenet_fast.model.initialization import initialize_layer
from googlenet_fast.model.layers import Conv, Dropout
from googlenet_fast.model.presets import IMAGENET_RGB, get_preset
from googlenet_fast.ops import bias_relu_pool, local_response_norm
from googlenet_fast.ops.common import channels_last

torch.fx.wrap("bias_relu_pool")  # nodes of their own in a symbolic trace
torch.fx.wrap("local_response_norm")

BLOCKS = (
    "inception3a", "inception3b", "inception4a", "inception4b", "inception4c", "inception4d",
    "inception4e", "inception5a", "inception5b",
)  # fmt: skip
"""The Inception blocks in the order in which they run."""


class GoogLeNetOutputs(NamedTuple):
    """Logits (N, num_classes) of the classifier and of the heads after blocks 4a and 4d.

    The order is that of the blocks. torchvision's outputs of training are `(logits, aux_logits2,
    aux_logits1)`: use the names, or swap the last two when you unpack.
    """

    logits: Tensor
    aux1: Tensor
    aux2: Tensor


class GoogLeNet(nn.Module):
    """GoogLeNet in one of its published forms.

    Convolution weights and activations are channels_last. State dicts have the keys of
    torchvision's GoogLeNet (and `.conv.bias` where the preset has such biases, no `.bn.` where it
    has no batch normalisation).

    Args:
        preset: `paper`, `paddleclas` or `torchvision`.
        num_classes: length of the logits. 0 builds no classifier, dropout or auxiliary heads: the
            network returns its features, (N, 1024), the means over all pixels.
        aux: build the two auxiliary heads, which run in training only.
        dropout: probability before the classifier instead of the preset's.
        lrn: local response normalisation in the stem, instead of what the preset says.
        init: rule of the random initial weights, instead of the preset's.
        transform_input: convert ImageNet-normalised input to (pixel / 255 - 0.5) / 0.5 first, as
            torchvision's pretrained weights expect.

    Raises:
        GoogLeNetError: there is no such preset or rule, or `num_classes` or `dropout` is out of
            range.
    """

    def __init__(
        self,
        preset: str = "paper",
        num_classes: int = 1000,
        *,
        aux: bool = True,
        dropout: float | None = None,
        lrn: bool | None = None,
        init: Initialization | None = None,
        transform_input: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 0:
            raise GoogLeNetError(f"num_classes {num_classes}: choose 1 or more, or 0 for features")
        if dropout is not None and not 0 <= dropout <= 1:
            raise GoogLeNetError(f"dropout {dropout}: choose a probability from 0 to 1")
        if init not in (None, *get_args(Initialization)):
            raise GoogLeNetError(
                f"init {init!r}: choose from {', '.join(get_args(Initialization))}"
            )
        published = get_preset(preset)
        self.preset = replace(
            published,
            dropout=published.dropout if dropout is None else dropout,
            lrn=published.lrn if lrn is None else lrn,
            initialization=init or published.initialization,
        )
        self.num_classes = num_classes
        self.aux = aux = aux and num_classes > 0
        self.transform_input = transform_input

        self.conv1 = Conv(self.preset, 3, 64, 7, stride=2)
        self.conv2 = Conv(self.preset, 64, 64, 1)
        self.conv3 = Conv(self.preset, 64, 192, 3)
        self.inception3a = Inception(self.preset, 192, Widths(64, 96, 128, 16, 32, 32))
        self.inception3b = Inception(self.preset, 256, Widths(128, 128, 192, 32, 96, 64))
        self.inception4a = Inception(self.preset, 480, Widths(192, 96, 208, 16, 48, 64))
        self.inception4b = Inception(self.preset, 512, Widths(160, 112, 224, 24, 64, 64))
        self.inception4c = Inception(self.preset, 512, Widths(128, 128, 256, 24, 64, 64))
        self.inception4d = Inception(self.preset, 512, Widths(112, 144, 288, 32, 64, 64))
        self.inception4e = Inception(self.preset, 528, Widths(256, 160, 320, 32, 128, 128))
        self.inception5a = Inception(self.preset, 832, Widths(256, 160, 320, 32, 128, 128))
        self.inception5b = Inception(self.preset, 832, Widths(384, 192, 384, 48, 128, 128))
        relu1, relu2 = self.preset.aux_fc_relu
        self.aux1 = AuxHead(self.preset, 512, num_classes, relu1) if aux else None
        self.aux2 = AuxHead(self.preset, 528, num_classes, relu2) if aux else None
        self.dropout: Any = nn.Identity()
        self.fc: Any = nn.Identity()
        if num_classes > 0:
            self.dropout = Dropout(self.preset.dropout, self.preset.downscale_in_infer)
            self.fc = nn.Linear(1024, num_classes)

        self.initialize("")

    def classifiers(self) -> dict[str, nn.Linear]:
        """Return the layers that depend on `num_classes`, by name."""
        heads = {"aux1": self.aux1, "aux2": self.aux2}
        classifiers = {f"{name}.fc2": head.fc2 for name, head in heads.items() if head is not None}
        return {**classifiers, "fc": self.fc} if self.num_classes > 0 else {}

    def initialize(self, *names: str) -> None:
        """Give the submodules called `names` (`""`: the whole network) fresh random weights."""
        classifiers = set(self.classifiers().values())
        for name in names:
            for layer in self.get_submodule(name).modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.reset_parameters()
                elif isinstance(layer, nn.Conv2d | nn.Linear):
                    scheme = self.preset.initialization
                    initialize_layer(layer, scheme, classifier=layer in classifiers)

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutputs:
        """Classify images.

        Args:
            x: (N, 3, H, W), normalised as `preset.normalization` says; fastest in channels_last.

        Returns:
            Logits (N, num_classes), or features (N, 1024) without a classifier; in training with
            auxiliary heads all three logits, as `GoogLeNetOutputs`.

        Raises:
            GoogLeNetError: the preset does not take images of this size, or `torch.jit.trace` would
                record autograd functions.
        """
        if torch.jit.is_tracing() and torch.is_grad_enabled():
            raise GoogLeNetError(
                "torch.jit.trace cannot record gradients: call it under torch.no_grad(), or write "
                "a file that needs no googlenet_fast (googlenet-fast export WEIGHTS model.pt2)"
            )
        features, kept = self.run_blocks(x, ("inception4a", "inception4d"))
        logits = self.forward_head(features)
        if not self.training or self.aux1 is None or self.aux2 is None:
            return logits
        aux1, aux2 = self.aux1(kept["inception4a"]), self.aux2(kept["inception4d"])
        return GoogLeNetOutputs(logits, aux1, aux2)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the output of the last block, (N, 1024, H / 32, W / 32), for `forward_head`.

        Takes what `forward` takes.
        """
        return self.run_blocks(x)[0]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (N, num_classes) of `forward_features`.

        Args:
            features: (N, 1024, h, w).
            pre_logits: return the classifier's input instead, (N, 1024): the means over all pixels.
        """
        # Over an NHWC view, so that the gradient is channels_last.
        means = features.permute(0, 2, 3, 1).mean((1, 2))
        return means if pre_logits else self.fc(self.dropout(means))

    def run_blocks(self, x: Tensor, keep: Collection[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the output of the last block, and those of the layers called `keep`.

        Args:
            x: as for `forward`.
            keep: names in `BLOCKS`, and `conv1` and `conv3`, before the pools that follow them.

        Raises:
            GoogLeNetError: the preset does not take images of this size.
        """
        if isinstance(x, Tensor):  # not a symbol of torch.fx, which has no size
            if x.ndim != 4 or x.size(1) != 3:
                raise GoogLeNetError(f"input of shape {tuple(x.shape)}: expected (N, 3, H, W)")
            self.preset.check_input_size((x.size(2), x.size(3)), self.training and self.aux)
        if self.transform_input:
            x = to_half_range(x)
        kept: dict[str, Tensor] = {}
        x = self._stem(channels_last(x), keep, kept)
        for name in BLOCKS:
            if name == "inception4a":
                x = self._pool(x)
            elif name == "inception5a":
                x = self._last_pool(x)
            x = getattr(self, name)(x)
            if name in keep:
                kept[name] = x
        return x, kept

    def _stem(self, x: Tensor, keep: Collection[str], kept: dict[str, Tensor]) -> Tensor:
        ceil_mode = self.preset.ceil_mode
        if "conv1" in keep:
            kept["conv1"] = x = self.conv1(x)
            x = self._pool(x)
        else:
            x = self.conv1.pooled(x, ceil_mode)
        x = self.conv2(local_response_norm(x) if self.preset.lrn else x)
        if not self.preset.lrn and "conv3" not in keep:
            return self.conv3.pooled(x, ceil_mode)
        x = self.conv3(x)
        if "conv3" in keep:
            kept["conv3"] = x
        return self._pool(local_response_norm(x) if self.preset.lrn else x)

    def _pool(self, x: Tensor) -> Tensor:
        return bias_relu_pool(x, relu=False, ceil_mode=self.preset.ceil_mode)

    def _last_pool(self, x: Tensor) -> Tensor:
        if self.preset.last_pool == 3:
            return self._pool(x)
        return F.max_pool2d(x, self.preset.last_pool, 2, ceil_mode=self.preset.ceil_mode)


def to_half_range(x: Tensor) -> Tensor:
    """Convert ImageNet-normalised (N, 3, H, W) to (pixel / 255 - 0.5) / 0.5."""
    red, green, blue = x.split(1, dim=1)
    channels = [
        channel * (std / 255 / 0.5) + (mean / 255 - 0.5) / 0.5
        for channel, mean, std in zip(
            (red, green, blue), IMAGENET_RGB.mean, IMAGENET_RGB.std, strict=True
        )
    ]
    return torch.cat(channels, dim=1)
