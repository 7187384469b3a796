"""The network as a backbone: the outputs of several blocks, for detection or segmentation."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.googlenet import GoogLeNet


class FeatureInfo(NamedTuple):
    """A layer whose output is a feature map."""

    module: str
    """Name of the layer in the network."""
    num_chs: int
    """Channels."""
    reduction: int
    """Height and width of the images over those of the map, which are rounded."""


FEATURES = (
    FeatureInfo("conv1", 64, 2),
    FeatureInfo("conv3", 192, 4),
    FeatureInfo("inception3b", 480, 8),
    FeatureInfo("inception4e", 832, 16),
    FeatureInfo("inception5b", 1024, 32),
)
"""The last layer at each resolution, before the pool that follows it."""


class FeatureMaps(nn.Module):
    """Return the outputs of a network's blocks, as timm's `features_only=True`.

    Args:
        network: usually `GoogLeNet(num_classes=0)` with loaded weights. It is trained with this
            module, and keeps its state dict.
        out_indices: of the maps in `FEATURES`; negative ones count from the end.

    Raises:
        GoogLeNetError: there is no such map.
    """

    def __init__(self, network: GoogLeNet, out_indices: Sequence[int] = (0, 1, 2, 3, 4)) -> None:
        super().__init__()
        for index in out_indices:
            if not -len(FEATURES) <= index < len(FEATURES):
                raise GoogLeNetError(f"out_indices {index}: choose from 0 to {len(FEATURES) - 1}")
        self.network = network
        self.feature_info = tuple(FEATURES[index] for index in out_indices)
        """Name, channels and reduction of each map."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps, (N, num_chs, about H / reduction, about W / reduction), channels_last.

        Args:
            x: (N, 3, H, W), as for the network.
        """
        names = [info.module for info in self.feature_info]
        _, kept = self.network.run_blocks(x, names)
        return [kept[name] for name in names]
