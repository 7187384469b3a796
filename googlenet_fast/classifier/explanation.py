"""Which parts of an image speak for a class: Grad-CAM."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from googlenet_fast.extras import require

OPACITY = 0.5
"""Of the colours over the photo."""


@dataclass(frozen=True)
class Explanation:
    """Where a network sees a class."""

    index: int
    label: str
    heat: Tensor
    """(S, S) fp32 from 0 to 1, for each pixel of the square that the network saw."""
    photo: Image.Image
    """That square."""

    @property
    def overlay(self) -> Image.Image:
        """The photo under the heat's colours, red where the network sees the class.

        Raises:
            GoogLeNetError: matplotlib is not installed.
        """
        require("colours of an explanation", "matplotlib")
        from matplotlib import colormaps

        colors = colormaps["turbo"](self.heat.numpy())[:, :, :3]
        heat = Image.fromarray((255 * colors).astype(np.uint8))
        return Image.blend(self.photo, heat, OPACITY)


def class_activation(features: Tensor, weight: Tensor, size: int) -> Tensor:
    """Return where a class is seen, (size, size) from 0 to 1.

    The logit is a linear function of the features' means, so the gradient in Grad-CAM is the
    classifier's weight, and the map is that of CAM (Selvaraju et al. 2017, section 3.1).

    Args:
        features: of the last block, (1024, h, w).
        weight: of the class, (1024,).
        size: side of the image, in pixels.
    """
    seen = torch.einsum("chw,c->hw", features.float(), weight.float()).relu()
    heat = F.interpolate(seen[None, None], (size, size), mode="bilinear")[0, 0]
    return heat / heat.max().clamp_min(torch.finfo(heat.dtype).tiny)
