"""What the command `evaluate` does: measure weights on labelled images, print and write it."""

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from googlenet_fast.classifier.classifier import Classifier
from googlenet_fast.data import open_dataset, open_splits, sample_dataset
from googlenet_fast.engine.build import open_data
from googlenet_fast.engine.choosing import compute_fastest
from googlenet_fast.engine.confusion import (
    ClassResult,
    class_results,
    write_class_results,
    write_confusion,
)
from googlenet_fast.engine.distributed import Process, distributed
from googlenet_fast.engine.evaluate_options import EvaluateOptions
from googlenet_fast.engine.evaluated_images import EvaluatedImages, choose_images
from googlenet_fast.engine.evaluation import Evaluation, evaluate
from googlenet_fast.engine.unreadable_images import drop_unreadable, save_unreadable
from googlenet_fast.errors import GoogLeNetError, printable
from googlenet_fast.extras import missing
from googlenet_fast.files import write_atomically
from googlenet_fast.pretrained import local_file
from googlenet_fast.tables import shortened, table

MAX_ROWS = 20
"""Rows of the table on the terminal; of more classes it shows the worst and the best ten."""
LONGEST_NAME = 36
"""Columns of a class name in the table, of which a Chinese character takes two."""


def evaluate_weights(options: EvaluateOptions) -> None:
    """Evaluate as the command line says; the last line printed is RESULT with one JSON object."""
    with distributed(options.device) as process:
        if options.output is not None and process.is_main:
            _make_folder(options.output)
        classifier = Classifier(device=process.device, **options.for_classifier())
        images = _choose_images(options, classifier, process)
        bad_images: list[str] = []
        if options.bad_images == "skip":
            kept, bad_images = drop_unreadable(images.dataset, process, classifier.loader_options)
            images = replace(images, dataset=kept)
        if process.is_main and not options.json:
            print(_description(classifier, images, process), flush=True)
        compute = compute_fastest(options, classifier, len(images.dataset), process)
        started = time.perf_counter()
        evaluation = evaluate(
            compute,
            # disable=None: only on a terminal
            tqdm(
                classifier.loader(images.dataset, process.rank, process.world_size),
                unit="batch",
                leave=False,
                disable=None if process.is_main else True,
            ),
            process,
            classifier.num_classes,
            classifier.amp_dtype,
        )
        seconds = time.perf_counter() - started
        if process.is_main:
            _report(options, classifier, images, evaluation, seconds, bad_images, process)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GoogLeNetError(
            f"--output {folder}: cannot be written to ({error.strerror}); choose another folder"
        ) from None


def _choose_images(
    options: EvaluateOptions, classifier: Classifier, process: Process
) -> EvaluatedImages:
    """Open the images, with the labels of the network."""
    source = options.list or options.data
    if options.list is not None and not options.list.is_file():
        raise GoogLeNetError(f"--list {options.list}: no such file")
    how: dict[str, Any] = {
        "root": options.root,
        "delimiter": options.delimiter,
        "relabel": options.relabel,
    }
    if source is None and options.run is not None:
        splits = open_data(options.run.data)
        opened, find_splits = splits.val, lambda: splits
    else:
        opened = open_dataset(source or sample_dataset(), **how)
        find_splits = partial(open_splits, source or sample_dataset(), **how)
        if source is None and opened.num_classes != classifier.num_classes:
            raise GoogLeNetError(
                f"{options.weights} has {classifier.num_classes} classes, the embedded digits "
                f"{opened.num_classes}; name the images to evaluate on with --data or --list"
            )
    images = choose_images(
        opened,
        find_splits,
        options.split,
        local_file(options.weights),
        classifier.num_classes,
        classifier.class_names,
    )
    if process.is_main:
        for note in images.notes:
            logging.getLogger("googlenet_fast").warning("note: %s", note)
    return images


def _description(classifier: Classifier, images: EvaluatedImages, process: Process) -> str:
    return (
        f"GoogLeNet preset {classifier.network.preset.name}, {classifier.num_classes} classes,"
        f" from {printable(classifier.weights)}\n"
        f"{images.description} at {classifier.preprocessing} on {process.device.type}"
    )


