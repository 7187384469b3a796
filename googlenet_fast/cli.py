"""The parsers of command lines, the types of numbers, and the flags that commands share."""

import argparse
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_type_hints

import jsonargparse
from jsonargparse import _loaders_dumpers

from googlenet_fast.choices import PresetName
from googlenet_fast.errors import UserError, suggestion
from googlenet_fast.limits import MAX_PIXELS
from googlenet_fast.plain_yaml import PlainLoader

Amp = Literal["auto", "off", "fp16", "bf16"]
"""Mixed precision: auto is fp16 on a GPU and off on a CPU."""
Graph = Literal["auto", "on", "off"]
"""CUDA graphs: auto is on for GPUs."""
Device = Literal["auto", "cpu", "cuda"]
"""Where to compute: auto is a GPU where there is one."""
Autotune = Literal["auto", "on", "off"]
"""Measure what is fastest on this GPU first: auto does so where it pays."""


jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
# Reads the numbers of recipes and of the command line. There is no public way to set it.
setattr(_loaders_dumpers, "yaml_default_loader", PlainLoader)  # noqa: B010


def program(command: str) -> str:
    """Return how a command was called, for its help and errors."""
    called = sys.argv[0]
    return called if called.endswith(f" {command}") else f"python -m googlenet_fast.{command}"


class Parser(argparse.ArgumentParser):
    """Reports a mistake as one line, with the nearest valid flag."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as a `UserError`."""
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        flags = [flag for action in self._actions for flag in action.option_strings]
        nearest = suggestion(unknown[1], flags) if unknown else ""
        raise UserError(message + (nearest or f"; {self.prog} --help lists all"))


class ConfigParser(jsonargparse.ArgumentParser):
    """Parses dataclasses of settings; reports a mistake as `Parser` does."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message as a `UserError`."""
        line = " ".join(message.split())
        choices = re.search(r"Literal\[(.*)\]\. Got value: (\S+)", line)
        if choices:
            raise UserError(line + suggestion(choices[2], re.findall(r"'(\w+)'", choices[1])))
        unknown = (
            re.search(r"Group '(\S+)' does not accept option '(\S+)'", line)
            or re.search(r"unrecognized arguments: -*([^\s=]+)", line)
            or re.search(r"Option '(\S+)'", line)
        )
        keys = [action.dest for action in self._actions]
        raise UserError(line + (suggestion(".".join(unknown.groups()), keys) if unknown else ""))


