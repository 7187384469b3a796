"""The parser of every command line, and the flags that several commands share."""

import argparse
import difflib
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from googlenet_fast.errors import UserError

Amp = Literal["auto", "off", "fp16", "bf16"]
"""Mixed precision: auto is fp16 on a GPU and off on a CPU."""
Device = Literal["auto", "cpu", "cuda"]
"""Where to compute: auto is a GPU where there is one."""


class Parser(argparse.ArgumentParser):
    """Reports a mistake as one line, with the nearest valid flag."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as a `UserError`."""
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        flags = [flag for action in self._actions for flag in action.option_strings]
        nearest = difflib.get_close_matches(unknown[1], flags, n=1) if unknown else []
        hint = f"; did you mean {nearest[0]}?" if nearest else f"; {self.prog} --help lists all"
        raise UserError(f"{message}{hint}")


class ClassifierOptions(argparse.Namespace):
    """The flags of `add_classifier_flags`: a network, its device, how it is fed images."""

    weights: Path
    preset: str | None
    class_names: Path | None
    image_size: int | None
    resize_size: int | None
    batch_size: int
    loader: Literal["auto", "dali", "torchvision"]
    num_workers: int
    max_pixels: int
    device: Device
    amp: Amp

    def for_classifier(self) -> dict[str, Any]:
        """Return the arguments of `Classifier`, except its device."""
        names = ClassifierOptions.__annotations__.keys() - {"device"}
        return {name: getattr(self, name) for name in names}


def add_paddleclas_flags(
    parser: Parser, arguments: Sequence[str]
) -> tuple[Path | None, Sequence[str]]:
    """Add -c and -o to the parser, and return their values in `arguments`.

    They are read before the other flags, whose defaults they change.
    """
    only_these = Parser(prog=parser.prog, add_help=False, allow_abbrev=False)
    for target in (parser, only_these):
        target.add_argument(
            "-c",
            "--config",
            type=Path,
            metavar="FILE",
            help="a PaddleClas configuration, which also names the weights and the images",
        )
        target.add_argument(
            "-o",
            "--override",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="overrides the configuration: -o Global.pretrained_model=output/best_model",
        )
    known, _ = only_these.parse_known_args(arguments)
    return known.config, known.override


def add_weights(parser: argparse._ActionsContainer) -> None:
    """Add the positional argument `weights`."""
    parser.add_argument(
        "weights",
        type=Path,
        metavar="WEIGHTS",
        help="a googlenet_fast checkpoint (best.pt), .safetensors, .pth, .pdparams or .caffemodel",
    )


def add_preset(group: argparse._ActionsContainer, presets: Collection[str]) -> None:
    """Add `preset`, one of `presets`."""
    group.add_argument(
        "--preset", choices=presets, help="whose GoogLeNet; default: the one of the weights"
    )


def add_device(group: argparse._ActionsContainer) -> None:
    """Add `device`."""
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any"
    )


def add_classifier_flags(parser: Parser, presets: Collection[str], max_pixels: int) -> None:
    """Add the flags of `ClassifierOptions`, except the weights."""
    network = parser.add_argument_group("network")
    add_preset(network, presets)
    network.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="one class name per line, in label order; default: the names in the weights, "
        "or ImageNet's for 1000 classes",
    )
    add_device(network)
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
        help="side of the network's square input; default: as in training, else 224",
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
    add_max_pixels(images, max_pixels)
    images.add_argument(
        "--num-workers",
        type=not_negative,
        default=2,
        metavar="N",
        help="decoding threads (DALI) or processes (torchvision); default: 2",
    )


def add_max_pixels(group: argparse._ActionsContainer, default: int) -> None:
    """Add `max_pixels`, the size from which on an image counts as bad."""
    group.add_argument(
        "--max-pixels",
        type=positive,
        default=default,
        metavar="N",
        help="an image with more pixels, by its header, counts as bad; default: %(default)s",
    )


def add_json(group: argparse._ActionsContainer) -> None:
    """Add `json`."""
    group.add_argument(
        "--json", action="store_true", help="print one JSON document instead of the tables"
    )


def add_list_flags(group: argparse._ActionsContainer) -> None:
    """Add `root` and `delimiter`, which say how to read a list of images."""
    group.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder that the list's paths are relative to; default: the list's",
    )
    group.add_argument(
        "--delimiter", default=" ", help="between path and label of a list; default: a space"
    )


def add_num_workers(parser: Parser) -> None:
    """Add `num_workers`, the number of processes."""
    parser.add_argument(
        "--num-workers",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes; default: the number of cores",
    )


def positive(text: str) -> int:
    """Read a whole number of 1 or more, as an argument type."""
    number = not_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def not_negative(text: str) -> int:
    """Read a whole number of 0 or more, as an argument type."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
