"""The loader on NVIDIA DALI: one pipeline, on the CPU or a GPU."""

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
from googlenet_fast.data.markers import looks_damaged
from googlenet_fast.data.members import Location
from googlenet_fast.data.reading import DecodeError, decode
from googlenet_fast.data.sampling import (
    AREA,
    ATTEMPTS,
    FLIP,
    LEFT,
    RATIO,
    TOP,
    Augmentation,
    Batch,
    BatchSampler,
)
from googlenet_fast.model.presets import Normalization

Window = tuple[DataNode, DataNode]
"""Start (top, left) and size (height, width) of parts of images, int32."""
FAR_AWAY = 2**30
"""Pixels from the start of an image to where surely none is."""


class DaliLoader:
    """Batches of a dataset, read and augmented by DALI; see `googlenet_fast.data.Loader`.

    File names and crops come from the sampler rather than from DALI's own reader and random crop:
    their state cannot be set to a given epoch and step, and each would hold the whole file list.
    Images of shards come as parts of the memory-mapped files.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        sampler: BatchSampler,
        *,
        image_size: int,
        resize_size: int,
        normalization: Normalization,
        device: torch.device,
        dtype: torch.dtype,
        num_workers: int,
        prefetch: int,
        hw_decoder_load: float | None,
        max_pixels: int,
    ) -> None:
        self._dataset = dataset
        self._sampler = sampler
        self._dtype = dtype
        self._device = device
        num_threads = max(num_workers, 1)
        gpu = None
        if device.type == "cuda":
            card = torch.cuda.get_device_properties(device)
            gpu = gpu_decoding(
                (card.major, card.minor), card.total_memory, num_threads, hw_decoder_load
            )
        self.description = (
            f"DALI decodes on the {'CPU' if gpu is None else 'GPU'}: {num_threads} threads, "
            f"{prefetch} batches ahead{'' if gpu is None else f', {gpu}'}"
        )
        """What reads the images, in a line."""
        self.decoder = f"DALI {dali_version}, {device.type}"
        """What decodes them."""
        self._prefetch = prefetch
        self._max_pixels = max_pixels
        self._definition = {
            "augmentation": sampler.augmentation,
            "image_size": image_size,
            "resize_size": resize_size,
            "normalization": normalization,
            "gpu": gpu,
            "half": dtype == torch.float16,
            "from_shards": dataset.members is not None,
            "max_pixels": max_pixels,
            "device_id": device.index or 0 if device.type == "cuda" else None,
            "num_threads": num_threads,
        }
        self._epoch, self._start = 0, 0
        self._looked_at = np.zeros(len(dataset), np.bool_)
        self._pipeline: Pipeline | None = None

    def __len__(self) -> int:
        return len(self._sampler)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Make the next iteration that of `epoch`, of which all ranks have had `start` images."""
        self._epoch, self._start = epoch, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # One iterator for what may stay where it is, one for what DALI copies.
        self._batches, self._same_batches = tee(self._sampler.batches(self._epoch, self._start))
        self._in_flight: deque[Batch] = deque()
        # An epoch left early, or by an error, leaves prefetched batches in its pipeline: only one
        # that ended is used again.
        pipeline, self._pipeline = self._pipeline or self.build_pipeline(), None
        while outputs := self._run(pipeline):
            images, labels = (torch.from_dlpack(output.as_tensor()) for output in outputs[:2])
            self._refuse_damaged(self._in_flight.popleft().indices, outputs[2])
            yield images.permute(0, 3, 1, 2).to(self._dtype), labels
        pipeline.reset()
        self._pipeline = pipeline

    def build_pipeline(self) -> Pipeline:
        """A new pipeline (not yet built by DALI: it touches the device when it first runs)."""
        return image_pipeline(
            batch_size=self._sampler.batch_size,
            prefetch_queue_depth=self._prefetch,
            next_images=self._next_images,
            next_numbers=lambda: _numbers(self._dataset, next(self._same_batches)),
            **self._definition,
        )

    def _next_images(self) -> list[NDArray[np.uint8]]:
        """What the pipeline asks for ahead of each batch; StopIteration ends the epoch."""
        batch = next(self._batches)
        self._in_flight.append(batch)
        return _images(self._dataset, batch)

    def _run(self, pipeline: Pipeline) -> tuple[Any, ...] | None:
        """The pipeline's next outputs, None at the end of the epoch."""
        stream = None
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device)
        try:
            return pipeline.run(stream)
        except StopIteration:
            return None
        except RuntimeError as error:
            self._raise_for_undecodable(error)
            raise

    def _refuse_damaged(self, indices: NDArray[np.int64], encoded: Any) -> None:
        """Raise `DecodeError` for an image that DALI decoded in part and Pillow refuses.

        DALI fills the rest of some damaged JPEGs with grey. A look at the bytes, when this loader
        meets them for the first time, tells which ones to ask Pillow of.
        """
        for i in np.flatnonzero(~self._looked_at[indices]).tolist():
            if looks_damaged(encoded.at(i)):
                decode(self._dataset.location(indices[i]), self._max_pixels)
        self._looked_at[indices] = True

    def _raise_for_undecodable(self, error: RuntimeError) -> None:
        """Find the file at fault by reading those in flight one at a time, and name it."""
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
                    raise _explained(
                        self._dataset.location(index), self._max_pixels, reason
                    ) from error


