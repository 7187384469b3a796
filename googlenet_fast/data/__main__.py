"""Check and prepare datasets: `python -m googlenet_fast.data COMMAND`."""

import argparse
import logging
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from googlenet_fast.cli import (
    Parser,
    add_list_flags,
    add_max_pixels,
    add_num_workers,
    positive,
    program,
)
from googlenet_fast.data.check import check_images
from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.lists import CLASS_NAMES
from googlenet_fast.data.parts import PARTS, open_part, open_whatever_can_be
from googlenet_fast.data.shard_writer import Resizing, write_shards
from googlenet_fast.data.splits import open_splits
from googlenet_fast.data.waiting import ending_on_signals
from googlenet_fast.errors import UserError, log_to_stderr, printable, run_command

TITLES = {"train": "training", "val": "validation", "test": "test"}
"""Parts of a dataset, in words."""


def main() -> None:
    """Run the command that the command line names."""
    signal.signal(signal.SIGTERM, _exit)
    log_to_stderr(logging.INFO)
    parser = Parser(prog=program("data"), description="Check and prepare datasets.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_shard_command(commands)
    _add_check_command(commands)
    options = parser.parse_args(sys.argv[1:])
    with ending_on_signals():
        options.run(options)


def _exit(number: int, frame: FrameType | None) -> None:
    """Exit as after Ctrl-C: processes are ended and unfinished shards are removed."""
    sys.exit(128 + number)


class CheckOptions(argparse.Namespace):
    """Command line of `check`."""

    path: Path
    root: Path | None
    delimiter: str
    max_pixels: int
    num_workers: int


def _add_check_command(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "check",
        help="list bad, duplicate and suspicious images",
        description="Read every image of a dataset and list those that cannot be read, that have "
        "the same bytes as one with another label, that are in two parts (train, val, test) with "
        "the same bytes or nearly the same picture, or that look odd; and classes with few images. "
        "Exit status 1 if an image, a folder, a list or a shard cannot be read.",
    )
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="a dataset as for --data, or a list file"
    )
    add_list_flags(parser)
    add_max_pixels(parser)
    add_num_workers(parser)
    parser.set_defaults(run=_check)


def _check(options: CheckOptions) -> None:
    """Print the problems of a dataset; exit status 1 if a part of it cannot be read."""
    parts, unusable = open_whatever_can_be(
        options.path, root=options.root, delimiter=options.delimiter
    )
    for line in unusable:
        print(_printable(f"unusable: {line}"))
    if not parts:
        raise UserError(f"{options.path}: holds nothing that can be checked")
    report = check_images(parts, max_pixels=options.max_pixels, num_workers=options.num_workers)
    for title, lines in (
        ("bad", report.bad),
        ("duplicate", report.duplicates),
        ("in two parts", report.shared),
        ("similar", report.similar),
        ("class", report.classes_to_look_at),
        ("suspicious", report.suspicious),
    ):
        for line in lines:
            print(f"{title}: {printable(line)}")
    print(
        f"{report.images} images in {report.classes} classes: {len(report.bad)} bad, "
        f"{len(report.duplicates)} with the same bytes under different labels, "
        f"{len(report.shared)} in two parts, {len(report.similar)} similar to one in another part, "
        f"{len(report.suspicious)} suspicious"
        + (f"; {len(unusable)} folders or files unusable" if unusable else "")
    )
    if report.bad or unusable:
        sys.exit(1)


def _printable(line: str) -> str:
    return line.encode(errors="backslashreplace").decode()


class ShardOptions(argparse.Namespace):
    """Command line of `shard`."""

    path: Path
    out: Path
    split: Literal["train", "val", "test"] | None
    root: Path | None
    delimiter: str
    relabel: bool
    class_names: Path | None
    shard_size: int
    resize: int | None
    quality: int
    num_workers: int


def _add_shard_command(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "shard",
        help="write a dataset into tar shards (WebDataset)",
        description="Write the training and validation images of a dataset into tar files of "
        ".jpg (.png, ...) and .cls members, in random order, as WebDataset and DALI read them.",
    )
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="a dataset as for --data, or a list file"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the shards")
    parser.add_argument(
        "--split",
        choices=PARTS,
        help="write these images of the dataset alone, or all of one that is not divided, under "
        "this name; OUT may hold shards of the others. Default: training and validation images, "
        "of which a tenth is held out where there are none",
    )
    add_list_flags(parser)
    parser.add_argument("--relabel", action="store_true", help="renumber the list's labels from 0")
    parser.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="one class name per line, in label order; default: class_names.txt in OUT, else the "
        "dataset's",
    )
    parser.add_argument(
        "--shard-size",
        type=positive,
        default=10_000,
        metavar="N",
        help="images per shard; default: %(default)s",
    )
    parser.add_argument(
        "--resize",
        type=positive,
        metavar="PIXELS",
        help="shrink longer short sides to this length and store JPEGs; default: bytes unchanged",
    )
    parser.add_argument(
        "--quality",
        type=_percent,
        default=90,
        metavar="Q",
        help="of JPEGs that --resize writes; default: %(default)s",
    )
    add_num_workers(parser)
    parser.set_defaults(run=_shard)


def _shard(options: ShardOptions) -> None:
    """Write the shards and print how to train on them."""
    parts = _parts_to_write(options)
    written = write_shards(
        parts,
        options.out,
        shard_size=options.shard_size,
        resizing=None if options.resize is None else Resizing(options.resize, options.quality),
        num_workers=options.num_workers,
    )
    counts = " and ".join(f"{len(images)} {TITLES[part]}" for part, images in parts.items())
    print(
        f"{counts} images in {written.shards} shards in {printable(options.out)}, "
        f"{written.megabytes:,.1f} MB; "
        f"to train on them: --data {printable(shlex.quote(str(options.out)))}"
    )


def _parts_to_write(options: ShardOptions) -> dict[str, ImageDataset]:
    how: dict[str, Any] = {key: getattr(options, key) for key in ("root", "delimiter", "relabel")}
    names = options.class_names
    if names is None and (known := options.out / CLASS_NAMES).is_file():
        names = known
    if options.split is not None:
        return {options.split: open_part(options.path, options.split, class_names=names, **how)}
    how["train_list" if options.path.is_file() else "path"] = options.path
    return open_splits(class_names=names, **how)._asdict()


def _percent(text: str) -> int:
    if not 1 <= (number := positive(text)) <= 100:
        raise argparse.ArgumentTypeError("must be 1 to 100")
    return number


if __name__ == "__main__":
    run_command(main)