def _report(
    options: EvaluateOptions,
    classifier: Classifier,
    images: EvaluatedImages,
    evaluation: Evaluation,
    seconds: float,
    bad_images: Sequence[str],
    process: Process,
) -> None:
    """Print and write the results."""
    if not math.isfinite(evaluation.loss):
        raise GoogLeNetError(
            f"{options.weights}: the loss is {evaluation.loss}; the weights are damaged, or "
            "overflow in mixed precision (--amp off)"
        )
    names = classifier.names
    classes = class_results(evaluation, names)
    result: dict[str, Any] = {
        "top1": round(evaluation.top1, 3),
        "top5": round(evaluation.top5, 3),
        "loss": round(evaluation.loss, 5),
        "images": evaluation.images,
        "bad_images": len(bad_images),
        "top1_count": evaluation.top1_count,
        "top5_count": evaluation.top5_count,
        "images_per_second": round(evaluation.images / seconds, 1),
        "weights": str(options.weights),
        "data": str(images.dataset.source),
        "split": images.dataset.split,
        "which": images.which,
        "preset": classifier.network.preset.name,
        "num_classes": classifier.num_classes,
        "image_size": classifier.preprocessing.image_size,
        "resize_size": classifier.preprocessing.resize_size,
        "resize": classifier.preprocessing.resize,
        "world_size": process.world_size,
    }
    per_class = [
        {"index": r.index, "class": r.name, "images": r.images, "correct": r.correct}
        for r in classes
    ]
    document = json.dumps({**result, "classes": per_class}, indent=2)
    if options.output is not None:
        write_atomically(options.output / "results.json", f"{document}\n".encode())
        write_class_results(classes, options.output / "per_class.csv")
        write_confusion(evaluation.confusion, names, options.output / "confusion.csv")
        drawn = _draw_confusion(evaluation, names, options.output)
        if options.bad_images == "skip":
            save_unreadable(bad_images, options.output)
    if options.json:
        print(document)
        return
    print(f"\n{class_table(classes, images.description)}\n\n{_summary(evaluation)}")
    if bad_images:
        print(f"{len(bad_images)} images cannot be read and were skipped")
    if options.output is not None:
        print(f"results.json, per_class.csv, confusion.csv{drawn} in {printable(options.output)}")
    print(f"RESULT {json.dumps(result)}", flush=True)


def _draw_confusion(evaluation: Evaluation, names: Sequence[str], folder: Path) -> str:
    """Draw confusion.png if matplotlib is installed; return words for the list of files."""
    if (reason := missing(["matplotlib"])) is not None:
        return f" (no confusion.png: {reason})"
    from googlenet_fast.engine.confusion_image import confusion_png

    write_atomically(folder / "confusion.png", confusion_png(evaluation, names))
    return ", confusion.png"


def _summary(evaluation: Evaluation) -> str:
    images = evaluation.images
    return table(
        [
            ["top-1", f"{evaluation.top1:.2f} %", f"({evaluation.top1_count}/{images})"],
            ["top-5", f"{evaluation.top5:.2f} %", f"({evaluation.top5_count}/{images})"],
            ["loss", f"{evaluation.loss:.4f}", ""],
        ],
        right=(1,),
    )


def class_table(classes: Sequence[ClassResult], images: str) -> str:
    """Return the accuracy of each class, or of the worst and best ten, as aligned text.

    `images` says which images they are, in the title.
    """
    rows = list(classes)
    heading = f"accuracy of {len(rows)} classes on {images}"
    if len(rows) > MAX_ROWS:
        rows.sort(key=lambda r: (r.top1, -r.images))
        rows = rows[: MAX_ROWS // 2] + rows[-MAX_ROWS // 2 :]
        heading += ": the worst and the best ten"
    shown = table(
        [
            [
                shortened(r.name, LONGEST_NAME),
                f"{r.top1:.1f} %",
                str(r.images),
                shortened(r.confused_with, LONGEST_NAME),
            ]
            for r in rows
        ],
        ["class", "top-1", "images", "most often confused with"],
        right=(1, 2),
    )
    lines = [heading, *shown.splitlines()]
    if len(classes) > MAX_ROWS:
        lines.insert(2 + MAX_ROWS // 2, "...")
    return "\n".join(lines)
