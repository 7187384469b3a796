"""Drop the images that cannot be read, the same ones in every process of a run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from googlenet_fast.data import ImageDataset, LoaderOptions, build_loader
from googlenet_fast.data.unreadable import ReadableImages, Reasons, find_unreadable, signatures
from googlenet_fast.engine.distributed import Process
from googlenet_fast.errors import GoogLeNetError, printable
from googlenet_fast.files import write_atomically

BATCH = 16
"""Images read together. After each unreadable one, the rest of the batch is read again."""


def drop_unreadable(
    dataset: ImageDataset, process: Process, options: LoaderOptions
) -> tuple[ImageDataset, list[str]]:
    """Return the readable images, and a line "path<tab>reason" for each of the others.

    Each process reads its share of the images that are not known to be readable. Then they exchange
    the results. Images are read by the loader, processes and max_pixels of `options`.

    Raises:
        GoogLeNetError: no image can be read.
    """
    options = replace(
        options, train=False, batch_size=BATCH, image_size=1, resize_size=None, rank=0, world_size=1
    )
    share = np.arange(process.rank, len(dataset), process.world_size)
    marks = signatures(dataset.location(i) for i in share.tolist())
    readable = ReadableImages(build_loader(dataset, options).decoder, options.max_pixels)
    unknown = ~readable.among(marks)
    with tqdm(
        total=2 * int(unknown.sum()),
        desc=f"looking for unreadable images in {printable(dataset.source)}",
        leave=False,
        disable=None if process.is_main else True,
    ) as bar:
        own = find_unreadable(dataset, share[unknown], options, advance=bar.update)
    good = marks[unknown & ~np.isin(share, list(own))]
    parts = process.gather((own, good))
    if process.is_main and any(len(good) for _, good in parts):
        readable.add(np.concatenate([good for _, good in parts]))
    bad: Reasons = {index: reason for reasons, _ in parts for index, reason in reasons.items()}
    lines = [f"{dataset.path(i)}\t{bad[i]}" for i in sorted(bad)]
    if len(bad) == len(dataset) > 0:
        raise GoogLeNetError(
            f"{dataset.source}: none of its {len(dataset)} images can be read; of "
            f"{dataset.path(0)}: {bad[0]}"
        )
    return dataset.subset(np.setdiff1d(np.arange(len(dataset)), list(bad))), lines


def save_unreadable(lines: Sequence[str], folder: Path) -> None:
    """Write bad_images.txt: the images that were dropped and why."""
    text = "".join(f"{line}\n" for line in lines)
    write_atomically(folder / "bad_images.txt", text.encode(errors="surrogateescape"))