class ConfigFormatter(jsonargparse.DefaultHelpFormatter):
    """Help for dataclasses of settings: flags with dashes, what numbers must be, line by line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            textwrap.fill(line, width, subsequent_indent=" " * 24 if line[:2] == "  " else "")
            for line in text.splitlines()
        )

    def _format_action_invocation(self, action: argparse.Action) -> str:
        invocation = super()._format_action_invocation(action)
        return re.sub(r"--[\w.]+", lambda flag: flag[0].replace("_", "-"), invocation)

    def _get_type_str(self, action: argparse.Action) -> str | None:
        hint = getattr(action, "_typehint", None)
        for kind in (hint, *get_args(hint)):
            for restriction in getattr(kind, "__metadata__", ()):
                return restriction.wanted
        return None

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action).replace("type: %(type)s", "%(type)s")
        if action.default is not None:
            return text
        return text.replace(" (default: %(default)s)", "").replace(", default: %(default)s", "")


@dataclass(frozen=True)
class Range:
    """Restricts a number; `Annotated` attaches it to the type of a field."""

    wanted: str
    contains: Callable[[float], bool]


_POSITIVE = Range("more than 0", lambda number: number > 0)
_NOT_NEGATIVE = Range("0 or more", lambda number: number >= 0)
PositiveInt = Annotated[int, _POSITIVE]
PositiveFloat = Annotated[float, _POSITIVE]
NonNegativeInt = Annotated[int, _NOT_NEGATIVE]
NonNegativeFloat = Annotated[float, _NOT_NEGATIVE]
Fraction = Annotated[float, Range("between 0 and 1", lambda number: 0 <= number <= 1)]
Decay = Annotated[float, Range("at least 0 and less than 1", lambda number: 0 <= number < 1)]
PositiveFraction = Annotated[
    float, Range("more than 0 and at most 1", lambda number: 0 < number <= 1)
]
AtLeastOne = Annotated[float, Range("1 or more", lambda number: number >= 1)]


def check_ranges(settings: object, prefix: str = "") -> None:
    """Check the numbers of a dataclass against the ranges of their types.

    Raises:
        UserError: names the flag, `--prefix.field`.
    """
    for name, annotation in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"--{prefix}{name} {value}: must be a finite number")
        for kind in (annotation, *get_args(annotation)):  # PositiveInt, or PositiveInt | None
            for restriction in getattr(kind, "__metadata__", ()):
                if value is not None and not restriction.contains(value):
                    raise UserError(f"--{prefix}{name} {value}: must be {restriction.wanted}")


class ClassifierOptions(argparse.Namespace):
    """The flags of `add_classifier_flags`: a network, its device, how it is fed images."""

    weights: str | Path
    preset: str | None
    class_names: Path | None
    image_size: int | None
    resize_size: int | None
    resize: Literal["antialias", "cv2", "pillow"] | None
    batch_size: int
    loader: Literal["auto", "dali", "torchvision"]
    num_workers: int
    max_pixels: int
    device: Device
    amp: Amp
    graph: Graph
    autotune: Autotune

    def for_classifier(self) -> dict[str, Any]:
        """Return the arguments of `Classifier`, except its device."""
        names = ClassifierOptions.__annotations__.keys() - {"device", "autotune"}
        return {name: getattr(self, name) for name in names}


def add_paddleclas_flags(
    parser: Parser, arguments: Sequence[str]
) -> tuple[Path | None, Sequence[str]]:
    """Add -c and -o to the parser, and return their values in `arguments`.

    They are read before the other flags, whose defaults they change.
    """
    only_these = Parser(prog=parser.prog, add_help=False)
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
        metavar="WEIGHTS",
        help="a googlenet_fast checkpoint (best.pt), .safetensors, .pth, .pdparams or .caffemodel; "
        "the folder of a run, for its best.pt; or what is downloaded once: caffe, torchvision, "
        "paddleclas, a URL, hf://owner/name[/file]",
    )


def add_preset(group: argparse._ActionsContainer) -> None:
    """Add `preset`."""
    group.add_argument(
        "--preset",
        choices=get_args(PresetName),
        help="whose GoogLeNet; default: the one of the weights",
    )


def add_device(group: argparse._ActionsContainer) -> None:
    """Add `device`."""
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any"
    )


def add_classifier_flags(parser: Parser) -> None:
    """Add the flags of `ClassifierOptions`, except the weights."""
    network = parser.add_argument_group("network")
    add_preset(network)
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
    network.add_argument(
        "--graph",
        choices=("auto", "on", "off"),
        default="auto",
        help="capture the network in a CUDA graph after a few batches and replay it; default: on a "
        "GPU",
    )
    network.add_argument(
        "--autotune",
        choices=("auto", "on", "off"),
        default="auto",
        help="on a GPU, time first whether plain PyTorch or torch.compile is faster on whole "
        "batches, and use what is; results are cached; default: for 2000 batches or more",
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
        "--resize",
        choices=("antialias", "cv2", "pillow"),
        help="bilinear filter of resized images: with antialiasing, cv2's without, or in "
        "Pillow's two 8-bit passes; default: as in training, cv2 for .pdparams and .caffemodel",
    )
    images.add_argument(
        "--loader",
        choices=("auto", "dali", "torchvision"),
        default="auto",
        help="what reads the images; default: DALI where it is installed",
    )
    images.add_argument("--batch-size", type=positive, default=64, metavar="N", help="default: 64")
    add_max_pixels(images)
    images.add_argument(
        "--num-workers",
        type=not_negative,
        default=2,
        metavar="N",
        help="decoding threads (DALI) or processes (torchvision); default: 2",
    )


def add_max_pixels(group: argparse._ActionsContainer) -> None:
    """Add `max_pixels`, the size from which on an image counts as bad."""
    group.add_argument(
        "--max-pixels",
        type=positive,
        default=MAX_PIXELS,
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
        "--delimiter", default=" ", help="between path and label of a list; default: spaces or tabs"
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
