"""Evaluate weights on labelled images: `python -m googlenet_fast.evaluate WEIGHTS`."""

import logging
import sys

from googlenet_fast.engine.evaluate_options import parse
from googlenet_fast.errors import log_to_stderr, long_imports, run_command


def main() -> None:
    """Run the command; its last line is RESULT with one JSON object."""
    log_to_stderr(logging.INFO)
    options = parse(sys.argv[1:])

    # After the command line, whose help and mistakes need not wait for torch.
    with long_imports():
        from googlenet_fast.engine.evaluate_weights import evaluate_weights

    evaluate_weights(options)


if __name__ == "__main__":
    run_command(main)
