"""The one exception for bad input, and how commands report it."""

import difflib
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Input that cannot be used: a path, a flag, a file's content.

    The message is one line: the file, flag or field, and what to do about it.
    """


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
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