def _explained(image: Location, max_pixels: int, error: RuntimeError) -> DecodeError:
    """Why DALI cannot decode an image: in Pillow's better words if it cannot either."""
    try:
        decode(image, max_pixels)
    except DecodeError as known:
        return known
    cause = str(error).rpartition("encountered:")[2].strip().partition("\n")[0]
    return DecodeError(image.name, f"DALI cannot: {cause}; Pillow can: save it anew with it")


def _images(dataset: ImageDataset, batch: Batch) -> list[NDArray[np.uint8]]:
    """The encoded images of shards, else file names as bytes."""
    if dataset.members is not None:
        return [dataset.members.view(i) for i in batch.indices]
    return [np.frombuffer(os.fsencode(dataset.path(i)), np.uint8) for i in batch.indices]


def _numbers(dataset: ImageDataset, batch: Batch) -> tuple[Any, ...]:
    """Labels and, in training, draws."""
    labels = dataset.labels[batch.indices]
    return (labels,) if batch.draws is None else (labels, batch.draws)


@pipeline_def
def image_pipeline(
    next_images: Callable[[], list[NDArray[np.uint8]]],
    next_numbers: Callable[[], tuple[Any, ...]],
    augmentation: Augmentation | None,
    image_size: int,
    resize_size: int,
    normalization: Normalization,
    gpu: GpuDecoding | None,
    half: bool,
    from_shards: bool,
    max_pixels: int,
) -> tuple[DataNode, DataNode, DataNode]:
    """Read, decode, crop, resize, mirror and normalise; images come out HWC, labels int64.

    The last output is the encoded images, on the CPU.

    On a GPU, file access and the headers stay with the CPU and everything from the JPEG's
    decoding on is the GPU's.
    """
    # The mapped bytes of shards stay where they are; it is the decoding threads that read the disk.
    encoded = fn.external_source(source=next_images, dtype=types.UINT8, ndim=1, no_copy=from_shards)
    if not from_shards:
        encoded = fn.io.file.read(encoded)
    types_and_ranks = [(types.INT64, 0), (types.FLOAT64, 1)]
    if augmentation is None:
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
        # Evaluation on a GPU then sees the pixels that it sees on a CPU; training does not need it.
        "jpeg_fancy_upsampling": augmentation is None,
        **({} if gpu is None else gpu.arguments()),
    }
    mirror: DataNode | int = 0
    if augmentation is None:
        images = decode_window(encoded, shape, whole_image(shape), max_pixels, **decoding)
        images = _resize_and_crop_center(images, shape, resize_size, image_size)
    else:
        window = _crop_window(draws[0], shape, augmentation.aspect_ratio)
        images = decode_window(encoded, shape, window, max_pixels, **decoding)
        images = _resize(images, [image_size, image_size])
        mirror = fn.cast(draws[0][FLIP], dtype=types.INT32)
    if normalization.channel_order == "BGR":  # decoding straight to BGR is slower
        images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.BGR)
    images = fn.crop_mirror_normalize(
        images,
        mirror=mirror,
        mean=list(normalization.mean),
        std=list(normalization.std),
        dtype=types.FLOAT16 if half else types.FLOAT,
        output_layout="HWC",
    )
    return images, label if gpu is None else label.gpu(), encoded


