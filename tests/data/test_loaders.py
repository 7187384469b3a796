import dataclasses
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from googlenet_fast.data import (
    Augmentation,
    ImageDataset,
    Loader,
    LoaderOptions,
    build_loader,
    open_splits,
)
from googlenet_fast.data.gpu_decoding import gpu_decoding
from googlenet_fast.data.loader import Kind
from googlenet_fast.data.pillow_loader import _Reader
from googlenet_fast.data.reading import decode
from googlenet_fast.data.sampling import FLIP, BatchSampler, crop_window
from googlenet_fast.data.scan_damage import dali_decoder
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.presets import CAFFE_BGR, IMAGENET_RGB, Normalization
from tests.data.conftest import smooth_image
from tests.data.odd_images import readable_images

transforms = pytest.importorskip("torchvision.transforms.v2")

GREY_LEVELS = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "RGB")
"""Pixels as they are, so that differences read as grey levels of 0..255."""

KINDS: tuple[Kind, ...] = ("dali", "pillow")
Make = Callable[..., Loader]
Batch = tuple[Tensor, Tensor]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, photos: ImageDataset) -> Make:
    """Makes loaders of one kind, by default small training batches of the photos."""
    if request.param == "dali":
        pytest.importorskip("nvidia.dali")

    def build(dataset: ImageDataset = photos, **options: Any) -> Loader:
        defaults = {
            "train": True,
            "batch_size": 4,
            "image_size": 48,
            "normalization": GREY_LEVELS,
            "num_workers": 0,
            "seed": 3,
        }
        return build_loader(dataset, LoaderOptions(kind=request.param, **{**defaults, **options}))

    return build


def both(dataset: ImageDataset, **options: Any) -> tuple[Loader, Loader]:
    """The same loader on DALI and on Pillow."""
    pytest.importorskip("nvidia.dali")
    dali, other = (
        build_loader(dataset, LoaderOptions(kind=kind, num_workers=0, **options)) for kind in KINDS
    )
    return dali, other


def epoch(loader: Loader, number: int, images_seen: int = 0) -> list[Batch]:
    loader.set_epoch(number, images_seen)
    return list(loader)


def assert_same(batches: list[Batch], expected: list[Batch]) -> None:
    assert len(batches) == len(expected)
    for (images, labels), (expected_images, expected_labels) in zip(batches, expected, strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("train", [True, False])
def test_batches_have_the_promised_form(make: Make, train: bool, dtype: torch.dtype) -> None:
    loader = make(train=train, dtype=dtype, batch_size=5, normalization=IMAGENET_RGB)
    batches = list(loader)
    assert len(batches) == len(loader) == (4 if train else 5)
    assert [len(labels) for _, labels in batches] == [5] * 4 + ([] if train else [4])
    for images, labels in batches:
        assert images.shape == (len(labels), 3, 48, 48)
        assert images.dtype == dtype
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64
        assert images.abs().max() <= 3
    if not train:
        assert torch.cat([labels for _, labels in batches]).tolist() == [0] * 8 + [1] * 8 + [2] * 8


@pytest.mark.parametrize("resize_size", [48, 55, 60, None])
def test_evaluation_is_torchvisions_transform(
    make: Make, photos: ImageDataset, resize_size: int | None
) -> None:
    transform = transforms.Compose(
        [
            transforms.Resize(resize_size or 55),
            transforms.CenterCrop(48),
            transforms.PILToTensor(),
        ]
    )
    images = torch.cat([images for images, _ in make(train=False, resize_size=resize_size)])
    for index, ours in enumerate(images):
        with Image.open(photos.path(index)) as image:
            expected = transform(image).float()
        difference = (ours - expected).abs()
        assert difference.mean() < 0.6, f"{image.size}"
        assert difference.max() <= 4


def test_both_loaders_cut_the_same_training_windows(photos: ImageDataset) -> None:
    loaders = both(
        photos, train=True, batch_size=8, image_size=48, normalization=GREY_LEVELS, seed=8
    )
    for number in range(3):
        for (ours, labels), (theirs, their_labels) in zip(
            *(epoch(loader, number) for loader in loaders), strict=True
        ):
            assert torch.equal(labels, their_labels)
            difference = (ours - theirs).abs().mean(dim=(1, 2, 3))
            assert difference.max() < 3  # a window off by a pixel or a missed flip differs by more


def test_normalization(make: Make) -> None:
    (plain, _), *_ = make(train=False)
    (bgr, _), *_ = make(train=False, normalization=CAFFE_BGR)
    (rgb, _), *_ = make(train=False, normalization=IMAGENET_RGB)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_RGB.mean, IMAGENET_RGB.std))
    torch.testing.assert_close(rgb, (plain - mean) / std, rtol=0, atol=1e-4)
    mean = torch.tensor(CAFFE_BGR.mean).view(3, 1, 1)
    torch.testing.assert_close(bgr, plain.flip(1) - mean, rtol=0, atol=1e-4)


