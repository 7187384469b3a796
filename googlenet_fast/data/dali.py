"""Load images with NVIDIA DALI: one pipeline, on the CPU or a GPU."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from itertools import tee
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import __version__ as dali_version
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali import math as dali_math
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from torch import Tensor

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.gpu_decoding import GpuDecoding, gpu_decoding
from googlenet_fast.data.jpeg_markers import looks_damaged
from googlenet_fast.data.loader import LoaderOptions
from googlenet_fast.data.reading import DecodeError, decode
from googlenet_fast.data.sampling import (
    AREA,
    ATTEMPTS,
    FLIP,
    LEFT,
    RATIO,
    TOP,
    Batch,
)
from googlenet_fast.data.tar_members import Location
from googlenet_fast.model.preprocessing import Resize

Window = tuple[DataNode, DataNode]
"""Start (top, left) and size (height, width) of image windows, int32."""
FAR_AWAY = 2**30
"""An offset in pixels that is outside of any image."""


class DaliLoader:
    """Batches of a dataset, read and augmented by DALI; see `googlenet_fast.data.Loader`.

    File names and crops come from the sampler instead of DALI's own reader and random crop: those
    cannot start at a given epoch and step, and each would hold the whole file list. Images in
    shards are slices of the memory-mapped files.
    """

    def __init__(self, dataset: ImageDataset, options: LoaderOptions) -> None:
        self._dataset = dataset
        self._options = options
        self._sampler = options.sampler(len(dataset))
        num_threads = max(options.num_workers, 1)
        device = options.device
        gpu = None
        if device.type == "cuda":
            card = torch.cuda.get_device_properties(device)
            gpu = gpu_decoding(
                (card.major, card.minor), card.total_memory, num_threads, options.hw_decoder_load
            )
        self.description = (
            f"DALI decodes on the {'CPU' if gpu is None else 'GPU'}: {num_threads} threads, "
            f"{options.prefetch} batches ahead{'' if gpu is None else f', {gpu}'}"
        )
        """What reads the images, in one line."""
        self.decoder = f"DALI {dali_version}, {device.type}"
        """Name and version of the decoder."""
        self._definition = {
            "options": options,
            "gpu": gpu,
            "from_shards": dataset.tar_members is not None,
            "device_id": device.index or 0 if device.type == "cuda" else None,
            "num_threads": num_threads,
        }
        self._epoch, self._images_seen = 0, 0
        self._checked = np.zeros(len(dataset), np.bool_)
        """Images whose JPEG markers have been checked, (len(dataset),)."""
        self._pipeline: Pipeline | None = None

    def __len__(self) -> int:
        return len(self._sampler)

    def set_epoch(self, epoch: int, images_seen: int = 0) -> None:
        """Choose the epoch of the next iteration; see `Loader.set_epoch`."""
        self._epoch, self._images_seen = epoch, images_seen

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # One iterator for encoded images, which DALI may read in place, one for what it copies.
        batches = self._sampler.batches(self._epoch, self._images_seen)
        self._batches, self._same_batches = tee(batches)
        self._in_flight: deque[Batch] = deque()
        # After an epoch that was left early or failed, the pipeline holds prefetched batches. Only
        # the pipeline of a complete epoch is reused.
        pipeline, self._pipeline = self._pipeline or self.build_pipeline(), None
        while outputs := self._run(pipeline):
            images, labels = (torch.from_dlpack(output.as_tensor()) for output in outputs[:2])
            self._refuse_damaged(self._in_flight.popleft().indices, outputs[2])
            yield images.permute(0, 3, 1, 2).to(self._options.dtype), labels
        pipeline.reset()
        self._pipeline = pipeline

    def build_pipeline(self) -> Pipeline:
        """Define a new pipeline; DALI builds it, on the device, when it first runs."""
        return image_pipeline(
            batch_size=self._options.batch_size,
            prefetch_queue_depth=self._options.prefetch,
            next_images=self._next_images,
            next_numbers=lambda: _numbers(self._dataset, next(self._same_batches)),
            **self._definition,
        )

    def _next_images(self) -> list[NDArray[np.uint8]]:
        """Return the next encoded images; StopIteration ends the epoch."""
        batch = next(self._batches)
        self._in_flight.append(batch)
        return _images(self._dataset, batch)

    def _run(self, pipeline: Pipeline) -> tuple[Any, ...] | None:
        """Return the pipeline's next outputs, None at the end of the epoch."""
        stream = None
        if self._options.device.type == "cuda":
            stream = torch.cuda.current_stream(self._options.device)
        try:
            return pipeline.run(stream)
        except StopIteration:
            return None
        except RuntimeError as error:
            self._raise_for_undecodable(error)
            raise

    def _refuse_damaged(self, indices: NDArray[np.int64], encoded: Any) -> None:
        """Raise `DecodeError` for an image that DALI decoded in part and Pillow refuses.

        DALI fills the rest of some damaged JPEGs with grey. Only images whose markers look damaged
        are decoded with Pillow, once per loader.
        """
        for i in np.flatnonzero(~self._checked[indices]).tolist():
            if looks_damaged(encoded.at(i)):
                decode(self._dataset.location(indices[i]), self._options.max_pixels)
        self._checked[indices] = True

    def _raise_for_undecodable(self, error: RuntimeError) -> None:
        """Decode the images in flight one by one and raise `DecodeError` for the bad one."""
        alone: list[Batch] = []
        pipeline = image_pipeline(
            batch_size=1,
            exec_pipelined=False,
            exec_async=False,
            next_images=lambda: _images(self._dataset, alone[-1]),
            next_numbers=lambda: _numbers(self._dataset, alone[-1]),
            **self._definition,
        )
        for batch in self._in_flight:
            for i, index in enumerate(batch.indices):
                draws = None if batch.draws is None else batch.draws[i : i + 1]
                alone.append(Batch(batch.indices[i : i + 1], draws))
                try:
                    pipeline.run()
                except RuntimeError as reason:
                    location = self._dataset.location(index)
                    raise _decode_error(location, self._options.max_pixels, reason) from error


