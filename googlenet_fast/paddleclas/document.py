"""A PaddleClas configuration as a document in which every key is accounted for."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from googlenet_fast.errors import GoogLeNetError, suggestion

T = TypeVar("T")
D = TypeVar("D")


class Document:
    """The file's content.

    Readers take keys out of its sections; `finish` refuses keys that were not taken.

    Args:
        file: the path in error messages.
        values: the parsed YAML.
    """

    def __init__(self, file: Path, values: dict[Any, Any]) -> None:
        self.file = file
        self.ignored: dict[str, str] = {}
        """Path of a key -> why it has no effect."""
        self.sections: list[Section] = []
        self.top = Section(self, "", values)

    def finish(self) -> None:
        """Refuse the keys that were not taken.

        Raises:
            GoogLeNetError: names the first one, and a known key that resembles it.
        """
        for section in self.sections:
            section.refuse_rest()


class Section:
    """A mapping of the file, at `path`, from which keys are taken.

    As in PaddleClas, a value of None, null or "" is the same as an absent key.
    """

    def __init__(self, document: Document, path: str, values: dict[Any, Any]) -> None:
        self._document = document
        self._path = path
        self._values = {k: v for k, v in values.items() if v not in (None, "None", "")}
        self._known: list[str] = []
        document.sections.append(self)

    def __contains__(self, key: str) -> bool:
        self._known.append(key)
        return key in self._values

    def take(self, key: str, read: Callable[[Any], T], default: D) -> T | D:
        """Take a key and return what `read` makes of its value; `default` if it is absent."""
        return self.need(key, read) if key in self else default

    def need(self, key: str, read: Callable[[Any], T]) -> T:
        """Take a required key and return what `read` makes of its value."""
        if key not in self:
            self.refuse(key, "is missing")
        value = self._values.pop(key)
        try:
            return read(value)
        except ValueError as wanted:
            self.refuse(key, f"{_shown(value)} is not {wanted}")

    def fixed(self, key: str, wanted: Sequence[Any], because: str) -> None:
        """Take a key that must have one of the values `wanted`, if it is there."""
        if key in self and (value := self._values.pop(key)) not in wanted:
            self.refuse(key, f"{_shown(value)} is not supported: {because}")

    def ignore(self, reasons: Mapping[str, str]) -> None:
        """Take keys that have no effect, and note why, unless they are False."""
        for key, because in reasons.items():
            if key in self and self._values.pop(key) is not False:
                self.note(key, because)

    def note(self, key: str, because: str) -> None:
        """Note that a key has no effect."""
        self._document.ignored[self._at(key)] = because

    def refuse(self, key: str, reason: str) -> NoReturn:
        """Raise the `GoogLeNetError` that this key cannot be used."""
        raise GoogLeNetError(f"{self._document.file}: {self._at(key)}: {reason}")

    def section(self, key: str) -> "Section":
        """Return the mapping under a key; an empty one if the key is absent."""
        return Section(self._document, self._at(key), self.take(key, _mapping, {}))

    def operators(self, key: str) -> list[tuple[str, "Section"]]:
        """Return the list under a key: names and arguments of its one-key mappings."""
        operators = []
        for index, item in enumerate(self.take(key, _operators, [])):
            ((name, arguments),) = item.items()
            path = f"{self._at(key)}.{index}.{name}"
            operators.append((name, Section(self._document, path, arguments or {})))
        return operators

    def refuse_rest(self) -> None:
        """Refuse the keys that are left."""
        for key in self._values:
            self.refuse(key, f"is not supported{suggestion(str(key), self._known)}")

    def _at(self, key: str) -> str:
        name = str(key) if str(key).isprintable() else repr(key)
        return f"{self._path}.{name}" if self._path else name


def _shown(value: Any) -> str:
    """Return a short text for messages; YAML aliases can make a small file a huge value."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring = 1, 60
    return short.repr(value)


def _mapping(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError("a section of keys and values")
    return value


def _operators(value: Any) -> list[dict[Any, Any]]:
    if not isinstance(value, list) or not all(map(_is_operator, value)):
        raise ValueError("a list of 'Name: {key: value}'")
    return value


def _is_operator(item: Any) -> bool:
    if not isinstance(item, dict) or len(item) != 1:
        return False
    (arguments,) = item.values()
    return arguments is None or isinstance(arguments, dict)
