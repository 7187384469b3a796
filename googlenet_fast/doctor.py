"""What this machine can do and whether it does it right: `python -m googlenet_fast.doctor`.

Prints versions and devices, which backends each fused op has here and why others are
missing, and checks every one that runs, forward and backward, against the reference in float64. On
a GPU it also times every layer of the network; without one it checks the Triton kernels in Triton's
interpreter. Exit status 1: a check failed.
"""

import argparse
import json
import sys

from googlenet_fast.cli import add_json, program
from googlenet_fast.errors import long_imports, run_command
from googlenet_fast.parser import Parser


class Options(argparse.Namespace):
    """Flags of this command."""

    json: bool


def main() -> None:
    """Print the report; exit with status 1 if a check failed."""
    parser = Parser(
        prog=program("doctor"),
        description="What this machine can run, whether it computes it right, and how fast.",
    )
    add_json(parser)
    options = parser.parse_args(sys.argv[1:], namespace=Options())

    # After the command line, whose help and mistakes need not wait for torch.
    with long_imports():
        from googlenet_fast.engine.machine_report import examine

    report = examine()
    print(json.dumps(report.document(), indent=2) if options.json else report.text())
    if not report.healthy:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
