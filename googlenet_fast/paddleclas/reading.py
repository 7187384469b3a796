"""Read the YAML of a PaddleClas configuration and apply overrides, without running code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.paddleclas.document import Document
from googlenet_fast.paddleclas.values import literal
from googlenet_fast.plain_yaml import read_yaml

SECTIONS = {"Global", "Arch", "DataLoader"}
"""Top-level keys, any of which identifies a PaddleClas configuration."""

OLD_SECTION = "ARCHITECTURE"
"""Top-level key of a configuration of PaddleClas before 2.2."""


def read_document(file: Path, overrides: Sequence[str] = ()) -> Document | None:
    """Read a PaddleClas configuration; return None for YAML of another layout.

    Args:
        file: the YAML file.
        overrides: `key=value` each, key a dotted path with list indices; `-o` of PaddleClas.

    Raises:
        GoogLeNetError: a file that cannot be read or is not YAML, an override that does not apply.
    """
    try:
        values = read_yaml(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise GoogLeNetError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise GoogLeNetError(f"{file}: cannot be read as YAML ({error})") from None
    if isinstance(values, dict) and OLD_SECTION in values:
        raise GoogLeNetError(
            f"{file}: {OLD_SECTION}: is the layout of PaddleClas before 2.2; use the file of 2.2.1 "
            "or later, ppcls/configs/ImageNet/Inception/GoogLeNet.yaml"
        )
    if not isinstance(values, dict) or not SECTIONS & values.keys():
        if overrides:
            raise GoogLeNetError(f"-o {overrides[0]}: {file} is not a PaddleClas configuration")
        return None
    for override in overrides:
        _apply(values, override)
    return Document(file, values)


def _apply(values: dict[Any, Any], override: str) -> None:
    """Apply an override `a.b.0.c=value` in place."""
    keys, equals, value = override.partition("=")
    *parents, last = keys.split(".")
    if not equals or not all((*parents, last)):
        raise GoogLeNetError(f"-o {override}: expected key=value, such as Global.epochs=120")
    node: Any = values
    for depth, key in enumerate(parents, start=1):
        at = _index(node, key, override)
        if isinstance(node, dict) and node.get(at) is None:
            node[at] = {}
        node = node[at]
        if not isinstance(node, dict | list):
            raise GoogLeNetError(f"-o {override}: {'.'.join(parents[:depth])} has nothing below it")
    node[_index(node, last, override)] = literal(value)


def _index(node: dict[Any, Any] | list[Any], key: str, override: str) -> Any:
    if isinstance(node, dict):
        return key
    if key not in map(str, range(len(node))):
        raise GoogLeNetError(f"-o {override}: {key} is not an index of that list of {len(node)}")
    return int(key)
