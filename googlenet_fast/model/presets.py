"""The three published GoogLeNets as options of one implementation."""

from dataclasses import dataclass
from typing import Literal

from googlenet_fast.choices import Initialization
from googlenet_fast.errors import GoogLeNetError

MIN_SIZE = 64
"""Smallest input side in pixels; below it the last blocks have no pixel left."""

_SEARCH_LIMIT = 1024
"""Largest side in pixels that is tried to list the sizes that auxiliary heads accept."""


@dataclass(frozen=True)
class Normalization:
    """How pixels become network input: `(pixel - mean) / std`, channels in `channel_order`.

    `mean` and `std` are in 0..255 units and follow `channel_order`.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: Literal["RGB", "BGR"]


CAFFE_BGR = Normalization((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), "BGR")
"""ImageNet mean of the BVLC reference model."""

IMAGENET_RGB = Normalization(
    (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255), "RGB"
)
"""ImageNet mean and standard deviation of torchvision and PaddleClas."""


@dataclass(frozen=True)
class Preset:
    """Options in which the published GoogLeNets differ."""

    name: str
    conv_bias: bool
    """Convolutions have a bias."""
    batch_norm: bool
    """Batch normalisation (eps 1e-3) between each convolution and its ReLU."""
    conv_relu: bool
    """ReLU after every convolution; False: only on each Inception block's output."""
    branch3_kernel: int
    """Kernel side of the "5x5" branch."""
    lrn: bool
    """Local response normalisation (5, 1e-4, 0.75) in the stem."""
    ceil_mode: bool
    """Stride-2 pools round their output size up."""
    last_pool: int
    """Kernel side of the stride-2 pool after block 4e."""
    aux_grid: int
    """Side of the pooled grid that the auxiliary heads' first linear layer takes."""
    aux_adaptive: bool
    """Auxiliary heads pool adaptively to their grid; False: 5x5 average pool, stride 3."""
    aux_fc_relu: tuple[bool, bool]
    """ReLU after the first fully connected layer of auxiliary head 1 and 2."""
    dropout: float
    """Dropout probability before the classifier."""
    aux_dropout: float
    """Dropout probability before the auxiliary classifiers."""
    downscale_in_infer: bool
    """Dropout does not scale in training and multiplies by 1 - p in inference."""
    initialization: Initialization
    normalization: Normalization

    def check_input_size(self, size: int | tuple[int, int], aux: bool) -> None:
        """Check that the network accepts images of `size` pixels, a side or (H, W).

        Raises:
            GoogLeNetError: a side is too small, or does not give the grid of the auxiliary heads.
        """
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < MIN_SIZE:
            raise GoogLeNetError(
                f"image size {height}x{width}: preset {self.name} takes {MIN_SIZE} pixels a side"
                " or more"
            )
        if aux and not (self._aux_takes(height) and self._aux_takes(width)):
            sides = [side for side in range(MIN_SIZE, _SEARCH_LIMIT) if self._aux_takes(side)]
            raise GoogLeNetError(
                f"image size {height}x{width}: preset {self.name} with auxiliary heads takes"
                f" {sides[0]} to {sides[-1]} pixels a side; choose such a size, switch the"
                " auxiliary heads off, or use preset torchvision"
            )

    def _aux_takes(self, side: int) -> bool:
        """Return True if the heads get their grid from images with this side in pixels."""
        if self.aux_adaptive:
            return True
        side = (side - 1) // 2 + 1
        for _ in range(3):
            side = self._pooled(side)
        return (side - 5) // 3 + 1 == self.aux_grid

    def _pooled(self, side: int) -> int:
        """Output side of a 3x3/2 pool without padding."""
        return (side - 3 + self.ceil_mode) // 2 + 1


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="paper",
            conv_bias=True,
            batch_norm=False,
            conv_relu=True,
            branch3_kernel=5,
            lrn=True,
            ceil_mode=True,
            last_pool=3,
            aux_grid=4,
            aux_adaptive=False,
            aux_fc_relu=(True, True),
            dropout=0.4,
            aux_dropout=0.7,
            downscale_in_infer=False,
            initialization="caffe",
            normalization=CAFFE_BGR,
        ),
        Preset(
            name="paddleclas",
            conv_bias=False,
            batch_norm=False,
            conv_relu=False,
            branch3_kernel=5,
            lrn=False,
            ceil_mode=False,
            last_pool=3,
            aux_grid=3,
            aux_adaptive=False,
            aux_fc_relu=(True, False),
            dropout=0.4,
            aux_dropout=0.7,
            downscale_in_infer=True,
            initialization="he",
            normalization=IMAGENET_RGB,
        ),
        Preset(
            name="torchvision",
            conv_bias=False,
            batch_norm=True,
            conv_relu=True,
            branch3_kernel=3,
            lrn=False,
            ceil_mode=True,
            last_pool=2,
            aux_grid=4,
            aux_adaptive=True,
            aux_fc_relu=(True, True),
            dropout=0.2,
            aux_dropout=0.7,
            downscale_in_infer=False,
            initialization="torchvision",
            normalization=IMAGENET_RGB,
        ),
    )
}
"""Name -> preset: `paper` (Szegedy et al. 2014 as BVLC Caffe trained it, with the paper's auxiliary
heads), `paddleclas` (PaddleClas's GoogLeNet) and `torchvision` (torchvision's GoogLeNet)."""


def get_preset(name: str) -> Preset:
    """Return the preset called `name`.

    Raises:
        GoogLeNetError: there is no such preset.
    """
    if name not in PRESETS:
        raise GoogLeNetError(f"preset {name!r}: there is none; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