def _decode_error(image: Location, max_pixels: int, error: RuntimeError) -> DecodeError:
    """Return why DALI cannot decode an image: Pillow's clearer reason if there is one."""
    try:
        decode(image, max_pixels)
    except DecodeError as known:
        return known
    cause = str(error).rpartition("encountered:")[2].strip().partition("\n")[0]
    return DecodeError(
        image.name, f"DALI cannot decode it: {cause}; Pillow can, so save it again with Pillow"
    )


def _images(dataset: ImageDataset, batch: Batch) -> list[NDArray[np.uint8]]:
    """Return the encoded images of shards, otherwise file names as bytes."""
    if dataset.tar_members is not None:
        return [dataset.tar_members.view(i) for i in batch.indices]
    return [np.frombuffer(os.fsencode(dataset.path(i)), np.uint8) for i in batch.indices]


def _numbers(dataset: ImageDataset, batch: Batch) -> tuple[Any, ...]:
    """Return labels and, in training, draws."""
    labels = dataset.labels[batch.indices]
    return (labels,) if batch.draws is None else (labels, batch.draws)


@pipeline_def
def image_pipeline(
    next_images: Callable[[], list[NDArray[np.uint8]]],
    next_numbers: Callable[[], tuple[Any, ...]],
    options: LoaderOptions,
    gpu: GpuDecoding | None,
    from_shards: bool,
) -> tuple[DataNode, DataNode, DataNode]:
    """Read, decode, crop, resize, mirror and normalise images.

    With a GPU, the CPU reads files and headers; the GPU does the rest, decoding included.

    Returns:
        Images (N, H, W, 3), labels (N,) int64, and the encoded images on the CPU.
    """
    # Mapped bytes of shards are not copied: the decoding threads read them from the disk.
    encoded = fn.external_source(source=next_images, dtype=types.UINT8, ndim=1, no_copy=from_shards)
    if not from_shards:
        encoded = fn.io.file.read(encoded)
    types_and_ranks = [(types.INT64, 0), (types.FLOAT64, 1)]
    if not options.train:
        del types_and_ranks[1]
    label, *draws = fn.external_source(
        source=next_numbers,
        num_outputs=len(types_and_ranks),
        dtype=[dtype for dtype, _ in types_and_ranks],
        ndim=[rank for _, rank in types_and_ranks],
    )
    shape = fn.peek_image_shape(encoded)
    decoding: dict[str, Any] = {
        "device": "cpu" if gpu is None else "mixed",
        # Makes GPU and CPU decode the same pixels, which training does not need.
        "jpeg_fancy_upsampling": not options.train,
        **({} if gpu is None else gpu.arguments()),
    }
    mirror: DataNode | int = 0
    if options.train:
        window = _crop_window(draws[0], shape, options.augmentation.aspect_ratio)
        images = decode_window(encoded, shape, window, options.max_pixels, **decoding)
        images = _resize(images, options.image_size, options.resize)
        mirror = fn.cast(draws[0][FLIP], dtype=types.INT32)
    else:
        window = whole_image(shape)
        images = decode_window(encoded, shape, window, options.max_pixels, **decoding)
        images = _resize_and_crop_center(images, shape, options)
    if options.normalization.channel_order == "BGR":  # decoding directly to BGR is slower
        images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.BGR)
    images = fn.crop_mirror_normalize(
        images,
        mirror=mirror,
        mean=list(options.normalization.mean),
        std=list(options.normalization.std),
        dtype=types.FLOAT16 if options.dtype == torch.float16 else types.FLOAT,
        output_layout="HWC",
    )
    return images, label if gpu is None else label.gpu(), encoded


def decode_window(
    encoded: DataNode, shape: DataNode, window: Window, max_pixels: int, **options: Any
) -> DataNode:
    """Decode the pixels in a window of the images, RGB.

    The window of a too large image is moved out of bounds, so DALI refuses it before decoding.
    Whole images are windows too, because a window makes the decoder wait for peek_image_shape:
    DALI crashes if one damaged file fails there while another fails in the decoder.
    """
    too_large = fn.cast(shape[0] * shape[1] > max_pixels, dtype=types.INT32)
    start, size = window
    return fn.decoders.image_slice(
        encoded, start=start + too_large * FAR_AWAY, shape=size, axis_names="HW", **options
    )


