"""GoogLeNet (Inception v1), Szegedy et al. 2014, https://arxiv.org/abs/1409.4842."""

from dataclasses import replace
from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_fast.choices import Initialization
from googlenet_fast.errors import UserError
from googlenet_fast.model.aux_head import AuxHead
from googlenet_fast.model.inception import Inception, Widths
from googlenet_fast.model.initialization import initialize_layer
from googlenet_fast.model.layers import Conv, Dropout
from googlenet_fast.model.presets import IMAGENET_RGB, get_preset
from googlenet_fast.ops import bias_relu_pool, local_response_norm
from googlenet_fast.ops.common import channels_last


class GoogLeNetOutputs(NamedTuple):
    """Logits (N, num_classes) of the classifier and of the heads after blocks 4a and 4d."""

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
        num_classes: length of the logits.
        aux: build the two auxiliary heads, which run in training only.
        dropout: probability before the classifier instead of the preset's.
        lrn: local response normalisation in the stem, instead of what the preset says.
        init: rule of the random initial weights, instead of the preset's.
        transform_input: convert ImageNet-normalised input to (pixel / 255 - 0.5) / 0.5 first, as
            torchvision's pretrained weights expect.

    Raises:
        UserError: there is no such preset or rule, or `num_classes` or `dropout` is out of range.
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
        if num_classes < 1:
            raise UserError(f"num_classes {num_classes}: choose 1 or more")
        if dropout is not None and not 0 <= dropout <= 1:
            raise UserError(f"dropout {dropout}: choose a probability from 0 to 1")
        if init not in (None, *get_args(Initialization)):
            raise UserError(f"init {init!r}: choose from {', '.join(get_args(Initialization))}")
        published = get_preset(preset)
        self.preset = replace(
            published,
            dropout=published.dropout if dropout is None else dropout,
            lrn=published.lrn if lrn is None else lrn,
            initialization=init or published.initialization,
        )
        self.num_classes = num_classes
        self.aux = aux
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
        self.dropout = Dropout(self.preset.dropout, self.preset.downscale_in_infer)
        self.fc = nn.Linear(1024, num_classes)

        self.initialize("")

    def classifiers(self) -> dict[str, nn.Linear]:
        """Return the layers that depend on `num_classes`, by name."""
        heads = {"aux1": self.aux1, "aux2": self.aux2}
        classifiers = {f"{name}.fc2": head.fc2 for name, head in heads.items() if head is not None}
        return {**classifiers, "fc": self.fc}

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
            Logits (N, num_classes); in training with auxiliary heads all three logits.

        Raises:
            UserError: the preset does not take images of this size, or `torch.jit.trace` would
                record autograd functions.
        """
        if torch.jit.is_tracing() and torch.is_grad_enabled():
            raise UserError(
                "torch.jit.trace cannot record gradients: call it under torch.no_grad(), or write "
                "a file that needs no googlenet_fast (googlenet-fast export WEIGHTS model.pt2)"
            )
        features, after_4a, after_4d = self._blocks(x)
        logits = self.forward_head(features)
        if not self.training or self.aux1 is None or self.aux2 is None:
            return logits
        return GoogLeNetOutputs(logits, self.aux1(after_4a), self.aux2(after_4d))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the output of the last block, (N, 1024, H / 32, W / 32), for `forward_head`.

        Takes what `forward` takes.
        """
        return self._blocks(x)[0]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (N, num_classes) of `forward_features`.

        Args:
            features: (N, 1024, h, w).
            pre_logits: return the classifier's input instead, (N, 1024): the means over all pixels.
        """
        # Over an NHWC view, so that the gradient is channels_last.
        means = features.permute(0, 2, 3, 1).mean((1, 2))
        return means if pre_logits else self.fc(self.dropout(means))

    def _blocks(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs of the last block and of those that the auxiliary heads read."""
        if x.ndim != 4 or x.size(1) != 3:
            raise UserError(f"input of shape {tuple(x.shape)}: expected (N, 3, H, W)")
        self.preset.check_input_size((x.size(2), x.size(3)), self.training and self.aux)
        if self.transform_input:
            x = to_half_range(x)
        x = self._stem(channels_last(x))
        x = self.inception3b(self.inception3a(x))
        after_4a = self.inception4a(self._pool(x))
        after_4d = self.inception4d(self.inception4c(self.inception4b(after_4a)))
        x = self._last_pool(self.inception4e(after_4d))
        return self.inception5b(self.inception5a(x)), after_4a, after_4d

    def _stem(self, x: Tensor) -> Tensor:
        ceil_mode = self.preset.ceil_mode
        x = self.conv1.pooled(x, ceil_mode)
        if not self.preset.lrn:
            return self.conv3.pooled(self.conv2(x), ceil_mode)
        x = self.conv3(self.conv2(local_response_norm(x)))
        return self._pool(local_response_norm(x))

    def _pool(self, x: Tensor) -> Tensor:
        return bias_relu_pool(x, relu=False, ceil_mode=self.preset.ceil_mode)

    def _last_pool(self, x: Tensor) -> Tensor:
        if self.preset.last_pool == 3:
            return self._pool(x)
        return F.max_pool2d(x, self.preset.last_pool, 2, ceil_mode=self.preset.ceil_mode)


def to_half_range(x: Tensor) -> Tensor:
    """Convert ImageNet-normalised (N, 3, H, W) to (pixel / 255 - 0.5) / 0.5."""
    channels = [
        channel * (std / 255 / 0.5) + (mean / 255 - 0.5) / 0.5
        for channel, mean, std in zip(
            x.split(1, dim=1), IMAGENET_RGB.mean, IMAGENET_RGB.std, strict=True
        )
    ]
    return torch.cat(channels, dim=1)
