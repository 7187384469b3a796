"""Report on training runs as HTML: `python -m googlenet_fast.report RUN [RUN2 ...]`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from googlenet_fast.cli import Device, NonNegativeInt, add_device, program
from googlenet_fast.errors import (
    GoogLeNetError,
    log_to_stderr,
    long_imports,
    printable,
    run_command,
)
from googlenet_fast.extras import require
from googlenet_fast.files import write_atomically
from googlenet_fast.parser import Parser

if TYPE_CHECKING:
    from googlenet_fast.engine.report_page import ReportedRun


class Options(argparse.Namespace):
    """Flags of this command."""

    runs: list[Path]
    output: Path | None
    predictions: bool
    mistakes: int
    device: Device


def main() -> None:
    """Run the command."""
    log_to_stderr(logging.WARNING)
    options = parse(sys.argv[1:])
    require("a report", "jinja2", "matplotlib")

    # After the command line, whose help and mistakes need not wait for torch.
    with long_imports():
        from googlenet_fast.engine.distributed import world_size
        from googlenet_fast.engine.report_page import report_page

    if world_size() > 1:
        raise GoogLeNetError("the report runs in one process; start it without torchrun")
    if len({run.resolve() for run in options.runs}) < len(options.runs):
        raise GoogLeNetError("a run is given twice; give each once")
    output = options.output or options.runs[0] / "report.html"
    page = report_page([_report_on(run, options) for run in options.runs])
    write_atomically(output, page.encode(errors="backslashreplace"))
    print(printable(output))


def parse(arguments: Sequence[str]) -> Options:
    """Parse the command line; raise `GoogLeNetError` for a mistake."""
    parser = Parser(
        prog=program("report"),
        description="Write one self-contained HTML file about training runs: results, curves, "
        "throughput, confusion matrix, most confident mistakes, environment and configuration. "
        "Several runs are compared. The report names the parts that a run lacks.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's output folder")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page to write; default: report.html in the first RUN",
    )
    parser.add_argument(
        "--predictions",
        type=bool,
        default=True,
        help="run best.pt on the validation images",
    )
    parser.add_argument("--mistakes", type=NonNegativeInt, default=24, help="mistakes to show")
    add_device(parser)
    options = parser.parse_args(arguments, namespace=Options())
    output = options.output
    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise GoogLeNetError(f"--output {output}: choose a name that ends in .html")
    if output is not None and not output.parent.is_dir():
        raise GoogLeNetError(f"--output {output}: there is no folder {output.parent}")
    return options


def _report_on(folder: Path, options: Options) -> "ReportedRun":
    with long_imports():
        from googlenet_fast.engine.report_page import ReportedRun
        from googlenet_fast.engine.run_evaluation import evaluate_run
        from googlenet_fast.engine.run_record import read_run

    record = read_run(folder)
    missing = [f"No {part}: {reason}." for part, reason in record.missing.items()]
    if not options.predictions:
        return ReportedRun(record, None, [*missing, "No predictions: --no-predictions was given."])
    try:
        evaluation = evaluate_run(folder, options.mistakes, options.device)
    except GoogLeNetError as error:
        return ReportedRun(record, None, [*missing, f"No predictions: {error}."])
    return ReportedRun(record, evaluation, missing)


if __name__ == "__main__":
    run_command(main)