def whole_image(shape: DataNode) -> Window:
    """Return the window that covers all of an image."""
    size = fn.cast(shape[:2], dtype=types.INT32)
    return size * 0, size


def _resize(
    images: DataNode, size: int, resize: Resize, region: tuple[DataNode, DataNode] | None = None
) -> DataNode:
    """Resize a region, from (top, left) to (bottom, right), bilinearly to a square.

    Pillow's pixels come of two passes: first rows, rounded to 8 bits, then columns.
    """
    bilinear: dict[str, Any] = {"interp_type": types.INTERP_LINEAR, "antialias": resize != "cv2"}
    if resize != "pillow":
        ends = {} if region is None else {"roi_start": region[0], "roi_end": region[1]}
        return fn.resize(images, size=[size, size], **bilinear, **ends)
    for axis, side in ((1, "resize_x"), (0, "resize_y")):
        ends = {} if region is None else _only_along(axis, images, region)
        only_this: dict[str, Any] = {side: size, "mode": "stretch"}
        images = fn.resize(images, **only_this, **bilinear, **ends)
    return images


def _only_along(
    axis: int, images: DataNode, region: tuple[DataNode, DataNode]
) -> dict[str, DataNode]:
    """Return a region that has all of the images along the other axis."""
    start, end = region
    whole = fn.cast(images.shape()[1 - axis], dtype=types.FLOAT)
    starts, ends = [start[axis], whole * 0], [end[axis], whole]
    if axis == 1:
        starts, ends = starts[::-1], ends[::-1]
    return {"roi_start": fn.stack(*starts), "roi_end": fn.stack(*ends)}


def _crop_window(draws: DataNode, shape: DataNode, aspect_ratio: tuple[float, float]) -> Window:
    """Compute `sampling.crop_window` as a graph."""
    height, width = (fn.cast(shape[i], dtype=types.FLOAT64) for i in (0, 1))
    area = height * width * draws[AREA]
    widths = dali_math.floor(dali_math.sqrt(area * draws[RATIO]) + 0.5)
    heights = dali_math.floor(dali_math.sqrt(area / draws[RATIO]) + 0.5)
    fits = (widths >= 1) & (heights >= 1) & (widths <= width) & (heights <= height)
    # The first attempt that fits has the highest score; a best score of 0 means that none fits.
    score = fits * types.Constant(np.arange(ATTEMPTS, 0, -1, dtype=np.float64))
    best = fn.reductions.max(score)
    chosen = fits & (score == best)
    widest = dali_math.min(width, dali_math.floor(height * aspect_ratio[1] + 0.5))
    highest = dali_math.min(height, dali_math.floor(width / aspect_ratio[0] + 0.5))
    w = _only(chosen, widths) + (best == 0) * widest
    h = _only(chosen, heights) + (best == 0) * highest
    top = dali_math.floor(draws[TOP] * (height - h + 1))
    left = dali_math.floor(draws[LEFT] * (width - w + 1))
    start, size = fn.stack(top, left), fn.stack(h, w)
    return fn.cast(start, dtype=types.INT32), fn.cast(size, dtype=types.INT32)


def _only(chosen: DataNode, values: DataNode) -> DataNode:
    """Return the value where `chosen` is set, 0 if nowhere; exact in float32 up to 2**24."""
    return fn.reductions.sum(fn.cast(chosen * values, dtype=types.FLOAT))


def _resize_and_crop_center(images: DataNode, shape: DataNode, options: LoaderOptions) -> DataNode:
    """Resize the short side, then crop the central square, as `bilinear.center_crop` says.

    Only the square is computed, because the resized image may be very long.
    """
    resize_size, image_size = options.short_side, options.image_size
    sides = fn.cast(shape[:2], dtype=types.INT64)
    short = fn.reductions.min(sides)
    if options.resize == "cv2":
        resized = _rounded(sides * (float(resize_size) / fn.cast(short, dtype=types.FLOAT64)))
        start = (resized - image_size) // 2
    else:
        resized = sides * resize_size // short
        start = _half_to_even(resized - image_size)
    scale = fn.cast(sides, dtype=types.FLOAT64) / resized
    return _resize(
        images,
        image_size,
        options.resize,
        (
            fn.cast(start * scale, dtype=types.FLOAT),
            fn.cast((start + image_size) * scale, dtype=types.FLOAT),
        ),
    )


def _rounded(value: DataNode) -> DataNode:
    """Compute Python's round(value), ties to even, of float64 of 0 or more, as int64."""
    up = dali_math.floor(value + 0.5)
    nearest = fn.cast(up, dtype=types.INT64)
    is_tie = fn.cast(value + 0.5 == up, dtype=types.INT64)
    return nearest - is_tie * (nearest - 2 * (nearest // 2))


def _half_to_even(value: DataNode) -> DataNode:
    """Compute Python's round(value / 2), ties to even, as torchvision places its crop."""
    half = value // 2
    return half + (value - 2 * half) * (half - 2 * (half // 2))
