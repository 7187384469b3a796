"""Recognise a dataset's folders of training, validation and test images by their names."""

import os
import re
from pathlib import Path

from googlenet_fast.data.folders import TOOLS_OWN, is_image_name
from googlenet_fast.errors import GoogLeNetError

SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Name of a folder, in lower case -> split."""

_LOOKS_LIKE = re.compile(r"(?<![a-z])(train|val|test)(ing|id|idation)?(?![a-z])")


def split_folders(dataset: Path) -> dict[str, Path]:
    """Return "train", "val" and "test" -> folder, of those that a dataset folder has.

    A folder of such a name that holds images, not folders of images, is a class if other classes
    are beside it: `train` is also a vehicle.

    Raises:
        GoogLeNetError: two folders of one split.
    """
    found: dict[str, Path] = {}
    for folder in _folders_in(dataset):
        split = SPLITS.get(folder.name.lower())
        if split is None or _holds_images_only(folder):
            continue
        if other := found.get(split):
            raise GoogLeNetError(
                f"{dataset}: both {other.name} and {folder.name}; keep one of them"
            )
        found[split] = folder
    return found


def refuse_splits_as_classes(dataset: Path) -> None:
    """Refuse class folders whose names are those of splits, like `training_set` and `test_set`.

    Raises:
        GoogLeNetError: names the folders.
    """
    folders = _folders_in(dataset)
    matches = [_LOOKS_LIKE.search(folder.name.lower()) for folder in folders]
    splits = {match[1] for match in matches if match}
    if not splits or None in matches:
        return
    if all(map(_holds_images_only, folders)) and any(f.name.lower() in SPLITS for f in folders):
        raise GoogLeNetError(
            f"{folders[0]}: holds images, but no class folders; "
            f"expected {folders[0]}/CLASS/IMAGE.jpg"
        )
    if len(splits) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise GoogLeNetError(
            f"{dataset}: its folders {names} look like splits, not like classes; "
            "name them train, val and test"
        )


def _folders_in(dataset: Path) -> list[Path]:
    try:
        with os.scandir(dataset) as entries:
            return sorted(Path(entry) for entry in entries if _is_visible_folder(entry))
    except OSError as error:
        raise GoogLeNetError(f"{dataset}: cannot be listed ({error.strerror})") from None


def _is_visible_folder(entry: "os.DirEntry[str]") -> bool:
    if entry.name.startswith(".") or entry.name.lower() in TOOLS_OWN:
        return False
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _holds_images_only(folder: Path) -> bool:
    """Return True for a folder with images directly in it and no folder."""
    images = False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_visible_folder(entry):
                    return False
                images = images or is_image_name(entry.name)
    except OSError:  # listing it will name it
        return False
    return images
