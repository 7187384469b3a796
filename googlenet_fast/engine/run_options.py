"""Command lines whose weights may be the folder of a run. They are read without torch."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from googlenet_fast.errors import long_imports
from googlenet_fast.parser import Parser
from googlenet_fast.pretrained import is_remote

if TYPE_CHECKING:
    from googlenet_fast.engine.config import TrainConfig

Options = TypeVar("Options", bound=argparse.Namespace)


def parse_with_run(
    parser: Parser, arguments: Sequence[str], new_options: Callable[[], Options]
) -> "tuple[Options, TrainConfig | None]":
    """Parse a command line; a run's folder stands for its best.pt.

    How the run read images and computed becomes the default of the flags.

    Returns:
        The options, and the configuration of the run if its folder is named.
    """
    options = parser.parse_args(arguments, namespace=new_options())
    folder = Path(options.weights)
    if is_remote(options.weights) or not folder.is_dir():
        return options, None
    with long_imports():
        from googlenet_fast.engine.run_evaluation import options_of, read_run_config
        from googlenet_fast.engine.run_folder import best_of

    best, run = best_of(folder), read_run_config(folder)
    defaults = {"bad_images": run.data.bad_images, **options_of(run)}
    parser.set_defaults(**{name: defaults[name] for name in defaults if name in options})
    options = parser.parse_args(arguments, namespace=new_options())
    options.weights = best
    return options, run
