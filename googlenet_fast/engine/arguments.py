"""The command line of evaluation and prediction."""

import argparse
import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn

from googlenet_fast.data.reading import MAX_PIXELS
from googlenet_fast.engine.config import Amp
from googlenet_fast.engine.paddleclas import PaddleClasConfig, read_document, translate
from googlenet_fast.errors import UserError
from googlenet_fast.model.presets import PRESETS


class Parser(argparse.ArgumentParser):
    """Reports what is wrong as one line, with the nearest valid flag."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as a `UserError`."""
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        flags = [flag for action in self._actions for flag in action.option_strings]
        nearest = difflib.get_close_matches(unknown[1], flags, n=1) if unknown else []
        hint = f"; did you mean {nearest[0]}?" if nearest else f"; {self.prog} --help lists all"
        raise UserError(f"{message}{hint}")


class ClassifierOptions(argparse.Namespace):
    """Which network to run, on what, and how images are fed to it."""

    config: Path | None
    weights: Path
    preset: str | None
    class_names: Path | None
    image_size: int | None
    resize_size: int | None
    batch_size: int
    loader: Literal["auto", "dali", "torchvision"]
    num_workers: int
    max_pixels: int
    device: Literal["auto", "cpu", "cuda"]
    amp: Amp


def read_paddleclas(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> PaddleClasConfig | None:
    """Add -c and -o to the parser, and read the PaddleClas configuration that they name.

    Raises:
        UserError: the configuration cannot be used.
    """
    names = Parser(prog=parser.prog, add_help=False, allow_abbrev=False)
    for target in (parser, names):
        target.add_argument(
            "-c",
            "--config",
            type=Path,
            metavar="FILE",
            help="a PaddleClas configuration, which names weights and images in their place",
        )
        target.add_argument(
            "-o",
            "--override",
            action="append",
            metavar="KEY=VALUE",
            help="overrides the configuration: -o Global.pretrained_model=output/best_model",
        )
    named, _ = names.parse_known_args(arguments)
    if named.config is None:
        if named.override:
            raise UserError(
                f"-o {named.override[0]}: overrides a PaddleClas configuration; give -c"
            )
        return None
    document = read_document(named.config, named.override or ())
    if document is None:
        raise UserError(f"{named.config}: is no PaddleClas configuration; name the weights instead")
    return translate(document)


def add_classifier_options(parser: argparse.ArgumentParser, *, weights: bool = True) -> None:
    """Add the arguments that fill `ClassifierOptions`; the weights only if `weights`."""
    if weights:
        parser.add_argument(
            "weights",
            type=Path,
            metavar="WEIGHTS",
            help="a checkpoint of ours (best.pt), .safetensors, .pth, .pdparams or .caffemodel",
        )
    network = parser.add_argument_group("network")
    network.add_argument(
        "--preset", choices=list(PRESETS), help="whose GoogLeNet; default: what the weights tell"
    )
    network.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="a name a line for each class of the network; default: the names in the weights, "
        "else ImageNet's for 1000 classes",
    )
    network.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any"
    )
    network.add_argument(
        "--amp",
        choices=("auto", "off", "fp16", "bf16"),
        default="auto",
        help="mixed precision; default: fp16 on a GPU, off on a CPU",
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        "--image-size",
        type=positive,
        metavar="PIXELS",
        help="side of the square the network sees; default: as in training, else 224",
    )
    images.add_argument(
        "--resize-size",
        type=positive,
        metavar="PIXELS",
        help="short side before the centre crop; default: as in training, else image size * 8/7",
    )
    images.add_argument(
        "--loader",
        choices=("auto", "dali", "torchvision"),
        default="auto",
        help="what reads the images; default: DALI where it is installed",
    )
    images.add_argument("--batch-size", type=positive, default=64, metavar="N", help="default: 64")
    images.add_argument(
        "--max-pixels",
        type=positive,
        default=MAX_PIXELS,
        metavar="N",
        help="an image of more pixels, by its header, counts as bad; default: %(default)s",
    )
    images.add_argument(
        "--num-workers",
        type=not_negative,
        default=2,
        metavar="N",
        help="decoding threads (DALI) or processes (torchvision); default: 2",
    )


def add_list_options(group: argparse._ActionsContainer) -> None:
    """Add what tells how to read a list of images: `root` and `delimiter`."""
    group.add_argument(
        "--root", type=Path, metavar="DIR", help="where the list's paths start; default: beside it"
    )
    group.add_argument(
        "--delimiter", default=" ", help="between path and label of a list; default: a space"
    )


def add_num_workers(parser: Parser) -> None:
    """Add `num_workers`, the processes to share work among."""
    parser.add_argument(
        "--num-workers",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes; default: the number of cores",
    )


def positive(text: str) -> int:
    """A whole number of 1 or more, as an argument type."""
    number = not_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def not_negative(text: str) -> int:
    """A whole number of 0 or more, as an argument type."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
