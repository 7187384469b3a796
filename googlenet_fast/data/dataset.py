"""The description of a labelled set of image files that feeds every loader."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from googlenet_fast.data.folders import list_class_folders
from googlenet_fast.data.lists import ImageList, place_in
from googlenet_fast.data.shards import read_images
from googlenet_fast.data.tar_members import Location, Members
from googlenet_fast.errors import UserError

MOST_CLASSES = 1_000_000
"""More than any classifier here can have: a greater label is an identifier or a slip."""


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
    """Names in the order of the class indices."""
    source: Path
    """The folder, list file or pattern of shards that this was read from."""
    members: Members | None = None
    """Where the images lie, if not in files of their own."""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def num_classes(self) -> int:
        """Number of classes, those without an image included."""
        return len(self.class_names)

    def path(self, index: int) -> str:
        """Path of an image; of a member of a tar file, its name below the file's path."""
        return f"{self.root}/{self.files[index]}"

    def location(self, index: int) -> Location:
        """Where the bytes of an image lie."""
        path = self.path(index)
        return Location(path, path) if self.members is None else self.members.location(index, path)

    def subset(self, indices: NDArray[np.int64]) -> "ImageDataset":
        """The images at `indices`, with all the classes."""
        return replace(
            self,
            files=[self.files[i] for i in indices],
            labels=self.labels[indices],
            members=None if self.members is None else self.members.take(indices),
        )

    def check_labels(self, num_classes: int) -> None:
        """Refuse labels that a classifier of `num_classes` classes has no output for.

        Raises:
            UserError: names the list and line, or the image, of the first such label.
        """
        too_large = np.flatnonzero(self.labels >= num_classes)
        if too_large.size:
            index = int(too_large[0])
            place = place_in(self.source, self.files[index])
            raise UserError(
                f"{place} has label {self.labels[index]}, but there are "
                f"{num_classes} classes (labels 0 to {num_classes - 1}): correct it, raise "
                "num_classes, or number the labels anew with relabel"
            )

    @classmethod
    def from_folder(
        cls, root: Path | str, *, class_names: Sequence[str] | None = None
    ) -> "ImageDataset":
        """Read a tree of class folders, root/CLASS/**/IMAGE, in sorted order.

        Args:
            root: The folder of the class folders.
            class_names: All the classes, in the order of their indices; default: the folders.

        Raises:
            UserError: no such folder, no class folders, one without an image, one that
                `class_names` lacks.
        """
        root = Path(root)
        folders = list_class_folders(root)
        names = tuple(class_names or folders)
        index = {name: i for i, name in enumerate(names)}
        for name, files in folders.items():
            if not files:
                raise UserError(
                    f"{root / name}: this class folder holds no image; fill or remove it"
                )
            if name not in index:
                raise UserError(
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
        """Read a list with a line "relative/path<delimiter>label" for each image.

        Args:
            list_file: The list; the last delimiter of a line separates path and label. Or shards,
                see `find_shards`, for which `root` and `delimiter` mean nothing.
            root: Folder that the paths start from; default: the folder of the list.
            delimiter: What separates path and label.
            relabel: Number the labels that occur anew from 0, in sorted order.
            class_names: Names by label; default: the folders of the images where each class has
                one of its own, else the labels.

        Raises:
            UserError: names the file and the line: a line without an integer label >= 0, a path
                that leaves the root, an image that does not exist.
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
        """The dataset of a list whose labels are indices, or elements of `classes`."""
        labels = images.labels if classes is None else np.searchsorted(classes, images.labels)
        names = None if class_names is None else tuple(class_names)
        dataset = cls(images.root, images.files, labels, names or (), images.source, images.members)
        dataset.check_labels(MOST_CLASSES if names is None else len(names))
        if names is None:
            return replace(dataset, class_names=tuple(images.class_names(classes)))
        return dataset
