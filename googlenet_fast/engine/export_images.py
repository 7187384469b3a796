"""Choose the images that an exported network is calibrated and measured on."""

from pathlib import Path
from typing import Literal, Protocol

from googlenet_fast.data import open_splits
from googlenet_fast.engine.build import open_data
from googlenet_fast.engine.config import TrainConfig
from googlenet_fast.engine.evaluated_images import EvaluatedImages, choose_images
from googlenet_fast.pretrained import local_file


class Source(Protocol):
    """Flags that name labelled images."""

    weights: str | Path
    data: Path | None
    list: Path | None
    root: Path | None
    delimiter: str
    relabel: bool
    run: TrainConfig | None


def choose_splits(
    source: Source, num_classes: int, class_names: tuple[str, ...] | None
) -> tuple[EvaluatedImages, EvaluatedImages]:
    """Return training and validation images, as training and `evaluate` choose them.

    Raises:
        GoogLeNetError: there are none, or they have classes that the network does not have.
    """
    if source.data is None and source.list is None and source.run is not None:
        splits = open_data(source.run.data)
    else:
        splits = open_splits(
            source.data,
            source.list,
            root=source.root,
            delimiter=source.delimiter,
            relabel=source.relabel,
        )

    weights = local_file(source.weights)

    def chosen(split: Literal["train", "val"]) -> EvaluatedImages:
        return choose_images(splits.val, lambda: splits, split, weights, num_classes, class_names)

    return chosen("train"), chosen("val")
