"""Names of the modules with weights, shared by the readers of other systems' formats."""

BLOCKS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")

BRANCHES = ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")
"""Convolutions of an Inception block: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection."""


def is_linear(module: str) -> bool:
    """Return True if `module`, a name in our state dicts, is fully connected."""
    return module.endswith(("fc", "fc1", "fc2"))


def key_of(module: str, kind: str) -> str:
    """Return our state-dict key of a module's `kind`: `weight` or `bias`."""
    return f"{module}.{kind}" if is_linear(module) else f"{module}.conv.{kind}"
