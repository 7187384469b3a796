"""Classify photos: `python -m googlenet_fast.predict WEIGHTS IMAGES...`."""

import json
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from googlenet_fast import cli
from googlenet_fast.choices import SHEET_FORMATS
from googlenet_fast.errors import UserError, log_to_stderr, long_imports, printable, run_command
from googlenet_fast.extras import require
from googlenet_fast.limits import MAX_TILES
from googlenet_fast.paddleclas import read_config

if TYPE_CHECKING:
    from googlenet_fast.classifier.prediction import FilePrediction, Unreadable

RESULT_SUFFIXES = (".csv", ".jsonl")


class Options(cli.ClassifierOptions):
    """Flags of this command."""

    images: list[Path]
    top: int
    json: bool
    output: Path | None
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
        from googlenet_fast.classifier.prediction import Unreadable, find_images, predict
        from googlenet_fast.classifier.results import results
        from googlenet_fast.engine.choosing import compute_fastest
        from googlenet_fast.engine.distributed import distributed, world_size

    if world_size() > 1:
        raise UserError("prediction runs in one process; start it without torchrun")
    images, unreadable = find_images(options.images)
    predictions = []
    with ExitStack() as cleanup:
        process = cleanup.enter_context(distributed(options.device))
        classifier = Classifier(device=process.device, **options.for_classifier())
        logging.getLogger("googlenet_fast").info("images at %s", classifier.preprocessing)
        classifier.compute = compute_fastest(options, classifier, len(images), process)
        file = None
        if options.output is not None:  # not before the weights are read: this empties the file
            file = cleanup.enter_context(results(options.output))
            for image in unreadable:
                file.add(image)
        top = min(options.top, classifier.num_classes)
        for outcome in predict(classifier, images, top) if images else ():
            if file is not None:
                file.add(outcome)
            if isinstance(outcome, Unreadable):
                unreadable.append(outcome)
                continue
            predictions.append(outcome)
            if not options.json and file is None:
                print(f"{table(outcome)}\n", flush=True)
    if options.sheet is not None and predictions:
        save_contact_sheet(predictions, options.sheet)
    if options.json:
        print(json.dumps(document(options.weights, predictions, unreadable), indent=2))
    for image in unreadable:
        print(f"error: {printable(image.reason)}", file=sys.stderr)
    if unreadable:
        sys.exit(2)


def parse(arguments: Sequence[str]) -> Options:
    """Parse the command line; raise `UserError` for a mistake."""
    parser = cli.Parser(
        prog=cli.program("predict"),
        description="Print the most likely classes of photos. Unreadable images are skipped and "
        "reported at the end, with exit status 2.",
    )
    config, overrides = cli.add_paddleclas_flags(parser, arguments)
    paddleclas = read_config(config, overrides)
    if paddleclas is None:
        cli.add_weights(parser)
    cli.add_classifier_flags(parser)
    parser.add_argument(
        "images",
        nargs="+" if paddleclas is None else "*",
        type=Path,
        metavar="IMAGES",
        help="image files, and folders that are searched recursively",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--top", type=cli.positive, default=5, metavar="K", help="classes per image; default: 5"
    )
    cli.add_json(output)
    output.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write a .csv or .jsonl (JSON lines) file, image by image, instead of the tables",
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
    options = parser.parse_args(arguments, namespace=Options())
    if options.weights.is_dir():
        with long_imports():
            from googlenet_fast.engine.run_evaluation import options_of, read_run_config
            from googlenet_fast.engine.run_folder import best_of

        best = best_of(options.weights)
        parser.set_defaults(**options_of(read_run_config(options.weights)))
        options = parser.parse_args(arguments, namespace=Options())
        options.weights = best
    if not options.images:
        raise UserError(f"{config}: Infer.infer_imgs: is missing; name it, or images here")
    if options.output is not None and options.output.suffix.lower() not in RESULT_SUFFIXES:
        raise UserError(f"--output {options.output}: choose a name that ends in .csv or .jsonl")
    if options.sheet is not None and options.sheet.suffix.lower() not in SHEET_FORMATS:
        raise UserError(f"--sheet {options.sheet}: choose a name that ends in .png or .jpg")
    return options


def table(prediction: "FilePrediction") -> str:
    """Return the file's path and one line per class, as aligned text."""
    lines = [f"{100 * s.probability:8.2f} %  {s.name}" for s in prediction.scores]
    return "\n".join([printable(prediction.path), *lines])


def document(
    weights: Path, predictions: "Sequence[FilePrediction]", unreadable: "Sequence[Unreadable]"
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
