"""Classify photos: `python -m googlenet_fast.predict WEIGHTS IMAGES...`."""

import json
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from googlenet_fast import cli, tables
from googlenet_fast.choices import SHEET_FORMATS
from googlenet_fast.engine.run_options import parse_with_run
from googlenet_fast.errors import (
    GoogLeNetError,
    log_to_stderr,
    long_imports,
    printable,
    run_command,
)
from googlenet_fast.extras import require
from googlenet_fast.limits import MAX_TILES
from googlenet_fast.paddleclas import read_config
from googlenet_fast.parser import Parser

if TYPE_CHECKING:
    from googlenet_fast.classifier.prediction import FilePrediction
    from googlenet_fast.classifier.sources import Unreadable

RESULT_SUFFIXES = (".csv", ".jsonl")
VECTOR_SUFFIXES = (".npy", ".npz", ".csv")


class Options(cli.ClassifierOptions):
    """Flags of this command."""

    images: list[str]
    top: int
    json: bool
    output: Path | None
    embed: Path | None
    explain: Path | None
    sheet: Path | None


def main() -> None:
    """Run the command; exit status 2 if an image could not be read."""
    log_to_stderr(logging.INFO)
    options = parse(sys.argv[1:])
    if options.sheet is not None:
        require("a contact sheet", "matplotlib")

    # After the command line, whose help and mistakes need not wait for torch.
    with long_imports():
        from googlenet_fast.classifier.classifier import Classifier
        from googlenet_fast.classifier.contact_sheet import save_contact_sheet
        from googlenet_fast.classifier.prediction import FilePrediction, predict
        from googlenet_fast.classifier.results import results
        from googlenet_fast.classifier.sources import find_images
        from googlenet_fast.classifier.vectors import Overlays, vectors
        from googlenet_fast.engine.choosing import compute_fastest
        from googlenet_fast.engine.distributed import distributed, world_size

    if world_size() > 1:
        raise GoogLeNetError("prediction runs in one process; start it without torchrun")
    features = options.embed is not None or options.explain is not None
    predictions = []
    with ExitStack() as cleanup:
        process = cleanup.enter_context(distributed(options.device))
        classifier = Classifier(device=process.device, **options.for_classifier())
        logging.getLogger("googlenet_fast").info("images at %s", classifier.preprocessing)
        folder = cleanup.enter_context(TemporaryDirectory(prefix="googlenet_fast."))
        images, unreadable = find_images(options.images, Path(folder))
        if not features:
            classifier.compute = compute_fastest(options, classifier, len(images), process)
        writers: list[Any] = []  # not before the weights are read: they empty files
        if options.output is not None:
            writers.append(cleanup.enter_context(results(options.output)))
        if options.embed is not None:
            writers.append(cleanup.enter_context(vectors(options.embed)))
        overlays = None if options.explain is None else Overlays(options.explain, classifier)
        writers += [] if overlays is None else [overlays]
        for image, writer in product(unreadable, writers):
            writer.add(image)
        top = min(options.top, classifier.num_classes)
        for outcome in predict(classifier, images, top, features=features) if images else ():
            for writer in writers:
                writer.add(outcome)
            if not isinstance(outcome, FilePrediction):
                unreadable.append(outcome)
                continue
            predictions.append(replace(outcome, features=None))
            if not options.json and options.output is None:
                print(f"{table(outcome)}\n", flush=True)
        if options.sheet is not None and predictions:
            save_contact_sheet(predictions, options.sheet)
    if options.json:
        print(json.dumps(document(options.weights, predictions, unreadable), indent=2))
    failed = [*unreadable, *([] if overlays is None else overlays.failed)]
    for image in failed:
        print(f"error: {printable(image.reason)}", file=sys.stderr)
    if failed:
        sys.exit(2)


def parse(arguments: Sequence[str]) -> Options:
    """Parse the command line; raise `GoogLeNetError` for a mistake."""
    parser = Parser(
        prog=cli.program("predict"),
        description="Print the most likely classes of photos. Unreadable images are skipped and "
        "reported at the end, with exit status 2.",
    )
    config, overrides, arguments = cli.config_flags(arguments)
    paddleclas = read_config(config, overrides)
    cli.add_weights(parser, positional=paddleclas is None)
    cli.add_config_flags(parser, "a PaddleClas configuration, which names weights and images too")
    cli.add_classifier_flags(parser)
    parser.add_argument(
        "images",
        nargs="+" if paddleclas is None else "*",
        metavar="IMAGES",
        help="image files, folders that are searched recursively, URLs, and - for an image on "
        "standard input",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--top", type=cli.PositiveInt, default=5, metavar="K", help="classes per image"
    )
    cli.add_json(output)
    output.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write a .csv or .jsonl (JSON lines) file, image by image, instead of the tables",
    )
    output.add_argument(
        "--embed",
        type=Path,
        metavar="FILE",
        help="write the images' vectors, 1024 numbers each, for search or clustering: .npy, .npz "
        "or .csv, the last two with the images' names",
    )
    output.add_argument(
        "--explain",
        type=Path,
        metavar="FOLDER",
        help="write each photo as a PNG under colours that show what speaks for its likeliest "
        "class (Grad-CAM)",
    )
    output.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE",
        help=f"write a contact sheet of the first {MAX_TILES} images with their predictions, as "
        ".png or .jpg",
    )
    if paddleclas is not None:
        parser.set_defaults(**paddleclas.predict_options())
    options, _ = parse_with_run(parser, arguments, Options)
    if not options.images:
        raise GoogLeNetError(f"{config}: Infer.infer_imgs: is missing; name it, or images here")
    if options.output is not None and options.output.suffix.lower() not in RESULT_SUFFIXES:
        raise GoogLeNetError(
            f"--output {options.output}: choose a name that ends in .csv or .jsonl"
        )
    if options.embed is not None and options.embed.suffix.lower() not in VECTOR_SUFFIXES:
        raise GoogLeNetError(
            f"--embed {options.embed}: choose a name that ends in .npy, .npz or .csv"
        )
    if options.sheet is not None and options.sheet.suffix.lower() not in SHEET_FORMATS:
        raise GoogLeNetError(f"--sheet {options.sheet}: choose a name that ends in .png or .jpg")
    _check_outputs(options)
    return options


def _check_outputs(options: Options) -> None:
    """Refuse two outputs of one name, and an output in place of an image."""
    taken = {Path(image).resolve(): "an image" for image in options.images}
    for flag in ("output", "embed", "sheet"):
        path = getattr(options, flag)
        if path is None:
            continue
        if (other := taken.setdefault(path.resolve(), f"--{flag}")) != f"--{flag}":
            raise GoogLeNetError(f"--{flag} {path}: is {other} too; choose another name")


def table(prediction: "FilePrediction") -> str:
    """Return the file's path and one line per class, as aligned text."""
    rows = [[f"{100 * s.probability:8.2f} %", s.name] for s in prediction.scores]
    return f"{printable(prediction.image.name)}\n{tables.table(rows, right=(0,))}"


def document(
    weights: str | Path, predictions: "Sequence[FilePrediction]", unreadable: "Sequence[Unreadable]"
) -> dict[str, Any]:
    """Return all results as plain values, for JSON."""
    from googlenet_fast.classifier.results import record

    return {
        "weights": str(weights),
        "predictions": [record(prediction) for prediction in predictions],
        "errors": [record(image) for image in unreadable],
    }


if __name__ == "__main__":
    run_command(main)
