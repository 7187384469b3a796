"""Evaluate the best checkpoint of a run on its validation images."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from googlenet_fast.classifier.classifier import Classifier
from googlenet_fast.classifier.contact_sheet import photo_on_mat
from googlenet_fast.cli import Device
from googlenet_fast.data import ImageDataset
from googlenet_fast.engine.build import open_data
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import distributed
from googlenet_fast.engine.evaluation import Evaluation, evaluate
from googlenet_fast.engine.mistakes import Mistake, Mistakes


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
    source: Path
    """Folder or list of the images."""
    mistakes: list[ShownMistake]
    """Most confident first."""


def evaluate_run(folder: Path, max_mistakes: int, device: Device = "auto") -> RunEvaluation:
    """Evaluate best.pt on the validation images of the run's configuration.

    Raises:
        UserError: the configuration, the images or the checkpoint are missing or do not match.
    """
    config = load_config(["-c", str(folder / "config.yaml")])
    dataset = open_data(config.data).val
    mistakes = Mistakes(max_mistakes)
    with distributed(device) as process:
        classifier = Classifier(
            folder / "best.pt",
            process.device,
            loader="auto" if config.data.loader == "synthetic" else config.data.loader,
            batch_size=config.data.batch_size,
            num_workers=config.data.num_workers,
            max_pixels=config.data.max_pixels,
        )
        dataset.check_labels(classifier.num_classes)
        evaluation = evaluate(
            classifier.network,
            tqdm(classifier.loader(dataset), unit="batch", leave=False, disable=None),
            process,
            classifier.num_classes,
            classifier.amp_dtype,
            mistakes.add,
        )
    shown = [
        _shown(mistake, dataset, classifier.names) for mistake in mistakes.most_confident_first()
    ]
    return RunEvaluation(evaluation, classifier.names, dataset.source, shown)


def _shown(mistake: Mistake, dataset: ImageDataset, names: tuple[str, ...]) -> ShownMistake:
    location = dataset.location(mistake.index)
    content = io.BytesIO()
    photo_on_mat(io.BytesIO(location.read())).save(content, "JPEG", quality=85)
    thumbnail = data_uri(content.getvalue(), "image/jpeg")
    return ShownMistake(
        mistake, location.name, names[mistake.label], names[mistake.prediction], thumbnail
    )


def data_uri(content: bytes, media_type: str) -> str:
    """Return bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
