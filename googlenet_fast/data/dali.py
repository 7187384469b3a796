"""Load images with NVIDIA DALI: one pipeline, on the CPU or a GPU."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, tee
from typing import Any, NamedTuple

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
from googlenet_fast.data.library_messages import Messages, all_caught, caught
from googlenet_fast.data.loader import PIXELS_TOGETHER, LoaderOptions
from googlenet_fast.data.pillow_instead import PillowInstead
from googlenet_fast.data.reading import decode
from googlenet_fast.data.sampling import (
    AREA,
    ATTEMPTS,
    FLIP,
    LEFT,
    RATIO,
    TOP,
    Batch,
)
from googlenet_fast.data.waiting import waiting_for
from googlenet_fast.model.preprocessing import Resize

_log = logging.getLogger("googlenet_fast")
_told: set[str] = set()
"""Warnings and complaints that the log has, so that no loader repeats them."""

Window = tuple[DataNode, DataNode]
"""Start (top, left) and size (height, width) of image windows, int32."""
DAMAGED, REFUSED = "files with damage that libraries complain of", "other files"
"""Kinds of images left to Pillow after DALI has tried."""


class Part(NamedTuple):
    """Images that are decoded together: a batch, or a part of one with large images."""

    batch: Batch
    ends_batch: bool
    by_pillow: dict[int, Future[NDArray[np.uint8]]]
    """Place in the part -> Pillow's pixels, encoded."""
    encoded: list[NDArray[np.uint8]]
    """What DALI was given, kept because DALI reads it in place."""


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
            "gpu": gpu,
            "device_id": device.index or 0 if device.type == "cuda" else None,
            "num_threads": num_threads,
        }
        self._num_threads = num_threads
        self._epoch, self._images_seen = 0, 0
        self._instead = PillowInstead(dataset, options.max_pixels)
        self._told = 0
        """How many images left to Pillow the log knows of."""
        self._pipeline: Pipeline | None = None

    def __len__(self) -> int:
        return len(self._sampler)

    def set_epoch(self, epoch: int, images_seen: int = 0) -> None:
        """Choose the epoch of the next iteration; see `Loader.set_epoch`."""
        self._epoch, self._images_seen = epoch, images_seen

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self._sampler.batches(self._epoch, self._images_seen)
        pieces: list[tuple[Tensor, Tensor]] = []
        self._looked_at = np.zeros(0, np.int64)
        threads = _threads(self._num_threads, self._files_in_flight)
        with threads as self._pool, caught() as messages:
            self._feed(_one_ahead(self._parts(batches)))
            for part, *piece in self._decoded(messages):
                pieces.append((piece[0], piece[1]))
                if part.ends_batch:
                    images, labels = (
                        pieces[0] if len(pieces) == 1 else map(torch.cat, zip(*pieces, strict=True))
                    )
                    pieces = []
                    yield images.permute(0, 3, 1, 2).to(self._options.dtype), labels
        if self._instead.kinds.total() > self._told and self._options.rank == 0:
            _log.info("%s", self._instead.summary())
        self._told = self._instead.kinds.total()

    def build_pipeline(self) -> Pipeline:
        """Define a new pipeline; DALI builds it, on the device, when it first runs."""
        return image_pipeline(
            batch_size=self._options.batch_size,
            prefetch_queue_depth=self._options.prefetch,
            next_images=self._next_images,
            next_numbers=self._next_numbers,
            options=self._options,
            from_shards=self._dataset.tar_members is not None,
            **self._definition,
        )

    def _parts(self, batches: Iterable[Batch]) -> Iterator[Part]:
        """Split batches with large images, and start Pillow on the images that are left to it."""
        for batch in batches:
            self._looked_at = batch.indices
            self._instead.look_at(batch.indices, self._pool)
            pixels = self._instead.pixels[batch.indices]
            starts = _part_starts(pixels, PIXELS_TOGETHER, self._num_threads)
            for start, end in zip(starts, [*starts[1:], len(pixels)], strict=True):
                part = Part(_piece(batch, start, end), end == len(pixels), {}, [])
                self._start_pillow(part)
                yield part

    def _start_pillow(self, part: Part) -> None:
        for i, index in enumerate(part.batch.indices.tolist()):
            if index in self._instead and i not in part.by_pillow:
                part.by_pillow[i] = self._pool.submit(self._instead.encoded, index)

    def _feed(self, parts: Iterator[Part]) -> None:
        """Let the next pipeline read these parts; images and numbers each have an iterator."""
        self._image_parts, self._number_parts = tee(parts)
        self._in_flight: deque[Part] = deque()

    def _next_images(self) -> list[NDArray[np.uint8]]:
        """Return the next encoded images; StopIteration ends the epoch."""
        part = next(self._image_parts)
        self._in_flight.append(part)
        part.encoded[:] = [
            part.by_pillow[i].result() if i in part.by_pillow else self._encoded(index)
            for i, index in enumerate(part.batch.indices.tolist())
        ]
        return part.encoded

    def _encoded(self, index: int) -> NDArray[np.uint8]:
        """Return the encoded image in a shard, otherwise its file's name as bytes."""
        if self._dataset.tar_members is not None:
            return self._dataset.tar_members.view(index)
        return np.frombuffer(os.fsencode(self._dataset.location(index).file), np.uint8)

    def _next_numbers(self) -> tuple[Any, ...]:
        """Return labels, of files whether each image is a name, and, in training, draws."""
        part = next(self._number_parts)
        indices, draws = part.batch
        numbers = [self._dataset.labels[indices]]
        if self._dataset.tar_members is None:
            numbers.append(np.array([i not in part.by_pillow for i in range(len(indices))]))
        return tuple(numbers) if draws is None else (*numbers, draws)

    def _decoded(self, messages: Messages) -> Iterator[tuple[Part, Tensor, Tensor]]:
        """Yield each part with its images (N, H, W, 3) and labels.

        After a refusal the parts in flight are fed again, the refused images as Pillow reads them.
        """
        # After an epoch that was left early or failed, the pipeline holds prefetched batches. Only
        # the pipeline of a complete epoch is reused.
        pipeline, self._pipeline = self._pipeline or self.build_pipeline(), None
        stream = None
        if self._options.device.type == "cuda":
            stream = torch.cuda.current_stream(self._options.device)
        while True:
            try:
                with waiting_for(self._files_in_flight):
                    outputs = pipeline.run(stream)
            except StopIteration:
                break
            except RuntimeError:
                if not self._leave_to_pillow(messages.take()):
                    raise
                for part in self._in_flight:
                    self._start_pillow(part)
                self._feed(chain(self._in_flight, self._image_parts))
                pipeline = self.build_pipeline()
                continue
            if lines := messages.take():
                self._leave_to_pillow(lines)
            images, labels = (torch.from_dlpack(output.as_tensor()) for output in outputs)
            yield self._in_flight.popleft(), images, labels
        pipeline.reset()
        self._pipeline = pipeline

    def _files_in_flight(self) -> list[str]:
        batches = [*(part.batch.indices for part in list(self._in_flight)), self._looked_at]
        return [self._dataset.location(i).file for indices in batches for i in indices]

    def _leave_to_pillow(self, lines: list[str]) -> bool:
        """Find the images in flight that DALI refuses or a library complains of; True if any.

        From now on Pillow reads them, or refuses them here and now. A damaged image is named in the
        log. `lines` are the complaints; if they are about none of the images, the log has them with
        the first image, unless Pillow decodes too and may have caused them.
        """
        found: dict[int, str | None] = {}
        for part in self._in_flight:
            indices = part.batch.indices.tolist()
            found |= self._unfit(
                [index for i, index in enumerate(indices) if i not in part.by_pillow]
            )
            for index, complaint in found.items():
                self._instead.add(index, REFUSED if complaint is None else DAMAGED)
                if complaint is not None:
                    _tell(f"{self._dataset.path(index)}: looks damaged: {complaint}")
                    _told.update(complaint.split("; "))
                    decode(self._dataset.location(index), self._options.max_pixels)
        if not found and not self._instead.kinds and not _told.issuperset(lines):
            first = self._dataset.path(self._in_flight[0].batch.indices[0])
            _tell(f"{first} or an image read with it: {'; '.join(lines)}")
        return bool(found)

    def _unfit(self, indices: list[int]) -> dict[int, str | None]:
        """Return images that DALI refuses (None) and complaints about others, by halving."""
        refused, complaint = self._try(indices)
        if not indices or not (refused or complaint):
            return {}
        if len(indices) == 1:
            return {indices[0]: None if refused else complaint}
        half = len(indices) // 2
        return self._unfit(indices[:half]) | self._unfit(indices[half:])

    def _try(self, indices: list[int]) -> tuple[bool, str]:
        """Decode whole images; return whether DALI refused one, and what libraries complained."""
        try:
            images = [self._instead.content(index) for index in indices]
        except OSError:
            return True, ""
        return try_to_decode(images, **self._definition)


