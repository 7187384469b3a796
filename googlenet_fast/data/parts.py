"""Open one part of a dataset: its training, validation or test images, or all if undivided."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.lists import read_class_names
from googlenet_fast.data.shards import (
    holds_shards,
    is_shards,
    read_shards,
    shards_in,
    shards_of_split,
)
from googlenet_fast.data.split_folders import refuse_splits_as_classes, split_folders
from googlenet_fast.data.splits import open_splits
from googlenet_fast.errors import UserError

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
        UserError: names the file or folder that does not fit.
    """
    names = None if class_names is None else read_class_names(class_names)
    if is_shards(path) or path.is_file():
        return ImageDataset.from_list(
            path, root, delimiter=delimiter, relabel=relabel, class_names=names
        )
    if not path.is_dir():
        raise UserError(f"{path}: no such dataset")
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


def _chosen(path: Path, parts: dict[str, T], part: str) -> T:
    if part not in parts:
        raise UserError(f"{path}: has {' and '.join(parts)} images, but no {part} images")
    return parts[part]
