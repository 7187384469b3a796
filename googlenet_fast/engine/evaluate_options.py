"""The command line of `evaluate`. It is read without torch, whose import takes seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from googlenet_fast import cli
from googlenet_fast.choices import BadImages, Split
from googlenet_fast.engine.run_options import parse_with_run
from googlenet_fast.paddleclas import read_config
from googlenet_fast.parser import Parser

if TYPE_CHECKING:
    from googlenet_fast.engine.config import TrainConfig


class EvaluateOptions(cli.ClassifierOptions):
    """Flags of `evaluate`."""

    data: Path | None
    list: Path | None
    root: Path | None
    delimiter: str
    relabel: bool
    split: Split | None
    bad_images: BadImages
    output: Path | None
    json: bool
    run: "TrainConfig | None" = None
    """The run whose folder was named as the weights."""


def parse(arguments: Sequence[str]) -> EvaluateOptions:
    """Parse the command line; raise `GoogLeNetError` for a mistake."""
    parser = Parser(
        prog=cli.program("evaluate"),
        description="Top-1 and top-5 accuracy, loss and the confusion matrix of trained weights. "
        "Runs in one process, or in several under torchrun.",
    )
    config, overrides, arguments = cli.config_flags(arguments)
    paddleclas = read_config(config, overrides)
    cli.add_weights(parser, positional=paddleclas is None)
    cli.add_config_flags(parser, "a PaddleClas configuration, which names weights and images too")
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
    cli.add_relabel(data)
    data.add_argument(
        "--split",
        type=Split,
        help="which images; default: the validation images, where the dataset or the run of the "
        "checkpoint has them apart, else all",
    )
    data.add_argument(
        "--bad-images",
        type=BadImages,
        default="error",
        help="what to do about unreadable images: stop at the first one, or skip and count all of "
        "them; --output lists them in bad_images.txt",
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
    if paddleclas is not None:
        parser.set_defaults(**paddleclas.evaluate_options())
    options, run = parse_with_run(parser, arguments, EvaluateOptions)
    options.run = run
    if paddleclas is not None and options.data is None and options.list is None:
        for key, value in paddleclas.evaluate_data().items():
            if getattr(options, key) == parser.get_default(key):
                setattr(options, key, value)
    return options