def _tell(line: str) -> None:
    """Log a warning, once in this process."""
    if line not in _told:
        _told.add(line)
        _log.warning("%s", line)


def try_to_decode(images: list[NDArray[np.uint8]], **definition: Any) -> tuple[bool, str]:
    """Decode encoded images; return whether DALI refused one, and what libraries complained."""
    pipeline = decoding_pipeline(
        batch_size=max(len(images), 1),
        exec_pipelined=False,
        exec_async=False,
        images=lambda: images,
        **definition,
    )
    with all_caught() as messages:
        try:
            pipeline.run()
        except RuntimeError:
            return True, "; ".join(messages.take())
        return False, "; ".join(messages.take())


def _part_starts(pixels: NDArray[np.int64], most: int, at_least: int) -> list[int]:
    """Cut a batch so that no part has more pixels than `most`, but `at_least` images."""
    starts, total = [0], 0
    for i, count in enumerate(pixels.tolist()):
        if total + count > most and i - starts[-1] >= at_least:
            starts.append(i)
            total = 0
        total += count
    return starts


def _piece(batch: Batch, start: int, end: int) -> Batch:
    draws = None if batch.draws is None else batch.draws[start:end]
    return Batch(batch.indices[start:end], draws)


def _one_ahead(parts: Iterator[Part]) -> Iterator[Part]:
    """Yield each part after the next one was made, so that Pillow has begun to decode that."""
    waiting: list[Part] = []
    for part in parts:
        yield from waiting
        waiting = [part]
    yield from waiting


