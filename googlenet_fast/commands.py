"""Choose a command by the first word of a command line, without importing any."""

from collections.abc import Mapping, Sequence

from googlenet_fast import __version__
from googlenet_fast.errors import GoogLeNetError, suggestion


def choose_command(
    called: str, about: str, commands: Mapping[str, str], arguments: Sequence[str]
) -> str | None:
    """Return the command that the arguments begin with; None after printing help or the version.

    Args:
        called: how the program was called.
        about: what the commands are for, in the help.
        commands: what each command does, by its name.
        arguments: the command line after the program.

    Raises:
        GoogLeNetError: there is no such command.
    """
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_usage(called, about, commands))
        return None
    if name == "--version":
        print(f"googlenet_fast {__version__}")
        return None
    if name not in commands:
        nearest = suggestion(name, commands)
        raise GoogLeNetError(f"{name}: no such command{nearest or f'; {called} --help lists all'}")
    return name


def _usage(called: str, about: str, commands: Mapping[str, str]) -> str:
    """Return the help text."""
    return "\n".join(
        [
            f"usage: {called} COMMAND ...",
            "",
            about,
            "",
            *(f"  {name:10}{what}" for name, what in commands.items()),
            "",
            f"{called} COMMAND --help explains a command; --version prints the version.",
        ]
    )
