"""Images to load."""

import numpy as np
import pytest
from PIL import Image

from googlenet_fast.data import ImageDataset

SIZES = [(90, 70), (64, 64), (71, 133), (200, 31), (40, 45), (300, 203), (33, 180), (97, 96)]


def smooth_image(size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """A random image without the noise that decoders would differ about."""
    coarse = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """24 photos of many shapes in 3 classes."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng()
    for i in range(24):
        folder = root / f"class {i % 3}"
        folder.mkdir(exist_ok=True)
        smooth_image(SIZES[i % len(SIZES)], generator).save(folder / f"{i}.jpg", quality=95)
    return ImageDataset.from_folder(root)