@contextmanager
def _threads(count: int, files: Callable[[], list[str]]) -> Iterator[ThreadPoolExecutor]:
    """Run threads that read some of these files, and begin nothing after the end."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        with waiting_for(files):
            pool.shutdown(cancel_futures=True)


@pipeline_def(enable_conditionals=True)
def image_pipeline(
    next_images: Callable[[], list[NDArray[np.uint8]]],
    next_numbers: Callable[[], tuple[Any, ...]],
    options: LoaderOptions,
    gpu: GpuDecoding | None,
    from_shards: bool,
) -> tuple[DataNode, DataNode]:
    """Read, decode, crop, resize, mirror and normalise images.

    With a GPU, the CPU reads files and headers; the GPU does the rest, decoding included.

    Returns:
        Images (N, H, W, 3) and labels (N,) int64.
    """
    # Mapped bytes of shards are not copied: the decoding threads read them from the disk.
    encoded = fn.external_source(source=next_images, dtype=types.UINT8, ndim=1, no_copy=True)
    types_and_ranks = [(types.INT64, 0)]
    if not from_shards:
        types_and_ranks.append((types.BOOL, 0))
    if options.train:
        types_and_ranks.append((types.FLOAT64, 1))
    label, *numbers = fn.external_source(
        source=next_numbers,
        num_outputs=len(types_and_ranks),
        dtype=[dtype for dtype, _ in types_and_ranks],
        ndim=[rank for _, rank in types_and_ranks],
    )
    if not from_shards:  # noqa: SIM102 (DALI evaluates the other one, for each image)
        if numbers[0]:
            encoded = fn.io.file.read(encoded)
    shape = fn.peek_image_shape(encoded)
    # Fancy upsampling makes GPU and CPU decode the same pixels, which training does not need.
    decoding = {**_decoding(gpu), "jpeg_fancy_upsampling": not options.train}
    mirror: DataNode | int = 0
    if options.train:
        window = _crop_window(numbers[-1], shape, options.augmentation.aspect_ratio)
        images = decode_window(encoded, window, **decoding)
        images = _resize(images, options.image_size, options.resize)
        mirror = fn.cast(numbers[-1][FLIP], dtype=types.INT32)
    else:
        images = decode_window(encoded, whole_image(shape), **decoding)
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
    return images, label if gpu is None else label.gpu()


@pipeline_def
def decoding_pipeline(
    images: Callable[[], list[NDArray[np.uint8]]], gpu: GpuDecoding | None
) -> DataNode:
    """Decode whole images to RGB (N, H, W, 3)."""
    encoded = fn.external_source(source=images, dtype=types.UINT8, ndim=1)
    window = whole_image(fn.peek_image_shape(encoded))
    return decode_window(encoded, window, **_decoding(gpu), jpeg_fancy_upsampling=True)


def _decoding(gpu: GpuDecoding | None) -> dict[str, Any]:
    """Return the decoder's arguments for its device."""
    return {"device": "cpu"} if gpu is None else {"device": "mixed", **gpu.arguments()}


def decode_window(encoded: DataNode, window: Window, **options: Any) -> DataNode:
    """Decode the pixels in a window of the images, RGB.

    Whole images are windows too, because a window makes the decoder wait for peek_image_shape:
    DALI crashes if one damaged file fails there while another fails in the decoder.
    """
    start, size = window
    return fn.decoders.image_slice(encoded, start=start, shape=size, axis_names="HW", **options)


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
