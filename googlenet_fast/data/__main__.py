"""Check and prepare datasets: `python -m googlenet_fast.data COMMAND`."""

import argparse
import logging
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from googlenet_fast.choices import Part
from googlenet_fast.cli import (
    PositiveInt,
    add_class_names,
    add_list_flags,
    add_max_pixels,
    add_num_workers,
    add_relabel,
    program,
)
from googlenet_fast.commands import choose_command
from googlenet_fast.data.waiting import ending_on_signals
from googlenet_fast.errors import (
    GoogLeNetError,
    log_to_stderr,
    long_imports,
    printable,
    run_command,
)
from googlenet_fast.parser import Parser, Range

if TYPE_CHECKING:
    from googlenet_fast.data.dataset import ImageDataset

COMMANDS = {
    "shard": "write a dataset into tar shards (WebDataset)",
    "check": "list bad, duplicate and suspicious images",
}
"""What each command does."""
TITLES = {"train": "training", "val": "validation", "test": "test"}
"""Parts of a dataset, in words."""
T = TypeVar("T")
Percent = Annotated[int, Range("1 to 100", lambda number: 1 <= number <= 100)]


def main() -> None:
    """Run the command that the command line names."""
    log_to_stderr(logging.INFO)
    called, arguments = program("data"), sys.argv[1:]
    command = choose_command(called, "Check and prepare datasets.", COMMANDS, arguments)
    if command == "check":
        _run(_check, _parse_check(f"{called} check", arguments[1:]))
    elif command == "shard":
        _run(_shard, _parse_shard(f"{called} shard", arguments[1:]))


def _run(command: Callable[[T], None], options: T) -> None:
    """Run a command; a signal ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _exit)
    with ending_on_signals():
        command(options)


def _exit(number: int, frame: FrameType | None) -> None:
    """Exit as after Ctrl-C: processes are ended and unfinished shards are removed."""
    sys.exit(128 + number)


class CheckOptions(argparse.Namespace):
    """Command line of `check`."""

    data: Path
    root: Path | None
    delimiter: str
    max_pixels: int
    num_workers: int


def _parse_check(prog: str, arguments: Sequence[str]) -> CheckOptions:
    parser = Parser(
        prog=prog,
        description="Read every image of a dataset and list those that cannot be read, that have "
        "the same bytes as one with another label, that are in two parts (train, val, test) with "
        "the same bytes or nearly the same picture, or that look odd; and classes with few images. "
        "Exit status 1 if an image, a folder, a list or a shard cannot be read.",
    )
    _add_data(parser)
    add_list_flags(parser)
    add_max_pixels(parser)
    add_num_workers(parser)
    return parser.parse_args(arguments, namespace=CheckOptions())


def _check(options: CheckOptions) -> None:
    """Print the problems of a dataset; exit status 1 if a part of it cannot be read."""
    with long_imports():
        from googlenet_fast.data.check import check_images
        from googlenet_fast.data.parts import open_whatever_can_be

    parts, unusable = open_whatever_can_be(
        options.data, root=options.root, delimiter=options.delimiter
    )
    for line in unusable:
        print(_printable(f"unusable: {line}"))
    if not parts:
        raise GoogLeNetError(f"{options.data}: holds nothing that can be checked")
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

    data: Path
    output: Path
    split: Part | None
    root: Path | None
    delimiter: str
    relabel: bool
    class_names: Path | None
    shard_size: int
    resize_size: int | None
    quality: int
    num_workers: int


def _parse_shard(prog: str, arguments: Sequence[str]) -> ShardOptions:
    parser = Parser(
        prog=prog,
        description="Write the training and validation images of a dataset into tar files of "
        ".jpg (.png, ...) and .cls members, in random order, as WebDataset and DALI read them.",
    )
    _add_data(parser)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder for the shards")
    parser.add_argument(
        "--split",
        type=Part,
        help="write these images of the dataset alone, or all of one that is not divided, under "
        "this name; OUTPUT may hold shards of the others. Default: training and validation images, "
        "of which a tenth is held out where there are none",
    )
    add_list_flags(parser)
    add_relabel(parser)
    add_class_names(parser, default="class_names.txt in OUTPUT, else the dataset's")
    parser.add_argument("--shard-size", type=PositiveInt, default=10_000, help="images per shard")
    parser.add_argument(
        "--resize-size",
        type=PositiveInt,
        help="shrink longer short sides to this length, in pixels, and store JPEGs; default: bytes "
        "unchanged",
    )
    parser.add_alias("--resize", "--resize-size", shown=False)
    parser.add_argument(
        "--quality", type=Percent, default=90, help="of JPEGs that --resize-size writes"
    )
    add_num_workers(parser)
    options = parser.parse_args(arguments, namespace=ShardOptions())
    if options.output.resolve() == Path(options.data).resolve():
        raise GoogLeNetError(f"{options.output}: holds the images; choose another folder")
    return options


def _shard(options: ShardOptions) -> None:
    """Write the shards and print how to train on them."""
    with long_imports():
        from googlenet_fast.data.shard_writer import Resizing, write_shards

    parts = _parts_to_write(options)
    size = options.resize_size
    written = write_shards(
        parts,
        options.output,
        shard_size=options.shard_size,
        resizing=None if size is None else Resizing(size, options.quality),
        num_workers=options.num_workers,
    )
    counts = " and ".join(f"{len(images)} {TITLES[part]}" for part, images in parts.items())
    print(
        f"{counts} images in {written.shards} shards in {printable(options.output)}, "
        f"{written.megabytes:,.1f} MB; "
        f"to train on them: --data {printable(shlex.quote(str(options.output)))}"
    )


def _parts_to_write(options: ShardOptions) -> "dict[str, ImageDataset]":
    from googlenet_fast.data.lists import CLASS_NAMES
    from googlenet_fast.data.parts import open_part
    from googlenet_fast.data.splits import open_splits

    how: dict[str, Any] = {key: getattr(options, key) for key in ("root", "delimiter", "relabel")}
    names = options.class_names
    if names is None and (known := options.output / CLASS_NAMES).is_file():
        names = known
    if options.split is not None:
        return {options.split: open_part(options.data, options.split, class_names=names, **how)}
    how["train_list" if options.data.is_file() else "path"] = options.data
    return open_splits(class_names=names, **how)._asdict()


def _add_data(parser: Parser) -> None:
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="a dataset as for --data, or a list file"
    )


if __name__ == "__main__":
    run_command(main)
