"""Evaluate weights on labelled images: `python -m googlenet_fast.evaluate WEIGHTS`."""

import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from googlenet_fast import cli
from googlenet_fast.classifier.classifier import Classifier
from googlenet_fast.classifier.display_names import shortened
from googlenet_fast.data import open_dataset, open_splits, sample_dataset
from googlenet_fast.data.dataset import Split
from googlenet_fast.engine.build import open_data
from googlenet_fast.engine.choosing import compute_fastest
from googlenet_fast.engine.config import TrainConfig
from googlenet_fast.engine.confusion import (
    ClassResult,
    class_results,
    confusion_png,
    write_class_results,
    write_confusion,
)
from googlenet_fast.engine.distributed import Process, distributed
from googlenet_fast.engine.evaluated_images import EvaluatedImages, choose_images
from googlenet_fast.engine.evaluation import Evaluation, evaluate
from googlenet_fast.engine.run_evaluation import options_of, read_run_config
from googlenet_fast.engine.run_folder import best_of
from googlenet_fast.engine.unreadable_images import drop_unreadable, save_unreadable
from googlenet_fast.errors import UserError, log_to_stderr, printable, run_command
from googlenet_fast.files import write_atomically
from googlenet_fast.paddleclas import read_config

MAX_ROWS = 20
"""Rows of the table on the terminal; of more classes it shows the worst and the best ten."""
LONGEST_NAME = 36
"""Characters of a class name in the table."""


class Options(cli.ClassifierOptions):
    """Flags of this command."""

    data: Path | None
    list: Path | None
    root: Path | None
    delimiter: str
    relabel: bool
    split: Split | None
    bad_images: Literal["error", "skip"]
    output: Path | None
    json: bool
    run: TrainConfig | None = None
    """The run whose folder was named as the weights."""


def main() -> None:
    """Run the command; its last line is RESULT with one JSON object."""
    log_to_stderr(logging.INFO)
    options = parse(sys.argv[1:])
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


def parse(arguments: Sequence[str]) -> Options:
    """Parse the command line; raise `UserError` for a mistake."""
    parser = cli.Parser(
        prog=cli.program("evaluate"),
        description="Top-1 and top-5 accuracy, loss and the confusion matrix of trained weights. "
        "Runs in one process, or in several under torchrun.",
    )
    paddleclas = read_config(*cli.add_paddleclas_flags(parser, arguments))
    if paddleclas is None:
        cli.add_weights(parser)
    cli.add_classifier_flags(parser)
    data = parser.add_argument_group("data")
    source = data.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="class folders, a dataset folder (train and val, as folders, lists or shards), or a "
        "pattern of shards, 'val-{000..009}.tar'; default: the images of the run whose folder "
        "WEIGHTS is, else the embedded handwritten digits",
    )
    source.add_argument(
        "--list", type=Path, metavar="FILE", help='a list, one "relative/path label" per line'
    )
    cli.add_list_flags(data)
    data.add_argument("--relabel", action="store_true", help="renumber the list's labels from 0")
    data.add_argument(
        "--split",
        choices=get_args(Split),
        help="which images; default: the validation images, where the dataset or the run of the "
        "checkpoint has them apart, else all",
    )
    data.add_argument(
        "--bad-images",
        choices=("error", "skip"),
        default="error",
        help="what to do about unreadable images: stop at the first one (default), or skip and "
        "count all of them; --output lists them in bad_images.txt",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for results.json, per_class.csv, confusion.csv and confusion.png; "
        "default: write nothing",
    )
    cli.add_json(output)
    if paddleclas is None:
        options = parser.parse_args(arguments, namespace=Options())
        return _with_run(parser, arguments, options) if options.weights.is_dir() else options
    parser.set_defaults(**paddleclas.evaluate_options())
    options = parser.parse_args(arguments, namespace=Options())
    if options.data is None and options.list is None:
        for key, value in paddleclas.evaluate_data().items():
            if getattr(options, key) == parser.get_default(key):
                setattr(options, key, value)
    return options


def _with_run(parser: cli.Parser, arguments: Sequence[str], options: Options) -> Options:
    """Take weights, images and how they are read from a run's folder, where no flag says else."""
    best, run = best_of(options.weights), read_run_config(options.weights)
    parser.set_defaults(bad_images=run.data.bad_images, **options_of(run))
    options = parser.parse_args(arguments, namespace=Options())
    options.weights, options.run = best, run
    return options


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output {folder}: cannot be written to ({error.strerror}); choose another folder"
        ) from None


def _choose_images(options: Options, classifier: Classifier, process: Process) -> EvaluatedImages:
    """Open the images, with the labels of the network."""
    source = options.list or options.data
    if options.list is not None and not options.list.is_file():
        raise UserError(f"--list {options.list}: no such file")
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
            raise UserError(
                f"{options.weights} has {classifier.num_classes} classes, the embedded digits "
                f"{opened.num_classes}; name the images to evaluate on with --data or --list"
            )
    images = choose_images(
        opened,
        find_splits,
        options.split,
        options.weights,
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
    options: Options,
    classifier: Classifier,
    images: EvaluatedImages,
    evaluation: Evaluation,
    seconds: float,
    bad_images: Sequence[str],
    process: Process,
) -> None:
    """Print and write the results."""
    if not math.isfinite(evaluation.loss):
        raise UserError(
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
        write_atomically(options.output / "confusion.png", confusion_png(evaluation, names))
        if options.bad_images == "skip":
            save_unreadable(bad_images, options.output)
    if options.json:
        print(document)
        return
    print(f"\n{class_table(classes, images.description)}\n\n{_summary(evaluation)}")
    if bad_images:
        print(f"{len(bad_images)} images cannot be read and were skipped")
    if options.output is not None:
        print(
            f"results.json, per_class.csv, confusion.csv and confusion.png in "
            f"{printable(options.output)}"
        )
    print(f"RESULT {json.dumps(result)}", flush=True)


def _summary(evaluation: Evaluation) -> str:
    images = evaluation.images
    return (
        f"top-1 {evaluation.top1:6.2f} %  ({evaluation.top1_count}/{images})\n"
        f"top-5 {evaluation.top5:6.2f} %  ({evaluation.top5_count}/{images})\n"
        f"loss  {evaluation.loss:7.4f}"
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
    width = min(LONGEST_NAME, max(len(r.name) for r in rows))
    lines = [heading, f"{'class':{width}}  {'top-1':>7}  {'images':>7}  most often confused with"]
    lines += [
        f"{shortened(r.name, width):{width}}  {r.top1:5.1f} %  {r.images:7}  "
        f"{shortened(r.confused_with, LONGEST_NAME)}".rstrip()
        for r in rows
    ]
    if len(classes) > MAX_ROWS:
        lines.insert(2 + MAX_ROWS // 2, "...")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
