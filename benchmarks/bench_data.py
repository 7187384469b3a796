"""How fast the loaders turn photos on disk into training batches."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.harness import interleave
from googlenet_fast.data import ImageDataset, build_loader
from googlenet_fast.model.presets import IMAGENET_RGB

IMAGES = 256
BATCH = 32


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """JPEGs of ImageNet's typical size (500x375) and about its number of bytes (100 kB)."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for i in range(IMAGES):
        folder = root / str(i % 2)
        folder.mkdir(exist_ok=True)
        coarse = generator.integers(0, 256, (94, 125, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        image.save(folder / f"{i}.jpg", quality=90)
    return ImageDataset.from_folder(root)


@pytest.mark.parametrize("train", [True, False])
def bench_loaders(photos: ImageDataset, train: bool) -> None:
    """An epoch of each loader, on as many threads or processes as there are cores."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaders = {
        kind: build_loader(
            photos,
            kind=kind,
            train=train,
            batch_size=BATCH,
            image_size=224,
            normalization=IMAGENET_RGB,
            device=device,
            num_workers=os.cpu_count() or 1,
        )
        for kind in ("torchvision", "dali")
    }
    size = sum(Path(photos.path(i)).stat().st_size for i in range(len(photos))) / len(photos)
    measured = interleave(
        f"data: {'training' if train else 'evaluation'} epoch of {IMAGES} photos of "
        f"{size / 1000:.0f} kB, batches of {BATCH}",
        {kind: partial(list, loader) for kind, loader in loaders.items()},
        repeats=5,
    )
    for kind, measurement in measured.items():
        print(f"  {kind:28} {1000 * IMAGES / measurement.p50:.0f} img/s")