def decode_window(
    encoded: DataNode, shape: DataNode, window: Window, max_pixels: int, **options: Any
) -> DataNode:
    """The pixels in a window of the images, RGB.

    The window of an image that is too large is put out of its bounds, which DALI refuses before it
    decodes. Whole images come as windows too, so that they wait for the shape: DALI crashes where
    one damaged file fails in peek_image_shape while another does in the decoder.
    """
    too_large = fn.cast(shape[0] * shape[1] > max_pixels, dtype=types.INT32)
    start, size = window
    return fn.decoders.image_slice(
        encoded, start=start + too_large * FAR_AWAY, shape=size, axis_names="HW", **options
    )


def whole_image(shape: DataNode) -> Window:
    """The window that is all of an image."""
    size = fn.cast(shape[:2], dtype=types.INT32)
    return size * 0, size


def _resize(images: DataNode, size: list[int], **region: DataNode) -> DataNode:
    """Linear and antialiased, which is torchvision's and Pillow's bilinear."""
    return fn.resize(images, size=size, interp_type=types.INTERP_LINEAR, antialias=True, **region)


def _crop_window(draws: DataNode, shape: DataNode, aspect_ratio: tuple[float, float]) -> Window:
    """`sampling.crop_window` as a graph: start (top, left) and size (height, width), int32."""
    height, width = (fn.cast(shape[i], dtype=types.FLOAT64) for i in (0, 1))
    area = height * width * draws[AREA]
    widths = dali_math.floor(dali_math.sqrt(area * draws[RATIO]) + 0.5)
    heights = dali_math.floor(dali_math.sqrt(area / draws[RATIO]) + 0.5)
    fits = (widths >= 1) & (heights >= 1) & (widths <= width) & (heights <= height)
    # The first attempt that fits has the highest score; 0 says that none does.
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
    """The value where `chosen` is set, 0 if nowhere; exact in float32 up to 2**24."""
    return fn.reductions.sum(fn.cast(chosen * values, dtype=types.FLOAT))


def _resize_and_crop_center(
    images: DataNode, shape: DataNode, resize_size: int, image_size: int
) -> DataNode:
    """Short side to `resize_size`, then the central square, rounded as torchvision does.

    Of the resized image, which may be very long, no more than the square is made.
    """
    sides = fn.cast(shape[:2], dtype=types.INT64)
    resized = sides * resize_size // fn.reductions.min(sides)
    start = _half_to_even(resized - image_size)
    scale = fn.cast(sides, dtype=types.FLOAT64) / resized
    return _resize(
        images,
        [image_size, image_size],
        roi_start=fn.cast(start * scale, dtype=types.FLOAT),
        roi_end=fn.cast((start + image_size) * scale, dtype=types.FLOAT),
    )


def _half_to_even(value: DataNode) -> DataNode:
    """round(value / 2) of Python, which torchvision places its crop by: ties to the even one."""
    half = value // 2
    return half + (value - 2 * half) * (half - 2 * (half // 2))
