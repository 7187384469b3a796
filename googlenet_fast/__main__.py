"""All commands under one name: `googlenet-fast COMMAND`, `python -m googlenet_fast COMMAND`."""

import sys
from importlib import import_module
from pathlib import Path

from googlenet_fast import __version__
from googlenet_fast.errors import (
    UserError,
    check_address_space,
    end_on_interrupt,
    run_command,
    suggestion,
)
from googlenet_fast.files import cache_dir

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
    arguments = sys.argv[1:]
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print(_usage(called))
        return
    if arguments[0] == "--version":
        print(f"googlenet_fast {__version__}")
        return
    name = arguments[0]
    if name not in COMMANDS:
        nearest = suggestion(name, COMMANDS)
        raise UserError(f"{name}: no such command{nearest or f'; {called} --help lists all'}")
    check_address_space()
    cache_dir()
    end_on_interrupt()
    sys.argv = [f"{called} {name}", *arguments[1:]]
    run_command(import_module(f"googlenet_fast.{'data.__main__' if name == 'data' else name}").main)


def _usage(called: str) -> str:
    """Return the help text."""
    lines = [f"  {name:10}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {called} COMMAND ...",
            "",
            "GoogLeNet (Inception v1), trained and run as fast as the hardware allows.",
            "",
            *lines,
            "",
            f"{called} COMMAND --help explains a command; --version prints the version.",
        ]
    )


def entry_point() -> None:
    """Run `main`, and report bad input in one line."""
    run_command(main)


if __name__ == "__main__":
    entry_point()
