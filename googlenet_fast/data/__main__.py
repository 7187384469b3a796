"""Check and prepare datasets: `python -m googlenet_fast.data COMMAND`."""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from googlenet_fast.cli import (
    Parser,
    add_list_flags,
    add_max_pixels,
    add_num_workers,
    positive,
)
from googlenet_fast.data.check import check_images
from googlenet_fast.data.dataset import ImageDataset
from googlenet_fast.data.reading import MAX_PIXELS
from googlenet_fast.data.shard_writer import Resizing, write_shards
from googlenet_fast.data.splits import open_dataset, open_splits
from googlenet_fast.errors import log_to_stderr, printable, run_command


def main() -> None:
    """Run the command that the command line names."""
    log_to_stderr(logging.INFO)
    parser = Parser(prog="python -m googlenet_fast.data", description="Check and prepare datasets.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_shard_command(commands)
    _add_check_command(commands)
    options = parser.parse_args(sys.argv[1:])
    options.run(options)


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
        "the same bytes as one with another label, or that look odd. Exit status 1 if any is bad.",
    )
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="a dataset as for --data, or a list file"
    )
    add_list_flags(parser)
    add_max_pixels(parser, MAX_PIXELS)
    add_num_workers(parser)
    parser.set_defaults(run=_check)


def _check(options: CheckOptions) -> None:
    """Print the problems of a dataset; exit status 1 if an image cannot be read."""
    datasets: Sequence[ImageDataset]
    if options.path.is_dir():
        datasets = open_splits(options.path, root=options.root, delimiter=options.delimiter)
    else:
        datasets = [open_dataset(options.path, root=options.root, delimiter=options.delimiter)]
    report = check_images(datasets, max_pixels=options.max_pixels, num_workers=options.num_workers)
    for title, lines in (
        ("bad", report.bad),
        ("duplicate", report.duplicates),
        ("suspicious", report.suspicious),
    ):
        for line in lines:
            print(f"{title}: {printable(line)}")
    print(
        f"{report.images} images in {report.classes} classes: {len(report.bad)} bad, "
        f"{len(report.duplicates)} with the same bytes under different labels, "
        f"{len(report.suspicious)} suspicious"
    )
    if report.bad:
        sys.exit(1)


class ShardOptions(argparse.Namespace):
    """Command line of `shard`."""

    path: Path
    out: Path
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
    parser.add_argument("path", type=Path, metavar="PATH", help="the dataset, as for --data")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the shards")
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
    splits = open_splits(options.path)
    written = write_shards(
        splits,
        options.out,
        shard_size=options.shard_size,
        resizing=None if options.resize is None else Resizing(options.resize, options.quality),
        num_workers=options.num_workers,
    )
    print(
        f"{len(splits.train)} training and {len(splits.val)} validation images in "
        f"{written.shards} shards in {printable(options.out)}, {written.megabytes:,.1f} MB; "
        f"to train on them: --data {printable(shlex.quote(str(options.out)))}"
    )


def _percent(text: str) -> int:
    if not 1 <= (number := positive(text)) <= 100:
        raise argparse.ArgumentTypeError("must be 1 to 100")
    return number


if __name__ == "__main__":
    run_command(main)
