"""The types of flags, and the flags that commands share."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from googlenet_fast.choices import PresetName
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.limits import MAX_PIXELS
from googlenet_fast.parser import Parser, Range, check_value

if TYPE_CHECKING:
    from jsonargparse._core import ActionsContainer  # a parser, or a group of its flags

Amp = Literal["auto", "off", "fp16", "bf16"]
"""Mixed precision: auto is fp16 on a GPU and off on a CPU."""
Graph = Literal["auto", "on", "off"]
"""CUDA graphs: auto is on for GPUs."""
Device = Literal["auto", "cpu", "cuda"]
"""Where to compute: auto is a GPU where there is one."""
Autotune = Literal["auto", "on", "off"]
"""Measure what is fastest on this GPU first: auto does so where it pays."""
Resize = Literal["antialias", "cv2", "pillow"]
"""Bilinear filter of resized images: with antialiasing, cv2's without, or Pillow's two passes."""


def program(command: str) -> str:
    """Return how a command was called, for its help and errors."""
    called = sys.argv[0]
    return called if called.endswith(f" {command}") else f"python -m googlenet_fast.{command}"


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
        GoogLeNetError: names the flag, `--prefix.field`.
    """
    for name, annotation in get_type_hints(type(settings), include_extras=True).items():
        check_value(f"--{prefix}{name}", getattr(settings, name), annotation)


class ClassifierOptions(argparse.Namespace):
    """The flags of `add_classifier_flags`: a network, its device, how it is fed images."""

    weights: str | Path
    preset: str | None
    class_names: Path | None
    image_size: int | None
    resize_size: int | None
    resize: Resize | None
    batch_size: int
    loader: Literal["auto", "dali", "pillow", "torchvision"]
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


def config_flags(arguments: Sequence[str]) -> tuple[Path | None, list[str], list[str]]:
    """Return the values of -c and -o of a command line, and its other arguments.

    They are read first: a configuration changes the defaults of the other flags.
    """
    only_these = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    only_these.add_argument("-c", "--config", type=Path)
    only_these.add_argument("-o", "--override", action="append", default=[])
    try:
        found, others = only_these.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise GoogLeNetError(str(error).removeprefix("argument ")) from None
    return found.config, found.override, others


def add_config_flags(parser: Parser, config: str) -> None:
    """Add the flags of `config_flags` for the help, which says what -c names."""
    parser.add_argument("-c", "--config", metavar="FILE", help=config)
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        metavar="KEY=VALUE",
        help="overrides a PaddleClas configuration: -o Global.pretrained_model=output/best_model",
    )


def add_weights(parser: Parser, *, positional: bool = True) -> None:
    """Add the argument `weights`: a positional one, or a flag where a configuration names it."""
    parser.add_argument(
        "weights" if positional else "--weights",
        metavar="WEIGHTS",
        help="a googlenet_fast checkpoint (best.pt), .safetensors, .pth, .pdparams or .caffemodel; "
        "the folder of a run, for its best.pt; or what is downloaded once: caffe, torchvision, "
        "paddleclas, a URL, hf://owner/name[/file]",
    )


def add_preset(group: "ActionsContainer") -> None:
    """Add `preset`."""
    group.add_argument(
        "--preset", type=PresetName, help="whose GoogLeNet; default: the one of the weights"
    )


def add_device(group: "ActionsContainer") -> None:
    """Add `device`."""
    group.add_argument(
        "--device",
        type=Device,
        default="auto",
        help="where to compute; auto: a GPU where there is one",
    )


def add_classifier_flags(parser: Parser) -> None:
    """Add the flags of `ClassifierOptions`, except the weights."""
    network = parser.add_argument_group("network")
    add_preset(network)
    add_class_names(network, default="the names in the weights, or ImageNet's for 1000 classes")
    add_device(network)
    network.add_argument(
        "--amp",
        type=Amp,
        default="auto",
        help="mixed precision; auto: fp16 on a GPU, off on a CPU",
    )
    network.add_argument(
        "--graph",
        type=Graph,
        default="auto",
        help="capture the network in a CUDA graph after a few batches and replay it; auto: on a "
        "GPU",
    )
    network.add_argument(
        "--autotune",
        type=Autotune,
        default="auto",
        help="on a GPU, time first whether plain PyTorch or torch.compile is faster on whole "
        "batches, and use what is; results are cached; auto: for 2000 batches or more",
    )
    images = parser.add_argument_group(
        "images",
        "If WEIGHTS is the folder of a run, the defaults of --loader, --batch-size, --max-pixels, "
        "--workers and --amp are those of the run.",
    )
    images.add_argument(
        "--image-size",
        type=PositiveInt,
        help="side of the network's square input, in pixels; default: as in training, else 224",
    )
    images.add_argument(
        "--resize-size",
        type=PositiveInt,
        help="short side before the centre crop, in pixels; default: as in training, else image "
        "size * 8/7",
    )
    images.add_argument(
        "--resize",
        type=Resize,
        help="bilinear filter of resized images: with antialiasing, cv2's without, or in "
        "Pillow's two 8-bit passes; default: as in training, cv2 for .pdparams and .caffemodel",
    )
    images.add_argument(
        "--loader",
        type=Literal["auto", "dali", "pillow", "torchvision"],
        default="auto",
        help="what reads the images; auto: DALI where it is installed, else Pillow; torchvision is "
        "the old name of pillow",
    )
    images.add_argument("--batch-size", type=PositiveInt, default=64, help="images per batch")
    add_max_pixels(images)
    images.add_argument(
        "--num-workers",
        type=NonNegativeInt,
        default=2,
        help="decoding threads (DALI) or processes (Pillow)",
    )
    parser.add_alias("--workers", "--num-workers")


def add_class_names(group: "ActionsContainer", default: str) -> None:
    """Add `class_names`, and say what they are without the flag."""
    group.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help=f"one class name per line, in label order; default: {default}",
    )


def add_max_pixels(group: "ActionsContainer") -> None:
    """Add `max_pixels`, the size from which on an image counts as bad."""
    group.add_argument(
        "--max-pixels",
        type=PositiveInt,
        default=MAX_PIXELS,
        help="an image with more pixels, by its header, counts as bad",
    )


def add_json(group: "ActionsContainer") -> None:
    """Add `json`."""
    group.add_argument(
        "--json", action="store_true", help="print one JSON document instead of the tables"
    )


def add_list_flags(group: "ActionsContainer") -> None:
    """Add `root` and `delimiter`, which say how to read a list of images."""
    group.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder that the list's paths are relative to; default: the list's",
    )
    group.add_argument(
        "--delimiter", default=" ", help="between path and label of a list; ' ': spaces or tabs"
    )


def add_relabel(group: "ActionsContainer") -> None:
    """Add the switch `relabel`."""
    group.add_argument(
        "--relabel", type=bool, default=False, help="renumber the list's labels from 0"
    )


def add_num_workers(parser: Parser) -> None:
    """Add `num_workers`, the number of processes."""
    parser.add_argument(
        "--num-workers",
        type=PositiveInt,
        default=os.cpu_count() or 1,
        help="processes, by default one per core",
    )
    parser.add_alias("--workers", "--num-workers")
