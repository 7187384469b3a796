"""Open one part of a dataset: its training, validation or test images, or all if undivided."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.folders import report_passed_over, scan_class_folders
from googlenet_fast.data.lists import read_class_names
from googlenet_fast.data.shard_index import index_shard
from googlenet_fast.data.shards import (
    holds_shards,
    is_shards,
    read_shards,
    shards_in,
    shards_of_split,
)
from googlenet_fast.data.split_folders import refuse_splits_as_classes, split_folders
from googlenet_fast.data.splits import hold_out, open_splits
from googlenet_fast.errors import GoogLeNetError

PARTS = ("train", "val", "test")
"""Names of the parts."""

T = TypeVar("T")


def open_part(
    path: Path,
    part: str,
    *,
    root: Path | None = None,
    delimiter: str = " ",
    relabel: bool = False,
    class_names: Path | None = None,
) -> ImageDataset:
    """Open the images of one part; nothing is held out.

    Args:
        path: A dataset folder (see `find_splits`), or class folders, a list or shards without
            parts, of which all images are opened.
        part: "train", "val" or "test".
        root: Folder that the paths of lists are relative to.
        delimiter: Separator of path and label in lists.
        relabel: Renumber the labels of lists from 0.
        class_names: File with all class names by index; default: those of the training images.

    Raises:
        GoogLeNetError: names the file or folder that does not fit.
    """
    names = None if class_names is None else read_class_names(class_names)
    if is_shards(path) or path.is_file():
        return ImageDataset.from_list(
            path, root, delimiter=delimiter, relabel=relabel, class_names=names
        )
    if not path.is_dir():
        raise GoogLeNetError(f"{path}: no such dataset")
    lists = {p: file for p in PARTS if (file := path / f"{p}_list.txt").is_file()}
    if lists:
        train, own = lists.get("train"), _chosen(path, lists, part)
        if train is None or part == "train":
            return ImageDataset.from_list(
                own, root, delimiter=delimiter, relabel=relabel, class_names=names
            )
        return open_splits(
            None, train, own, root=root, delimiter=delimiter, relabel=relabel,
            class_names=class_names,
        ).val  # fmt: skip
    if holds_shards(path):
        return _of_shards(path, part, relabel, names)
    return _of_folders(path, part, names)


def _of_shards(path: Path, part: str, relabel: bool, names: Sequence[str] | None) -> ImageDataset:
    found = {p: shards for p in PARTS if (shards := shards_of_split(path, p))}
    images = read_shards(path, _chosen(path, found, part) if found else shards_in(path))
    return ImageDataset.from_image_list(images, images.classes() if relabel else None, names)


def _of_folders(path: Path, part: str, names: Sequence[str] | None) -> ImageDataset:
    folders = split_folders(path)
    if not folders:
        refuse_splits_as_classes(path)
        return ImageDataset.from_folder(path, class_names=names)
    own = _chosen(path, folders, part)
    if names is None and "train" in folders and part != "train":
        names = ImageDataset.from_folder(folders["train"]).class_names
    return ImageDataset.from_folder(own, class_names=names)


def open_whatever_can_be(
    path: Path, *, root: Path | None = None, delimiter: str = " "
) -> tuple[dict[str, ImageDataset], list[str]]:
    """Open all parts of a dataset, past the folders, lists and shards that cannot be used.

    Args:
        path: A dataset folder, class folders, a list or shards. If it has no validation images, a
            tenth is a part of its own, as in a training run.
        root: Folder that the paths of lists are relative to.
        delimiter: Separator of path and label in lists.

    Returns:
        Parts by name, those with images, and a line for whatever cannot be used.

    Raises:
        GoogLeNetError: there is no such path.
    """
    problems: list[str] = []
    parts: dict[str, ImageDataset | None] = {}
    if not path.is_dir():
        return {"all": ImageDataset.from_list(path, root, delimiter=delimiter)}, problems
    for part in PARTS:
        if (file := path / f"{part}_list.txt").is_file():
            parts[part] = _tried(
                partial(ImageDataset.from_list, file, root, delimiter=delimiter), problems
            )
    if not parts and holds_shards(path):
        found = {p: shards for p in PARTS if (shards := shards_of_split(path, p))}
        for part, shards in (found or {"train": shards_in(path)}).items():
            good = [shard for shard in shards if _tried(partial(index_shard, shard), problems)]
            parts[part] = _tried(partial(_of_images, path, good), problems) if good else None
    elif not parts:
        for part, folder in (split_folders(path) or {"train": path}).items():
            parts[part] = _of_good_folders(folder, problems)
    opened = {part: images for part in PARTS if (images := parts.get(part)) is not None}
    if (train := opened.get("train")) is not None:
        for part, dataset in opened.items():  # lists and shards have the names of the training's
            numbered = dataset.tar_members is not None or dataset.source.is_file()
            if numbered and dataset.num_classes <= train.num_classes:
                opened[part] = replace(dataset, class_names=train.class_names)
    if "train" in opened and "val" not in parts:
        opened = hold_out(opened.pop("train"))._asdict() | opened
    return opened, problems


def _tried(open_it: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return open_it()
    except GoogLeNetError as error:
        problems.append(str(error))
        return None


def _of_images(path: Path, shards: Sequence[Path]) -> ImageDataset:
    return ImageDataset.from_image_list(read_shards(path, shards), None, None)


def _of_good_folders(root: Path, problems: list[str]) -> ImageDataset | None:
    """Return the images of the class folders that have some."""
    listing = scan_class_folders(root)
    problems += listing.problems
    report_passed_over(root, listing)
    unlisted = {line.partition(": ")[0] for line in listing.problems}
    for name, files in listing.images.items():
        if not files and str(root / name) not in unlisted:
            problems.append(f"{root / name}: this class folder holds no image; fill or remove it")
    images = {name: files for name, files in listing.images.items() if files}
    if not images:
        problems.append(f"{root}: holds no class folders with images")
        return None
    labels = np.repeat(np.arange(len(images)), [len(files) for files in images.values()])
    paths = [f"{name}/{file}" for name, files in images.items() for file in files]
    return ImageDataset(root, paths, labels, tuple(images), root)


def _chosen(path: Path, parts: Mapping[str, T], part: str) -> T:
    if part not in parts:
        raise GoogLeNetError(f"{path}: has {' and '.join(parts)} images, but no {part} images")
    return parts[part]
