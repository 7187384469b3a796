"""All commands under one name: `googlenet-fast COMMAND`, `python -m googlenet_fast COMMAND`."""

import sys
from importlib import import_module
from pathlib import Path

from googlenet_fast.commands import choose_command
from googlenet_fast.errors import check_address_space, end_on_interrupt, run_command
from googlenet_fast.files import cache_dir

ABOUT = "GoogLeNet (Inception v1), trained and run as fast as the hardware allows."
COMMANDS = {
    "train": "train or fine-tune a network",
    "evaluate": "measure the accuracy of weights on labelled images",
    "predict": "name what images show",
    "export": "convert weights, or write ONNX and .pt2 files to deploy",
    "report": "write one HTML page about one or more runs",
    "data": "check a dataset, or write it into tar shards",
    "doctor": "check what runs on this machine, and how fast",
}
"""Each is a module of this package, with what it does."""


def main() -> None:
    """Run the command that the command line names."""
    called = "googlenet-fast"
    if Path(sys.argv[0]).name == "__main__.py":
        called = "python -m googlenet_fast"
    name = choose_command(called, ABOUT, COMMANDS, sys.argv[1:])
    if name is None:
        return
    check_address_space()
    cache_dir()
    end_on_interrupt()
    sys.argv = [f"{called} {name}", *sys.argv[2:]]
    run_command(import_module(f"googlenet_fast.{'data.__main__' if name == 'data' else name}").main)


def entry_point() -> None:
    """Run `main`, and report bad input in one line."""
    run_command(main)


if __name__ == "__main__":
    entry_point()
