"""Read single values of a configuration; a ValueError says what is expected.

PaddleClas evaluates strings as Python. Here a string can only be a literal or a quotient of two
numbers, such as 1.0/255.0.
"""

import ast
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from googlenet_fast.download import is_url


def literal(text: str) -> Any:
    """Return the Python literal that a text spells, else the text; nothing is evaluated."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def number(value: Any) -> float:
    """Read a finite number, or text with a number or a quotient of two."""
    if isinstance(value, int | float | str):
        with suppress(ValueError, ZeroDivisionError):
            numerator, slash, denominator = str(value).partition("/")
            read = float(numerator) / (float(denominator) if slash else 1)
            if math.isfinite(read):
                return read
    raise ValueError("a number")


def positive(value: Any) -> float:
    """Read a number of more than 0."""
    if (read := number(value)) <= 0:
        raise ValueError("a number of more than 0")
    return read


def not_negative(value: Any) -> float:
    """Read a number of 0 or more."""
    if (read := number(value)) < 0:
        raise ValueError("a number of 0 or more")
    return read


def integer(value: Any) -> int:
    """Read a whole number of at most 31 bits."""
    value = literal(value) if isinstance(value, str) else value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number")
    if abs(value) >= 2**31:
        raise ValueError("less than 2**31")
    return value


def count(value: Any) -> int:
    """Read a whole number of 0 or more."""
    if (read := integer(value)) < 0:
        raise ValueError("a whole number of 0 or more")
    return read


def positive_integer(value: Any) -> int:
    """Read a whole number of 1 or more."""
    if (read := integer(value)) < 1:
        raise ValueError("a whole number of 1 or more")
    return read


def boolean(value: Any) -> bool:
    """Read True or False."""
    value = literal(value.capitalize()) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def text(value: Any) -> str:
    """Read a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("a text")
    return value


def path(value: Any) -> Path:
    """Read a path, relative to the working directory as in PaddleClas."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a path")
    return Path(value)


def path_or_url(value: Any) -> Path | str:
    """Read a path, or a URL as it is."""
    return value if is_url(value) else path(value)


def numbers(value: Any) -> list[float]:
    """Read a list of numbers."""
    value = literal(value) if isinstance(value, str) else value
    if not isinstance(value, list | tuple):
        raise ValueError("a list of numbers")
    return [number(item) for item in value]


def one_or_more(value: Any) -> list[float]:
    """Read a list of numbers, or a single one."""
    return numbers([value] if isinstance(value, int | float) else value)


def side(value: Any) -> int:
    """Read the side of a square in pixels: a whole number, or two equal ones."""
    value = literal(value) if isinstance(value, str) else value
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    try:
        return positive_integer(value)
    except ValueError:
        raise ValueError("the side of a square in pixels") from None


def shape(value: Any) -> list[int]:
    """Read three whole numbers of 1 or more: channels, height, width."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise ValueError("a shape such as [3, 224, 224]")
    return [positive_integer(item) for item in value]
