"""Find the training and validation images of a dataset."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.lists import ImageList, place_in, read_class_names
from googlenet_fast.data.sample import sample_dataset
from googlenet_fast.data.shards import (
    holds_shards,
    is_shards,
    read_images,
    read_shards,
    shards_in,
    shards_of_split,
)
from googlenet_fast.data.split_folders import refuse_splits_as_classes, split_folders
from googlenet_fast.errors import GoogLeNetError

HELD_OUT = 0.1
"""Share of each class held out for validation if a dataset has no validation images."""

_log = logging.getLogger("googlenet_fast")


class Splits(NamedTuple):
    """Training and validation parts of a dataset, with the same classes."""

    train: ImageDataset
    """Images to train on."""
    val: ImageDataset
    """Images to validate on."""


def open_splits(
    path: Path | str | None = None,
    train_list: Path | str | None = None,
    val_list: Path | str | None = None,
    *,
    root: Path | str | None = None,
    val_root: Path | str | None = None,
    delimiter: str = " ",
    relabel: bool = False,
    class_names: Path | str | None = None,
) -> Splits:
    """Open the training and validation images that the arguments describe.

    Args:
        path: A dataset folder, see `find_splits`; default, without lists: `sample_dataset()`.
        train_list: List or shards of training images, instead of `path`.
        val_list: List or shards of validation images; default: a tenth of the training images is
            held out.
        root: Folder that the paths of the lists are relative to; default: the folder of each list.
        val_root: The same for `val_list`; default: `root`.
        delimiter: Separator of path and label in the lists.
        relabel: Renumber the labels of the training list from 0, in sorted order.
        class_names: File with one class name per line, in the order of the class indices.

    Raises:
        GoogLeNetError: names the argument, file or folder that does not fit.
    """
    names = None if class_names is None else read_class_names(Path(class_names))
    if train_list is None:
        if val_list is not None:
            raise GoogLeNetError(f"val_list {val_list}: needs a train_list beside it")
        folder = sample_dataset() if path is None else Path(path)
        return _splits_of_folder(folder, root, delimiter, relabel, names)
    if path is not None:
        raise GoogLeNetError(
            f"train_list {train_list}: give either it or the dataset folder {path}"
        )
    train = read_images(train_list, root, delimiter)
    val = None if val_list is None else read_images(val_list, val_root or root, delimiter)
    return _splits_of_lists(train, val, relabel, names)


def find_splits(path: Path | str) -> Splits:
    """Find the training and validation images of a dataset folder.

    The folder holds train_list.txt and val_list.txt (paths below the folder), or train/ and val/
    with class folders (also training/, valid/ and validation/, in any case of letters), or class
    folders alone. Or it holds shards: *train*.tar and *val*.tar,
    train/*.tar and val/*.tar, or others. If there are no validation images, a tenth is held out.
    `path` can also be a pattern of shards, see `find_shards`.

    Raises:
        GoogLeNetError: names the file or folder that does not fit.
    """
    return open_splits(path)


def open_dataset(
    path: Path | str,
    *,
    root: Path | str | None = None,
    delimiter: str = " ",
    relabel: bool = False,
    class_names: Sequence[str] | None = None,
) -> ImageDataset:
    """Open the images to evaluate on.

    Args:
        path: A list file, shards, a folder of class folders, or a dataset folder (see
            `find_splits`), of which the validation images are taken, or, if it has neither
            training nor validation images, those of its folder test/.
        root: Folder that the paths of a list are relative to; default: the folder of the list.
        delimiter: Separator of path and label in a list.
        relabel: Renumber the labels of a list from 0, in sorted order; for a dataset folder, the
            order of the training list's labels.
        class_names: All classes of the network by index, in which class folders are looked up;
            default: the classes of the dataset.

    Raises:
        GoogLeNetError: names the file or folder that does not fit.
    """
    path = Path(path)
    if is_shards(path) or holds_shards(path):
        return _shards_to_evaluate_on(path, relabel, class_names)
    val_list, train_list = path / "val_list.txt", path / "train_list.txt"
    has_lists = val_list.is_file() or train_list.is_file()
    folders = split_folders(path) if path.is_dir() and not has_lists else {}
    has_train = train_list.is_file() or "train" in folders
    has_val = val_list.is_file() or "val" in folders
    if has_train and (relabel or class_names is None or not has_val):
        return _splits_of_folder(path, root, delimiter, relabel, class_names).val
    if path.is_file() or val_list.is_file():
        dataset = ImageDataset.from_list(
            path if path.is_file() else val_list,
            root,
            delimiter=delimiter,
            relabel=relabel,
            class_names=class_names,
        )
    else:
        if path.is_dir() and not folders:
            refuse_splits_as_classes(path)
        dataset = ImageDataset.from_folder(
            folders.get("val") or folders.get("test") or path, class_names=class_names
        )
    return replace(dataset, split="val" if has_val else "all")


def _shards_to_evaluate_on(
    path: Path, relabel: bool, class_names: Sequence[str] | None
) -> ImageDataset:
    if is_shards(path):
        return ImageDataset.from_list(path, relabel=relabel, class_names=class_names)
    train, val = shards_of_split(path, "train"), shards_of_split(path, "val")
    if train and (relabel or not val):
        return _splits_of_folder(path, None, "", relabel, class_names).val
    images = read_shards(path, val or shards_in(path))
    classes = images.classes() if relabel else None
    dataset = ImageDataset.from_image_list(images, classes, class_names)
    return replace(dataset, split="val" if val else "all")


def _splits_of_folder(
    path: Path,
    root: Path | str | None,
    delimiter: str,
    relabel: bool,
    class_names: Sequence[str] | None,
) -> Splits:
    if is_shards(path):
        return _splits_of_lists(read_images(path), None, relabel, class_names)
    if not path.is_dir():
        raise GoogLeNetError(f"{path}: no such dataset folder")
    if holds_shards(path):
        return _splits_of_lists(*_shards_of_folder(path), relabel, class_names)
    train_list, val_list = path / "train_list.txt", path / "val_list.txt"
    if train_list.is_file():
        train = read_images(train_list, root, delimiter)
        val = read_images(val_list, root, delimiter) if val_list.is_file() else None
        return _splits_of_lists(train, val, relabel, class_names)
    folders = split_folders(path)
    if not folders:
        refuse_splits_as_classes(path)
        return _hold_out(ImageDataset.from_folder(path, class_names=class_names))
    if "train" not in folders:
        found = " and ".join(folders)
        raise GoogLeNetError(
            f"{path}: holds {found} images, but none to train on (data shard --split reads them)"
        )
    dataset = ImageDataset.from_folder(folders["train"], class_names=class_names)
    if "test" in folders:
        _log.info("%s: neither trained nor validated on", folders["test"])
    if "val" not in folders:
        return _hold_out(dataset)
    names = dataset.class_names
    return _checked(dataset, ImageDataset.from_folder(folders["val"], class_names=names))


def _shards_of_folder(path: Path) -> tuple[ImageList, ImageList | None]:
    """Return the training and validation shards in a folder."""
    train, val = shards_of_split(path, "train"), shards_of_split(path, "val")
    train = train or [shard for shard in shards_in(path) if shard not in val]
    if not train:
        raise GoogLeNetError(f"{path}: holds validation shards only; to train on them, name them")
    return read_shards(path, train), read_shards(path, val) if val else None


def _splits_of_lists(
    train: ImageList, val: ImageList | None, relabel: bool, class_names: Sequence[str] | None
) -> Splits:
    """Build both datasets with the classes of the training list."""
    known = train.classes()
    classes = known if relabel else None
    dataset = ImageDataset.from_image_list(train, classes, class_names)
    if class_names is None:
        dataset.warn_of_empty_classes()
    if val is None:
        return _hold_out(dataset)
    unknown = np.flatnonzero(~np.isin(val.labels, known))
    if unknown.size:
        index = int(unknown[0])
        place = place_in(val.source, val.files[index])
        raise GoogLeNetError(
            f"{place} has label {val.labels[index]}, which no image of {train.source} has"
        )
    return _checked(dataset, ImageDataset.from_image_list(val, classes, dataset.class_names))


def hold_out(dataset: ImageDataset, fraction: float = HELD_OUT, seed: int = 0) -> Splits:
    """Hold out a fixed share of each class, at least one image of two."""
    held_out = np.zeros(len(dataset), dtype=bool)
    for label in np.unique(dataset.labels):
        images = np.flatnonzero(dataset.labels == label)
        count = max(round(fraction * len(images)), 1) if len(images) > 1 else 0
        held_out[np.random.default_rng(seed).permutation(images)[:count]] = True
    return split_by(dataset, held_out)


def split_by(dataset: ImageDataset, held_out: NDArray[np.bool_]) -> Splits:
    """Split a dataset; `held_out` (N,) is true for its validation images."""
    train, val = (dataset.subset(np.flatnonzero(part)) for part in (~held_out, held_out))
    return Splits(
        replace(train, split="train", whole=dataset), replace(val, split="val", whole=dataset)
    )


def _hold_out(dataset: ImageDataset) -> Splits:
    splits = _checked(*hold_out(dataset))
    _log.info(
        "%s has no validation images: %d of its %d images are held out for validation",
        dataset.source, len(splits.val), len(dataset),
    )  # fmt: skip
    return splits


def _checked(train: ImageDataset, val: ImageDataset) -> Splits:
    if len(np.unique(train.labels)) < 2:
        raise GoogLeNetError(
            f"{train.source}: has images of one class only; a classifier needs two or more"
        )
    return Splits(replace(train, split="train"), replace(val, split="val"))
