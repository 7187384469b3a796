"""Where the tools write: docs/generated."""

import argparse
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "docs" / "generated"


def add_output(parser: argparse.ArgumentParser, page: Path) -> None:
    """Add --output, by default a page of docs/generated."""
    parser.add_argument("--output", default=str(page), help="file to write, or - to print")


def write(report: str, output: str) -> None:
    """Write a report to the file that --output names, or print it."""
    if output == "-":
        print(report)
    else:
        Path(output).write_text(report)
