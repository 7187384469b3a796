"""Choose the images that weights are evaluated on, and say which they are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from googlenet_fast.choices import Split
from googlenet_fast.data import ImageDataset, Splits
from googlenet_fast.data.splits import hold_out
from googlenet_fast.engine.class_matching import match_classes
from googlenet_fast.engine.held_out import HeldOut
from googlenet_fast.errors import GoogLeNetError, printable

BY_THE_RUN = " (held out by the run)"
AS_IN_TRAINING = " (held out as training does)"
_KINDS = {"train": "training images", "val": "validation images", "all": "images"}


@dataclass(frozen=True)
class EvaluatedImages:
    """Images to evaluate on, with the labels of the network."""

    dataset: ImageDataset
    which: str
    """What they are, "validation images of PATH (held out by the run)"."""
    notes: list[str]
    """What the user should know about the choice."""

    @property
    def description(self) -> str:
        """Number and kind of the images, in words for the terminal."""
        return printable(f"{len(self.dataset)} {self.which}")


def choose_images(
    opened: ImageDataset,
    open_splits: Callable[[], Splits],
    split: Split | None,
    weights: Path,
    num_classes: int,
    class_names: tuple[str, ...] | None,
) -> EvaluatedImages:
    """Choose images of a dataset.

    If the run of the weights split this dataset itself, its validation images are those that the
    run did not train on.

    Args:
        opened: what `open_dataset` found: validation images, or all images.
        open_splits: finds training and validation images of the same dataset.
        split: which images; default: the validation images, or all if the dataset is not split.
        weights: file of the weights; a checkpoint says which images its run held out.
        num_classes: length of the network's logits.
        class_names: the network's classes by index, if known.

    Raises:
        GoogLeNetError: the dataset has no such images, or classes that the network does not have.
    """
    notes: list[str] = []

    def matched(dataset: ImageDataset) -> ImageDataset:
        dataset, note = match_classes(dataset, num_classes, class_names)
        notes.extend([note] if note is not None and note not in notes else [])
        return dataset

    whole = matched(opened if opened.whole is None else opened.whole)
    is_divided = opened.split == "val" and opened.whole is None
    by_run = None
    try:
        held_out = HeldOut.read(weights)
    except LookupError:
        if split is None and opened.split == "all" and opened.source.is_dir():
            notes.append(
                f"all images of {opened.source} count; --split val counts those alone that "
                "training holds out of such a folder"
            )
    else:
        by_run = None if held_out is None else held_out.split(whole)
        if held_out is not None and by_run is None and (warning := held_out.warning(whole)):
            notes.append(warning)
    if split in ("train", "all") and is_divided:
        parts = open_splits()
        chosen = parts.train if split == "train" else parts.train.joined(parts.val)
        return _described(matched(chosen), "", notes)
    if by_run is not None and split != "all":
        notes += [] if by_run.note is None else [by_run.note]
        part = by_run.splits.train if split == "train" else by_run.splits.val
        return _described(part, BY_THE_RUN if split != "train" else "", notes)
    if is_divided or split == "all" or (split is None and opened.split == "all"):
        return _described(whole, "", notes)
    parts = hold_out(whole)
    part = parts.train if split == "train" else parts.val
    return _described(part, AS_IN_TRAINING if split != "train" else "", notes)


def _described(dataset: ImageDataset, how: str, notes: list[str]) -> EvaluatedImages:
    if not len(dataset):
        raise GoogLeNetError(
            f"{dataset.source}: none of its images are {_KINDS[dataset.split]}{how}"
        )
    which = f"{_KINDS[dataset.split]} of {dataset.source}{how}"
    return EvaluatedImages(dataset, which, notes)
