"""Evaluate the best checkpoint of a run on its validation images."""

import base64
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from googlenet_fast.classifier.classifier import Classifier
from googlenet_fast.classifier.contact_sheet import photo_on_mat
from googlenet_fast.cli import Device
from googlenet_fast.data import ImageDataset
from googlenet_fast.engine.build import open_data
from googlenet_fast.engine.config import TrainConfig, load_config
from googlenet_fast.engine.distributed import distributed
from googlenet_fast.engine.evaluated_images import EvaluatedImages, choose_images
from googlenet_fast.engine.evaluation import Evaluation, evaluate
from googlenet_fast.engine.mistakes import Mistake, Mistakes
from googlenet_fast.engine.run_folder import best_of
from googlenet_fast.engine.unreadable_images import drop_unreadable
from googlenet_fast.errors import GoogLeNetError


@dataclass(frozen=True)
class ShownMistake:
    """A wrong prediction with the data to display it."""

    mistake: Mistake
    path: str
    label: str
    prediction: str
    thumbnail: str
    """A data URI."""


@dataclass(frozen=True)
class RunEvaluation:
    """Results on the validation images."""

    evaluation: Evaluation
    names: tuple[str, ...]
    """The classes by index."""
    images: EvaluatedImages
    """What it was evaluated on."""
    mistakes: list[ShownMistake]
    """Most confident first."""


def evaluate_run(folder: Path, max_mistakes: int, device: Device = "auto") -> RunEvaluation:
    """Evaluate best.pt on the validation images of the run's configuration.

    Raises:
        GoogLeNetError: the configuration, the images or the checkpoint are missing or do not match.
    """
    run, best = read_run_config(folder), best_of(folder)
    splits = open_data(run.data)
    mistakes = Mistakes(max_mistakes)
    with distributed(device) as process:
        classifier = Classifier(best, process.device, **options_of(run))
        images = choose_images(
            splits.val, lambda: splits, "val", best, classifier.num_classes, classifier.class_names
        )
        if run.data.bad_images == "skip":
            kept, _ = drop_unreadable(images.dataset, process, classifier.loader_options)
            images = replace(images, dataset=kept)
        evaluation = evaluate(
            classifier.network,
            tqdm(classifier.loader(images.dataset), unit="batch", leave=False, disable=None),
            process,
            classifier.num_classes,
            classifier.amp_dtype,
            mistakes.add,
        )
    shown = [
        _shown(mistake, images.dataset, classifier.names)
        for mistake in mistakes.most_confident_first()
    ]
    return RunEvaluation(evaluation, classifier.names, images, shown)


def read_run_config(folder: Path) -> TrainConfig:
    """Return the configuration of the run in a folder.

    Raises:
        GoogLeNetError: there is none, or it cannot be read.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise GoogLeNetError(f"{folder}: is not the folder of a run (no config.yaml)")
    return load_config(["-c", str(file)])


def options_of(run: TrainConfig) -> dict[str, Any]:
    """Return the options of a classifier that reads and computes as the run did in evaluation."""
    data = run.data
    return {
        "loader": "auto" if data.loader == "synthetic" else data.loader,
        "batch_size": data.batch_size,
        "num_workers": data.num_workers,
        "max_pixels": data.max_pixels,
        "amp": run.amp,
    }


def _shown(mistake: Mistake, dataset: ImageDataset, names: tuple[str, ...]) -> ShownMistake:
    location = dataset.location(mistake.index)
    content = io.BytesIO()
    photo_on_mat(location).save(content, "JPEG", quality=85)
    thumbnail = data_uri(content.getvalue(), "image/jpeg")
    return ShownMistake(
        mistake, location.name, names[mistake.label], names[mistake.prediction], thumbnail
    )


def data_uri(content: bytes, media_type: str) -> str:
    """Return bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
