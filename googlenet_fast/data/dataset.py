"""Labelled sets of image files, which every loader reads."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.choices import Split
from googlenet_fast.data.folders import list_class_folders
from googlenet_fast.data.lists import ImageList, place_in
from googlenet_fast.data.shards import read_images
from googlenet_fast.data.tar_members import Location, TarMembers
from googlenet_fast.errors import GoogLeNetError

MOST_CLASSES = 1_000_000
"""More classes than a classifier can have: a larger label is an identifier or a mistake."""
RELABEL = "--data.relabel true (evaluate: --relabel)"
"""The flags that renumber labels."""

_log = logging.getLogger("googlenet_fast")


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Image files and their labels."""

    root: Path
    """Folder that `files` are relative to."""
    files: list[str]
    """Paths of the images."""
    labels: NDArray[np.int64]
    """Class indices, (len(files),)."""
    class_names: tuple[str, ...]
    """Names by class index."""
    source: Path
    """Folder, list file or pattern of shards that this was read from."""
    tar_members: TarMembers | None = None
    """Where the images are if they are members of tar files."""
    split: Split = "all"
    """Which images of a dataset these are."""
    whole: "ImageDataset | None" = None
    """The images that these were taken from, if a dataset without validation images was split."""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def num_classes(self) -> int:
        """Number of classes, including those without images."""
        return len(self.class_names)

    def path(self, index: int) -> str:
        """Return the path of an image; for a tar member, the tar file's path and its name."""
        return f"{self.root}/{self.files[index]}"

    def location(self, index: int) -> Location:
        """Return where the bytes of an image are."""
        path = self.path(index)
        return (
            Location(path, path)
            if self.tar_members is None
            else self.tar_members.location(index, path)
        )

    def subset(self, indices: NDArray[np.int64]) -> "ImageDataset":
        """Return the images at `indices`, with all classes."""
        return replace(
            self,
            files=[self.files[i] for i in indices],
            labels=self.labels[indices],
            tar_members=None if self.tar_members is None else self.tar_members.take(indices),
        )

    def joined(self, other: "ImageDataset") -> "ImageDataset":
        """Return the images of two datasets with the same classes.

        Raises:
            GoogLeNetError: the images of one are files, those of the other members of shards.
        """
        members = None
        if self.tar_members is not None and other.tar_members is not None:
            members = self.tar_members.joined(other.tar_members)
        elif self.tar_members is not other.tar_members:
            raise GoogLeNetError(
                f"{self.source} and {other.source}: files and shards cannot be read together; "
                "read each on its own"
            )
        root = os.path.commonpath([self.root.absolute(), other.root.absolute()])
        prefixes = [os.path.relpath(part.root, root) for part in (self, other)]
        return replace(
            self,
            root=Path(root),
            files=[
                f"{prefix}/{file}".removeprefix("./")
                for prefix, part in zip(prefixes, (self, other), strict=True)
                for file in part.files
            ],
            labels=np.concatenate([self.labels, other.labels]),
            source=Path(os.path.commonpath([self.source.absolute(), other.source.absolute()])),
            tar_members=members,
            split="all",
        )

    def check_labels(self, num_classes: int) -> None:
        """Refuse labels that are not below `num_classes`.

        Raises:
            GoogLeNetError: names the list and line, or the image, of the first such label.
        """
        too_large = np.flatnonzero(self.labels >= num_classes)
        if too_large.size:
            index = int(too_large[0])
            place = place_in(self.source, self.files[index])
            raise GoogLeNetError(
                f"{place} has label {self.labels[index]}, but there are "
                f"{num_classes} classes (labels 0 to {num_classes - 1}): correct it, raise "
                f"num_classes, or renumber the labels from 0 with {RELABEL}"
            )

    def warn_of_empty_classes(self) -> None:
        """Log the classes without images, which labels that start at 1 or have gaps leave."""
        empty = np.setdiff1d(np.arange(self.num_classes), self.labels)
        if empty.size:
            shown = ", ".join(map(str, empty[:3])) + (", ..." if empty.size > 3 else "")
            _log.warning(
                "%s: no image has label %s: %d of the %d classes stay empty; to number the labels "
                "that occur from 0: %s",
                self.source, shown, empty.size, self.num_classes, RELABEL,
            )  # fmt: skip

    @classmethod
    def from_folder(
        cls, root: Path | str, *, class_names: Sequence[str] | None = None
    ) -> "ImageDataset":
        """Read a tree of class folders, root/CLASS/**/IMAGE, in sorted order.

        Args:
            root: The folder of the class folders.
            class_names: All classes by index; default: the folders.

        Raises:
            GoogLeNetError: no such folder, no class folders, a class folder without an image or
                missing from `class_names`.
        """
        root = Path(root)
        folders = list_class_folders(root)
        names = tuple(class_names or folders)
        index = {name: i for i, name in enumerate(names)}
        for name, files in folders.items():
            if not files:
                raise GoogLeNetError(
                    f"{root / name}: this class folder holds no image; fill or remove it"
                )
            if name not in index:
                raise GoogLeNetError(
                    f"{root / name}: a class that is not among the {len(names)} expected"
                )
        counts = [len(files) for files in folders.values()]
        labels = np.repeat(np.array([index[name] for name in folders], dtype=np.int64), counts)
        paths = [f"{name}/{file}" for name, files in folders.items() for file in files]
        return cls(root, paths, labels, names, root)

    @classmethod
    def from_list(
        cls,
        list_file: Path | str,
        root: Path | str | None = None,
        *,
        delimiter: str = " ",
        relabel: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> "ImageDataset":
        """Read a list with one line "relative/path<delimiter>label" per image.

        Args:
            list_file: The list; the last delimiter of a line separates path and label. Or shards,
                see `find_shards`; then `root` and `delimiter` are ignored.
            root: Folder that the paths are relative to; default: the folder of the list.
            delimiter: Separator of path and label.
            relabel: Renumber the labels that occur from 0, in sorted order.
            class_names: Names by label; default: the images' folders if each class has its own
                folder, otherwise the labels.

        Raises:
            GoogLeNetError: names file and line of a label that is not an integer >= 0, a path
                outside of the root, or an image that does not exist.
        """
        images = read_images(list_file, root, delimiter)
        return cls.from_image_list(images, images.classes() if relabel else None, class_names)

    @classmethod
    def from_image_list(
        cls,
        images: ImageList,
        classes: NDArray[np.int64] | None,
        class_names: Sequence[str] | None,
    ) -> "ImageDataset":
        """Build the dataset of a list whose labels are indices, or elements of `classes`."""
        labels = images.labels if classes is None else np.searchsorted(classes, images.labels)
        names = None if class_names is None else tuple(class_names)
        dataset = cls(
            images.root, images.files, labels, names or (), images.source, images.tar_members
        )
        dataset.check_labels(MOST_CLASSES if names is None else len(names))
        if names is None:
            return replace(dataset, class_names=tuple(images.class_names(classes)))
        return dataset
