"""Reads the YAML of a PaddleClas configuration and applies its overrides; neither runs code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from googlenet_fast.errors import UserError
from googlenet_fast.paddleclas.document import Document
from googlenet_fast.paddleclas.values import literal

SECTIONS = {"Global", "Arch", "DataLoader"}
"""Top-level keys of which any tells that a YAML file is laid out as PaddleClas's are."""

OLD_SECTION = "ARCHITECTURE"
"""Tells a configuration of PaddleClas before 2.2."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, where YAML would take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """What YAML makes of a mapping, as in the base class."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                twice = f"{key.value!r} stands twice"
                raise yaml.MarkedYAMLError(problem=twice, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def read_document(file: Path, overrides: Sequence[str] = ()) -> Document | None:
    """Read a PaddleClas configuration; None where the file is YAML of another layout.

    Args:
        file: the YAML file.
        overrides: `key=value` each, key a dotted path with list indices; `-o` of PaddleClas.

    Raises:
        UserError: a file that cannot be read or is no YAML, an override that does not apply.
    """
    try:
        values = yaml.load(file.read_text(encoding="utf-8-sig"), _Loader)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no such date, say
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: cannot be read as YAML ({reason})") from None
    if isinstance(values, dict) and OLD_SECTION in values:
        raise UserError(
            f"{file}: {OLD_SECTION}: is how PaddleClas laid its files out before 2.2; take that of "
            "2.2.1 or later, ppcls/configs/ImageNet/Inception/GoogLeNet.yaml"
        )
    if not isinstance(values, dict) or not SECTIONS & values.keys():
        if overrides:
            raise UserError(f"-o {overrides[0]}: {file} is no PaddleClas configuration")
        return None
    for override in overrides:
        _apply(values, override)
    return Document(file, values)


def _apply(values: dict[Any, Any], override: str) -> None:
    """Set the value that an override `a.b.0.c=value` names, in place."""
    keys, equals, value = override.partition("=")
    *parents, last = keys.split(".")
    if not equals or not all((*parents, last)):
        raise UserError(f"-o {override}: expected key=value, such as Global.epochs=120")
    node: Any = values
    for depth, key in enumerate(parents, start=1):
        at = _index(node, key, override)
        if isinstance(node, dict) and node.get(at) is None:
            node[at] = {}
        node = node[at]
        if not isinstance(node, dict | list):
            raise UserError(f"-o {override}: {'.'.join(parents[:depth])} has nothing below it")
    node[_index(node, last, override)] = literal(value)


def _index(node: dict[Any, Any] | list[Any], key: str, override: str) -> Any:
    if isinstance(node, dict):
        return key
    if key not in map(str, range(len(node))):
        raise UserError(f"-o {override}: {key} is not an index of that list of {len(node)}")
    return int(key)
