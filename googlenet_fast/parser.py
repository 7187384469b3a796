"""The parser of all command lines: how flags are spelled, explained and refused."""

import argparse
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, overload

import jsonargparse
from jsonargparse import _loaders_dumpers

from googlenet_fast import __version__
from googlenet_fast.errors import GoogLeNetError, suggestion
from googlenet_fast.plain_yaml import PlainLoader

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
# Reads the numbers of recipes and of the command line. There is no public way to set it.
setattr(_loaders_dumpers, "yaml_default_loader", PlainLoader)  # noqa: B010

_SWITCH_VALUES = ("true", "false", "yes", "no", "on", "off", "null")
"""Words after a switch that are its value, as YAML reads them."""

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Restricts a number; `Annotated` attaches it to the type of a field or a flag."""

    wanted: str
    contains: Callable[[float], bool]


def check_value(name: str, value: Any, hint: Any) -> None:
    """Check that numbers are finite and in the range of their type; None and others pass.

    Raises:
        GoogLeNetError: names the flag or field, as `name` does.
    """
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise GoogLeNetError(f"{name} {value}: must be a finite number")
    for part in _parts(hint):
        if isinstance(part, Range) and value is not None and not part.contains(value):
            raise GoogLeNetError(f"{name} {value}: must be {part.wanted}")


class Parser(jsonargparse.ArgumentParser):
    """Parses flags into types and dataclasses; a mistake is one line with the nearest valid flag.

    A flag may have dashes or underscores, but is never abbreviated. A switch, which is a flag of
    type bool, is --flag, --no-flag or --flag=false. A positional argument has a flag too.
    """

    def __init__(self, **settings: Any) -> None:
        settings = {"formatter_class": HelpFormatter, "allow_abbrev": False, **settings}
        super().__init__(**settings)
        self.add_argument(
            "--version",
            action="version",
            version=f"googlenet_fast {__version__}",
            help="show the version and exit",
        )
        self._aliases: dict[str, str] = {}
        self._typed: dict[str, str] = {}

    def add_alias(self, alias: str, flag: str, *, shown: bool = True) -> None:
        """Let a flag have another name, which its help shows first or not at all."""
        self._aliases[alias] = flag
        if shown:
            action = self._option_string_actions[flag]
            setattr(action, "aliases", [*_aliases_of(action), alias])  # noqa: B010

    @overload  # type: ignore[override]
    def parse_args(self, args: Sequence[str], namespace: None = None) -> jsonargparse.Namespace: ...
    @overload
    def parse_args(self, args: Sequence[str], namespace: T) -> T: ...
    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:
        """Parse a command line, into attributes of `namespace` if one is given.

        Raises:
            GoogLeNetError: a mistake, in the words that were typed.
        """
        parsed = super().parse_args(self._spell(args))
        for action in self._actions:
            if action.dest in parsed:
                name = self._typed.get(action.dest, f"--{action.dest}")
                check_value(name, parsed[action.dest], _hint_of(action))
        if namespace is None:
            return parsed
        vars(namespace).update(vars(parsed))
        return namespace

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message as a `GoogLeNetError`, in the words that were typed."""
        line = re.sub(r"^argument (?:\S+/)?(-[^:/]+): ", r"\1: ", " ".join(message.split()))
        if refused := re.match(r'Parser key "(\S+?)":.*(?:Got|Given) value: (.*)$', line):
            key, value = refused.groups()
            parts = _parts(_hint_of(next((a for a in self._actions if a.dest == key), None)))
            wanted = f"must be {_described(parts)}{suggestion(value, _choices(parts))}"
            raise GoogLeNetError(f"{self._typed.get(key, key)} {value}: {wanted}")
        if unknown := re.search(
            r"Group '(\S+)' does not accept option '(\S+)'|Option '(\S+)'", line
        ):
            key = ".".join(filter(None, unknown.groups()))
            raise GoogLeNetError(
                f"{key}: no such field{suggestion(key, [a.dest for a in self._actions])}"
            )
        if line.startswith("the following arguments are required: "):
            dests = line.partition(": ")[2].split(", ")
            missing = [
                str(a.metavar or a.dest)
                for a in self._actions
                if a.dest in dests and a.nargs != "*"
            ]
            line = f"the following arguments are required: {', '.join(missing)}"
        is_usage = "required:" in line or "unrecognized" in line
        raise GoogLeNetError(f"{line}; {self.prog} --help lists all" if is_usage else line)

    def _spell(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments with each flag as it was added, and a value for each switch."""
        spelled: list[str] = []
        for index, argument in enumerate(arguments):
            if argument == "--":
                return [*spelled, *arguments[index:]]
            if argument.startswith("--"):
                argument = self._spell_flag(argument, arguments[index + 1 : index + 2])
            spelled.append(argument)
        return spelled

    def _spell_flag(self, argument: str, following: Sequence[str]) -> str:
        typed, equals, value = argument.partition("=")
        flag = self._find(typed)
        if flag is None and not equals and (flag := self._switched_off(typed)):
            equals, value = "=", "false"
        if flag is None:
            raise GoogLeNetError(f"{typed}: no such flag{self._nearest(typed)}")
        action = self._option_string_actions[flag]
        has_value = equals or (following and following[0].lower() in _SWITCH_VALUES)
        if _is_switch(action) and not has_value:
            equals, value = "=", "true"
        self._typed[action.dest] = typed
        return f"{flag}{equals}{value}"

    def _find(self, typed: str) -> str | None:
        """Return the flag of a name with dashes or underscores."""
        name = typed.replace("_", "-")
        for flag in self._option_string_actions:
            if flag.replace("_", "-") == name:
                return flag
        for action in self._actions:
            if not action.option_strings and name == f"--{action.dest}":
                action.option_strings = [name]  # argparse takes it for a flag from now on
                self._option_string_actions[name] = action
                return name
        return self._aliases.get(name)

    def _switched_off(self, typed: str) -> str | None:
        """Return the flag of the switch that --no-SWITCH turns off."""
        match = re.match("--no[-_](.+)", typed)
        flag = self._find(f"--{match[1]}") if match else None
        return flag if flag and _is_switch(self._option_string_actions[flag]) else None

    def _nearest(self, typed: str) -> str:
        """Return the hint of the flag that resembles what was typed, spelled in the same way."""
        flags = {
            flag
            for action in self._actions
            for flag in (*_aliases_of(action), *action.option_strings)
            if action.help != argparse.SUPPRESS
        }
        separator = "_" if "_" in typed else "-"
        spelled = [f"--{re.sub('[-_]', separator, flag[2:])}" for flag in flags if flag[:2] == "--"]
        return suggestion(typed, sorted(spelled)) or f"; {self.prog} --help lists all"


class HelpFormatter(jsonargparse.DefaultHelpFormatter):
    """Help as one types it: flags with dashes, what numbers must be, the defaults in force."""

    def _format_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], *rest: Any
    ) -> str:
        positionals = [action for action in actions if not action.option_strings]
        text = super()._format_usage(usage, positionals, *rest).rstrip()
        return f"{text} [--FLAG VALUE ...]\n\n" if usage is None else f"{text}\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            textwrap.fill(
                line,
                width,
                initial_indent=indent,
                subsequent_indent=" " * 24 if line[:2] == "  " else indent,
            )
            for line in text.splitlines()
        )

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        flags = [flag for flag in action.option_strings if not flag.endswith("+")]
        flags = [flag.replace("_", "-") for flag in (*_aliases_of(action), *flags)]
        if _is_switch(action):
            return ", ".join(flag.replace("--", "--[no-]", 1) for flag in flags)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(flags)} {value}".rstrip()

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        parts = _parts(_hint_of(action))
        for kind, metavar in ((int, "N"), (float, "X"), (Path, "PATH")):
            if kind in parts:
                return metavar
        choices = _choices(parts)
        return f"{{{','.join(choices)}}}" if choices else action.dest.rpartition(".")[2].upper()

    def _get_help_string(self, action: argparse.Action) -> str:
        """Return the help with the range of a number, and the default in place of its `default:`.

        That clause is the last of a help, and says what happens without a value.
        """
        text, default = action.help or "", action.default
        notes = [part.wanted for part in _parts(_hint_of(action)) if isinstance(part, Range)]
        is_value = action.nargs != 0 and default not in (None, [], argparse.SUPPRESS)
        if is_value and action.option_strings and "%(default)" not in text:
            text = re.sub(r"(\.|;|^) ?[Dd]efault: .*", r"\1", text, flags=re.DOTALL).rstrip(";")
            notes.append(f"default: {_shown(default)}")
        return f"{text} ({', '.join(notes)})".lstrip() if notes else text


def _shown(default: object) -> str:
    """Return a default as one would type it."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    text = str(default)
    return text if text.split() == [text] else repr(text)


def _hint_of(action: argparse.Action | None) -> Any:
    return getattr(action, "_typehint", None)


def _aliases_of(action: argparse.Action) -> list[str]:
    return getattr(action, "aliases", [])


def _is_switch(action: argparse.Action) -> bool:
    return bool in _parts(_hint_of(action))


def _parts(hint: Any) -> list[Any]:
    """Return a type and all that it is made of: types, choices, ranges."""
    return [hint, *(part for argument in get_args(hint) for part in _parts(argument))]


def _choices(parts: Iterable[Any]) -> list[str]:
    return [part for part in parts if isinstance(part, str)]


def _described(parts: list[Any]) -> str:
    """Say in words what a flag takes."""
    if choices := _choices(parts):
        return f"one of {', '.join(choices)}"
    if bool in parts:
        return "true or false"
    ranges = [part.wanted for part in parts if isinstance(part, Range)]
    if any(get_origin(part) is list for part in parts):
        return "a list of numbers, such as [30, 60]"
    return ", ".join(["a whole number" if int in parts else "a number", *ranges])
