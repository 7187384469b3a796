"""Report on training runs as HTML: `python -m googlenet_fast.report RUN [RUN2 ...]`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from googlenet_fast.cli import Device, Parser, add_device, not_negative, program
from googlenet_fast.errors import UserError, log_to_stderr, long_imports, printable, run_command
from googlenet_fast.extras import require
from googlenet_fast.files import write_atomically

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
        raise UserError("the report runs in one process; start it without torchrun")
    if len({run.resolve() for run in options.runs}) < len(options.runs):
        raise UserError("a run is given twice; give each once")
    output = options.output or options.runs[0] / "report.html"
    page = report_page([_report_on(run, options) for run in options.runs])
    write_atomically(output, page.encode(errors="backslashreplace"))
    print(printable(output))


def parse(arguments: Sequence[str]) -> Options:
    """Parse the command line; raise `UserError` for a mistake."""
    parser = Parser(
        prog=program("report"),
        description="Write one self-contained HTML file about training runs: results, curves, "
        "throughput, confusion matrix, most confident mistakes, environment and configuration. "
        "Several runs are compared. The report names the parts that a run lacks.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's output folder")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: report.html in the first RUN"
    )
    parser.add_argument(
        "--no-predictions",
        dest="predictions",
        action="store_false",
        help="do not run best.pt on the validation images",
    )
    parser.add_argument(
        "--mistakes",
        type=not_negative,
        default=24,
        metavar="N",
        help="mistakes to show; default: 24",
    )
    add_device(parser)
    return parser.parse_args(arguments, namespace=Options())


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
    except UserError as error:
        return ReportedRun(record, None, [*missing, f"No predictions: {error}."])
    return ReportedRun(record, evaluation, missing)


if __name__ == "__main__":
    run_command(main)
