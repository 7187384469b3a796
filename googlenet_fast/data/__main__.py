"""Check and prepare datasets: `python -m googlenet_fast.data COMMAND`."""

import logging
import sys

from googlenet_fast.cli import Parser
from googlenet_fast.data.check import add_check_command
from googlenet_fast.data.shard_writer import add_shard_command
from googlenet_fast.errors import run_command


def main() -> None:
    """Do what the command line says."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    parser = Parser(prog="python -m googlenet_fast.data", description="Check and prepare datasets.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_shard_command(commands)
    add_check_command(commands)
    options = parser.parse_args(sys.argv[1:])
    options.run(options)


if __name__ == "__main__":
    run_command(main)
