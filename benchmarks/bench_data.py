"""Time how images on disk become training batches, and how long training waits for them."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def
from PIL import Image

from benchmarks.harness import interleave, remarks
from googlenet_fast.data import ImageDataset, Loader, LoaderOptions, build_loader
from googlenet_fast.data.loader import Kind
from googlenet_fast.data.shard_writer import Resizing, Shard, write_shard
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import distributed
from googlenet_fast.engine.run_folder import read_metrics
from googlenet_fast.engine.stop_signal import StopSignal
from googlenet_fast.engine.trainer import Trainer
from googlenet_fast.model.presets import IMAGENET_RGB

IMAGES = 256
BATCH = 32
CORES = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Write JPEGs of ImageNet's typical size: 500x375 pixels, about 100 kB."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for i in range(IMAGES):
        folder = root / str(i % 2)
        folder.mkdir(exist_ok=True)
        coarse = generator.integers(0, 256, (94, 125, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        image.save(folder / f"{i}.jpg", quality=90)
    return ImageDataset.from_folder(root)


def sharded(photos: ImageDataset, path: Path, resizing: Resizing | None) -> ImageDataset:
    """Write the photos into one tar shard."""
    locations = [photos.location(i) for i in range(len(photos))]
    write_shard(Shard(path.name, 0, locations, photos.labels), path.parent, resizing)
    return ImageDataset.from_list(path)


def loader(dataset: ImageDataset, train: bool, kind: Kind, num_workers: int) -> Loader:
    options = LoaderOptions(
        kind=kind,
        train=train,
        batch_size=BATCH,
        image_size=224,
        normalization=IMAGENET_RGB,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        num_workers=num_workers,
    )
    return build_loader(dataset, options)


def measure(title: str, loaders: dict[str, Loader], cores: int) -> None:
    """Time epochs of each loader."""
    works: dict[str, Callable[[], object]] = {
        name: partial(list, loader) for name, loader in loaders.items()
    }

    def rate(seconds: float) -> str:
        return f"{IMAGES / seconds:.0f} img/s, {IMAGES / seconds / cores:.0f} a core"

    interleave(f"data: {title}", works, repeats=5, rate=rate)


@pytest.mark.parametrize("train", [True, False])
def bench_loaders(photos: ImageDataset, train: bool) -> None:
    """Time an epoch of each loader, on as many threads or processes as there are cores.

    Target: in training, DALI is 1.4 times as fast as Pillow with torchvision's transforms.
    """
    kinds: tuple[Kind, ...] = ("pillow", "dali")
    size = sum(Path(photos.path(i)).stat().st_size for i in range(IMAGES)) / IMAGES
    measure(
        f"{'training' if train else 'evaluation'} epoch of {IMAGES} photos of "
        f"{size / 1000:.0f} kB, batches of {BATCH}",
        {kind: loader(photos, train, kind, CORES) for kind in kinds},
        CORES,
    )


def bench_shards(photos: ImageDataset, tmp_path: Path) -> None:
    """Time single files, shards, and shards resized in advance, on one thread."""
    datasets = {
        "files": photos,
        "shards": sharded(photos, tmp_path / "whole.tar", None),
        "shards, short side 256": sharded(photos, tmp_path / "256.tar", Resizing(256, 90)),
    }
    for name, dataset in datasets.items():
        sizes = [len(dataset.location(i).read()) for i in range(IMAGES)]
        remarks.append(f"{name}: {sum(sizes) / IMAGES / 1000:.0f} kB an image")
    measure(
        f"training epoch of {IMAGES} photos with DALI, one thread",
        {name: loader(dataset, True, "dali", 1) for name, dataset in datasets.items()},
        1,
    )


def bench_reading_shards(photos: ImageDataset, tmp_path: Path) -> None:
    """Time reading without decoding: random access against DALI's own sequential reader."""
    dataset = sharded(photos, tmp_path / "whole.tar", None)
    assert dataset.tar_members is not None
    members, paths = dataset.tar_members, [str(shard) for shard in dataset.tar_members.shards]
    generator = np.random.default_rng(0)

    def some_images() -> list[np.ndarray]:
        return [members.view(i) for i in generator.integers(0, IMAGES, BATCH)]

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None)
    def random_access() -> Any:
        return fn.peek_image_shape(fn.external_source(source=some_images, no_copy=True))

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None)
    def dalis_reader(shuffle: bool) -> Any:
        read: Any = fn.readers.webdataset  # its stub does not know the outputs' number
        image = read(paths=paths, ext=["jpg"], random_shuffle=shuffle, initial_fill=64)
        return fn.peek_image_shape(image)

    def read(pipeline: Any) -> None:
        for _ in range(20 * IMAGES // BATCH):
            pipeline.run()

    pipelines = {
        "fn.readers.webdataset": dalis_reader(False),
        "fn.readers.webdataset, shuffling": dalis_reader(True),
        "any order, memory-mapped": random_access(),
    }
    interleave(
        f"data: reading {20 * IMAGES} images of a shard, not decoded",
        {name: partial(read, pipeline) for name, pipeline in pipelines.items()},
    )


def bench_waiting_for_data(photos: ImageDataset, tmp_path: Path) -> None:
    """Remark on the share of 12 training steps spent waiting for images. Target: below 2 %."""
    lines = [f"{photos.files[i]} {photos.labels[i]}\n" for i in range(IMAGES)]
    (tmp_path / "list.txt").write_text("".join(lines[:: IMAGES // 96][:96]))
    config = load_config([
        "-c", "imagenet_torchvision", "--data.train_list", str(tmp_path / "list.txt"),
        "--data.root", str(photos.root), "--data.val_list", str(tmp_path / "list.txt"),
        "--data.batch_size", "8", "--data.num_workers", str(CORES), "--amp", "auto",
        "--log_interval", "4", "--output", str(tmp_path / "run"),
    ])  # fmt: skip
    with distributed(config.device) as process, StopSignal(world_size=1) as stop:
        trainer = Trainer(config, process)
        trainer.train_epoch(stop)
        trainer.close()
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]  # DALI starts in the first window
    speed, share = (
        np.median([line[key] for line in logged]) for key in ("images_per_second", "data_share")
    )
    remarks.append(f"training at {speed:.1f} img/s waits for images {share:.2%} of the time")