def test_augmentation_can_be_switched_off(make: Make) -> None:
    upright = Augmentation(area=(1.0, 1.0), aspect_ratio=(1.0, 1.0), flip=0.0)
    seen = [make(augmentation=upright, seed=s, batch_size=24) for s in (1, 2)]
    (first, first_labels), (second, second_labels) = (next(iter(loader)) for loader in seen)
    assert first_labels.tolist() != second_labels.tolist()
    squares = [image for image in first if any(torch.equal(image, other) for other in second)]
    assert len(squares) >= 3  # the 64x64 photos: the others' windows are placed at random


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_resumed_in_the_middle_is_bit_exact(make: Make, num_workers: int) -> None:
    whole = epoch(make(num_workers=num_workers), 2)
    assert_same(epoch(make(num_workers=num_workers), 2, images_seen=16), whole[4:])


def test_an_epoch_left_early_does_not_show_in_the_next(make: Make) -> None:
    expected = epoch(make(), 1)
    loader = make()
    for step, _ in enumerate(loader):
        if step == 1:
            break
    assert_same(epoch(loader, 1), expected)
    assert_same(epoch(loader, 1), expected)


def test_epochs_differ(make: Make) -> None:
    loader = make()
    (first, _), *_ = epoch(loader, 0)
    (second, _), *_ = epoch(loader, 1)
    assert not torch.equal(first, second)


def test_batches_outlive_the_ones_after_them(make: Make) -> None:
    kept = epoch(make(), 0)
    copies = [(images.clone(), labels.clone()) for images, labels in kept]
    epoch(make(), 1)
    assert_same(kept, copies)
    loader = make()
    for (images, labels), copy in zip(loader, copies, strict=True):
        time.sleep(0.01)  # the loader reads ahead meanwhile
        assert_same([(images, labels)], [copy])


def test_workers_change_nothing(make: Make) -> None:
    assert_same(epoch(make(num_workers=2), 0), epoch(make(num_workers=1), 0))


def test_two_ranks_see_what_one_sees_alone(make: Make) -> None:
    alone = epoch(make(batch_size=8), 1)
    ranks = [epoch(make(batch_size=4, rank=rank, world_size=2), 1) for rank in (0, 1)]
    together = [
        (torch.cat([a, b]), torch.cat([labels_a, labels_b]))
        for (a, labels_a), (b, labels_b) in zip(*ranks, strict=True)
    ]
    assert_same(together, alone)


def test_evaluation_ranks_share_the_images(make: Make) -> None:
    images = [
        torch.cat([images for images, _ in make(train=False, rank=rank, world_size=5)])
        for rank in range(5)
    ]
    assert [len(part) for part in images] == [5, 5, 5, 5, 4]
    (whole, _), *_ = make(train=False, batch_size=24)
    for rank, part in enumerate(images):
        assert torch.equal(part, whole[rank::5])


def test_a_rank_without_images_to_evaluate(make: Make, photos: ImageDataset) -> None:
    loader = make(photos.subset(np.array([0])), train=False, rank=1, world_size=2)
    assert len(loader) == 0
    assert list(loader) == []


@pytest.mark.filterwarnings("ignore")
def test_both_loaders_cut_the_same_windows_from_odd_files(tmp_path: Path) -> None:
    files = readable_images()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    dataset = ImageDataset(tmp_path, list(files), np.arange(len(files)), tuple(files), tmp_path)
    loaders = both(
        dataset, train=True, batch_size=len(files), image_size=48, normalization=GREY_LEVELS
    )
    for number in range(2):
        (ours, labels), (theirs, _) = (next(iter(epoch(loader, number))) for loader in loaders)
        for image, other, label in zip(ours, theirs, labels, strict=True):
            assert (image - other).abs().mean() < 3, dataset.files[label]


