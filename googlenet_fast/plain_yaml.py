"""Read YAML of strangers as plain values: bounded, and without YAML 1.1's surprises."""

import math
import re
from typing import Any

import yaml

_MOST_CHARACTERS = 1 << 20
_MOST_VALUES = 100_000
"""Values of a document in which each alias is written out."""

_DROPPED = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


def read_yaml(text: str) -> Any:
    """Return the document in a text.

    1:30 is text, not the number 90 in base 60, and so is a date. 1e-3 is a number.

    Raises:
        ValueError: not YAML, a duplicate key, an infinite number, a too large document, or aliases
            that make it one; the message is one line.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"it has more than {_MOST_CHARACTERS:,} characters")
    try:
        return yaml.load(text, PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Return the number of values in a node with its aliases written out."""
    if id(node) not in known:
        known[id(node)] = math.inf  # what a node that contains itself finds
        children = list(node.value) if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


class PlainLoader(yaml.SafeLoader):
    """Reads numbers as YAML 1.2 does; refuses duplicate keys, of which YAML keeps the last."""

    def get_single_node(self) -> yaml.Node | None:
        """Compose the document as the base class does, and count what its aliases stand for."""
        node = super().get_single_node()
        if node is not None and _size(node, {}) > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {_MOST_VALUES:,} values")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping as the base class does, and check its keys."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                duplicate = f"duplicate key {key.value!r:.80}"
                raise yaml.MarkedYAMLError(problem=duplicate, problem_mark=key.start_mark)
            seen.add(key.value)
        return node

    def construct_finite(self, node: yaml.ScalarNode) -> float:
        """Return the number of a node; refuse infinity and NaN."""
        number = self.construct_yaml_float(node)
        if not math.isfinite(number):
            problem = f"{node.value} is not a finite number"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return number


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _DROPPED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]+|0|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)
PlainLoader.add_constructor("tag:yaml.org,2002:float", PlainLoader.construct_finite)
