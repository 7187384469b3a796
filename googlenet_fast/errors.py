"""The one exception for bad input, and how commands report it."""

import copy
import difflib
import logging
import re
import sys
from collections.abc import Callable, Iterable

_CONTROLS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, line ends, changes of direction, and bytes that are not text."""


class UserError(Exception):
    """Input that cannot be used: a path, a flag, a file's content.

    The message is one line: the file, flag or field, and what to do about it.
    """


def printable(text: object) -> str:
    """Return a text of a file or a user in one line; what would control a terminal is escaped."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


class _PrintableArguments(logging.Formatter):
    """Escapes the arguments of messages; the messages themselves are the package's."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            record = copy.copy(record)
            record.args = tuple(
                value if isinstance(value, int | float) else printable(value)
                for value in record.args or ()
            )
        return super().format(record)


def log_to_stderr(level: int) -> None:
    """Print the log of a command, if its caller has not set up logging."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableArguments("%(message)s"))
    logging.basicConfig(handlers=[handler], level=level)


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean X?" with the choice that resembles `word`, or ""."""
    nearest = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def run_command(main: Callable[[], None]) -> None:
    """Run an entry point; a `UserError` becomes one line on stderr and exit status 2.

    Ctrl-C exits without a message, with status 130 as in shells.
    """
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        sys.exit(2)