def test_grey_images_become_three_channels(make: Make, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    values = np.random.default_rng().integers(0, 256, (60, 80), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "x" / "grey.jpg")
    ((images, _),) = make(ImageDataset.from_folder(tmp_path), train=False)
    assert images.std() > 1
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])


@pytest.fixture
def damaged(photos: ImageDataset, tmp_path: Path) -> ImageDataset:
    """The photos, of which one is cut off half-way."""
    root = tmp_path / "damaged"
    shutil.copytree(photos.root, root)
    victim = root / photos.files[13]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    return dataclasses.replace(photos, root=root, source=root)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_file_is_named(
    make: Make, damaged: ImageDataset, train: bool, num_workers: int
) -> None:
    loader = make(damaged, train=train, num_workers=num_workers)
    with pytest.raises(GoogLeNetError, match="cannot be read as an image") as error:
        list(loader)
    assert str(error.value).startswith(f"{damaged.path(13)}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"no image at all"])
def test_files_that_vanished_or_hold_no_image_are_named(
    make: Make, damaged: ImageDataset, content: bytes | None
) -> None:
    victim = Path(damaged.path(13))
    if content is None:
        victim.unlink()
    else:
        victim.write_bytes(content)
    with pytest.raises(GoogLeNetError, match="cannot be read as an image") as error:
        list(make(damaged, train=False))
    assert str(error.value).startswith(f"{victim}: ")


def test_a_loader_goes_on_after_the_file_was_repaired(
    make: Make, photos: ImageDataset, damaged: ImageDataset
) -> None:
    loader = make(damaged, train=False)
    with pytest.raises(GoogLeNetError):
        list(loader)
    shutil.copy(photos.path(13), damaged.path(13))
    assert_same(list(loader), list(make(photos, train=False)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_process_ends_with_one_line_and_status_2(damaged: ImageDataset, kind: str) -> None:
    program = f"""
from googlenet_fast.data import ImageDataset, LoaderOptions, build_loader
from googlenet_fast.errors import run_command
from googlenet_fast.model.presets import IMAGENET_RGB
def main():
    dataset = ImageDataset.from_folder({str(damaged.root)!r})
    options = LoaderOptions(train=True, kind={kind!r}, batch_size=4, image_size=48,
                            normalization=IMAGENET_RGB, num_workers=2)
    list(build_loader(dataset, options))
run_command(main)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 2
    *_, last = ended.stderr.splitlines()
    assert last.startswith(f"error: {damaged.path(13)}: cannot be read")
    assert "Traceback" not in ended.stderr


def test_a_classifier_agrees_on_digits_read_by_either_loader() -> None:
    train, val = open_splits()
    options: dict[str, Any] = {
        "train": False, "batch_size": 128, "image_size": 64, "normalization": IMAGENET_RGB,
        "resize_size": 72,
    }  # fmt: skip
    images, labels = zip(*both(train, **options)[1], strict=True)
    pixels, targets = torch.cat(images), torch.cat(labels)
    centroids = torch.stack([pixels[targets == c].mean(0) for c in range(10)]).flatten(1)
    predictions = []
    for loader in both(val, **options):
        seen = torch.cat([images for images, _ in loader]).flatten(1)
        predictions.append(torch.cdist(seen, centroids).argmin(1))
    truth = torch.from_numpy(val.labels)
    assert (predictions[0] == truth).float().mean() > 0.8
    assert (predictions[0] != predictions[1]).float().mean() <= 0.01


def textured_photos(root: Path, count: int) -> ImageDataset:
    """JPEGs of the size and spectrum of photos: noise whose amplitude falls as 1/frequency."""
    generator = np.random.default_rng(0)
    height, width = 375, 500
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(x, y), 1 / width)
    for i in range(count):
        spectrum = amplitude * np.exp(2j * np.pi * generator.random(amplitude.shape))
        grey = np.fft.irfft2(spectrum, (height, width))
        colour = np.asarray(smooth_image((width, height), generator), np.float32)
        pixels = colour / 2 + 64 + 32 * (grey / grey.std())[..., None]
        photo = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        photo.save(root / f"{i}.jpg", quality=90)
    files = [f"{i}.jpg" for i in range(count)]
    return ImageDataset(root, files, np.arange(count), tuple(files), root)


@pytest.mark.parametrize("source", ["made", "photos"])
def test_photos_agree_between_the_loaders(
    source: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if source == "made":
        dataset = textured_photos(tmp_path, 12)
    else:
        shared_data = request.getfixturevalue("shared_data")
        dataset = ImageDataset.from_list(shared_data / "dali_jpeg47" / "image_list.txt")
    for train in (True, False):
        loaders = both(
            dataset, train=train, batch_size=12, image_size=224, normalization=GREY_LEVELS
        )
        for (ours, labels), (theirs, their_labels) in zip(*loaders, strict=True):
            assert torch.equal(labels, their_labels)
            assert (ours - theirs).abs().mean(dim=(1, 2, 3)).max() < 0.5


def test_workers_do_not_touch_what_their_parent_left_behind(photos: ImageDataset) -> None:
    """They crashed in the destructor of an abandoned DALI pipeline."""
    pytest.importorskip("nvidia.dali")
    code = f"""
        import gc
        from googlenet_fast.data import ImageDataset, LoaderOptions, build_loader
        from googlenet_fast.data.pillow_loader import _Reader
        from tests.data.test_loaders import GREY_LEVELS

        read = _Reader._read

        def collect_and_read(*arguments):
            if gc.get_freeze_count() == 0:  # the first time in this worker
                gc.collect()
                gc.freeze()
            return read(*arguments)

        def loader(kind):
            options = LoaderOptions(
                kind=kind, train=True, batch_size=4, image_size=48, normalization=GREY_LEVELS,
                num_workers=2,
            )
            return build_loader(photos, options)

        gc.disable()
        photos = ImageDataset.from_folder({str(photos.root)!r})
        batches = iter(loader("dali"))
        next(batches)
        abandoned = [batches]
        abandoned.append(abandoned)
        del batches, abandoned
        _Reader._read = collect_and_read
        assert len(list(loader("pillow"))) == 6
    """
    # In a process of its own, so that a crash is this test's failure and shows its stack.
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.returncode == 0, run.stderr


class TestSynthetic:
    def test_the_same_batch_at_each_step(self, photos: ImageDataset) -> None:
        loader = build_loader(
            photos,
            LoaderOptions(
                kind="synthetic",
                train=True,
                batch_size=5,
                image_size=64,
                normalization=IMAGENET_RGB,
                dtype=torch.bfloat16,
            ),
        )
        (images, labels), *others = epoch(loader, 0, images_seen=5)
        assert len(others) == len(loader) - 2 == 2
        assert images.shape == (5, 3, 64, 64)
        assert images.dtype == torch.bfloat16
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.max() < 3
        assert all(other.data_ptr() == images.data_ptr() for other, _ in others)

    def test_evaluation_counts_each_image_once(self, photos: ImageDataset) -> None:
        loader = build_loader(
            photos,
            LoaderOptions(
                kind="synthetic",
                train=False,
                batch_size=5,
                image_size=64,
                normalization=IMAGENET_RGB,
                rank=1,
                world_size=2,
            ),
        )
        assert [len(images) for images, _ in loader] == [5, 5, 2]


class TestChoice:
    options: ClassVar[dict[str, Any]] = {
        "train": True, "batch_size": 4, "image_size": 64, "normalization": IMAGENET_RGB,
        "num_workers": 0,
    }  # fmt: skip

    def test_auto_takes_dali_where_it_is_installed(self, photos: ImageDataset) -> None:
        pytest.importorskip("nvidia.dali")
        assert type(build_loader(photos, LoaderOptions(**self.options))).__name__ == "DaliLoader"

    @pytest.mark.parametrize("kind", ["pillow", "torchvision"])
    def test_pillow_and_its_old_name(self, kind: Kind, photos: ImageDataset) -> None:
        """Which the configuration of an old run may have."""
        chosen = build_loader(photos, LoaderOptions(kind=kind, **self.options))
        assert type(chosen).__name__ == "PillowLoader"

    def test_auto_takes_pillow_elsewhere(
        self, photos: ImageDataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "googlenet_fast.data.dali", raising=False)
        monkeypatch.setitem(sys.modules, "nvidia.dali", None)
        assert type(build_loader(photos, LoaderOptions(**self.options))).__name__ == "PillowLoader"
        extra = f"dali{(torch.version.cuda or '13').partition('.')[0]}"
        with pytest.raises(GoogLeNetError, match=rf"pip install 'googlenet-fast\[{extra}\]'"):
            build_loader(photos, LoaderOptions(kind="dali", **self.options))

    def test_another_vendors_torch_does_without_dali(
        self, photos: ImageDataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Even where DALI is importable: it is for NVIDIA's GPUs."""
        monkeypatch.setattr(torch, "__version__", "2.7.1+corex.4.4.0")
        chosen = build_loader(photos, LoaderOptions(**self.options))
        assert type(chosen).__name__ == "PillowLoader"
        with pytest.raises(
            GoogLeNetError, match=r"torch 2\.7\.1\+corex\.4\.4\.0 is not for NVIDIA's"
        ):
            build_loader(photos, LoaderOptions(kind="dali", **self.options))
        with pytest.raises(ImportError, match="DALI is for NVIDIA's GPUs"):
            dali_decoder()

    def test_crops_are_torchvisions_bit_for_bit(self, photos: ImageDataset) -> None:
        options = LoaderOptions(**self.options)
        image = decode(photos.location(0), options.max_pixels)
        flipped = 0
        for draws in options.augmentation.draw(seed=1, epoch=0, first=0, count=20):
            ratios = options.augmentation.aspect_ratio
            window = crop_window(draws, image.height, image.width, ratios)
            expected = transforms.functional.resized_crop(image, *window, size=[64, 64])
            if draws[FLIP]:
                expected = transforms.functional.horizontal_flip(expected)
            ours = _Reader(options)._crop_random(image, draws)
            assert np.array_equal(np.asarray(ours), np.asarray(expected))
            flipped += int(draws[FLIP])
        assert 0 < flipped < 20

    def test_sizes_and_batches_that_cannot_be(self, photos: ImageDataset) -> None:
        with pytest.raises(GoogLeNetError, match="resize_size 63: must be image_size, 64, or more"):
            build_loader(photos, LoaderOptions(resize_size=63, **self.options))
        with pytest.raises(GoogLeNetError, match="choose a smaller batch_size"):
            build_loader(photos, LoaderOptions(**{**self.options, "batch_size": 25}))


@pytest.mark.parametrize("from_shards", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_the_gpu_pipeline_is_valid_as_far_as_serialisation(train: bool, from_shards: bool) -> None:
    """DALI checks each operator's schema for its backend there; only running it needs a GPU."""
    pytest.importorskip("nvidia.dali")
    from googlenet_fast.data import dali

    options = LoaderOptions(
        train=train, batch_size=8, image_size=224, normalization=CAFFE_BGR, dtype=torch.float16,
        max_pixels=1000,
    )  # fmt: skip
    pipeline = dali.image_pipeline(
        batch_size=8,
        num_threads=2,
        device_id=None,
        next_images=lambda: [np.zeros(1, np.uint8)],
        next_numbers=lambda: (),
        options=options,
        gpu=gpu_decoding((9, 0), 80 * 2**30, 16),
        from_shards=from_shards,
    )
    serialised = pipeline.serialize()
    arguments = (b"hw_decoder_load", b"device_memory_padding", b"preallocate_width_hint")
    for word in (b"decoders__ImageSlice", b"mixed", b"gpu", *arguments):
        assert word in serialised
    images, labels = pipeline._graph_outputs
    assert images.device == labels.device == "gpu"


def test_one_dali_loader_reads_no_more_than_its_share(photos: ImageDataset) -> None:
    """The positions of a rank's images depend on the sampler alone, for any loader."""
    sampler = BatchSampler(len(photos), 4, Augmentation(), 3, 1, 2)
    loader = build_loader(
        photos,
        LoaderOptions(
            train=True,
            batch_size=4,
            image_size=48,
            normalization=GREY_LEVELS,
            num_workers=0,
            seed=3,
            rank=1,
            world_size=2,
        ),
    )
    for (_, labels), batch in zip(loader, sampler.batches(0), strict=True):
        assert np.array_equal(labels.numpy(), photos.labels[batch.indices])
