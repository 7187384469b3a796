"""Optional dependencies, which come with extras: is one installed, and what to type if not."""

from collections.abc import Iterable
from importlib.util import find_spec

from googlenet_fast.errors import GoogLeNetError

EXTRAS = {
    **dict.fromkeys(("matplotlib", "tensorboard", "jinja2"), "train"),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "onnx"),
}
"""Package -> the extra that brings it, see pyproject.toml."""


def missing(packages: Iterable[str]) -> str | None:
    """Return None if the packages are installed, else which are not and what to type."""
    absent = [package for package in packages if find_spec(package) is None]
    if not absent:
        return None
    extras = ",".join(dict.fromkeys(EXTRAS[package] for package in absent))
    verb = "is" if len(absent) == 1 else "are"
    return f"{' and '.join(absent)} {verb} not installed: pip install 'googlenet-fast[{extras}]'"


def require(what: str, *packages: str) -> None:
    """Check that packages are installed.

    Args:
        what: the thing that needs them, for the message.
        packages: names that Python imports.

    Raises:
        GoogLeNetError: names those that are not installed, and what to type.
    """
    if (reason := missing(packages)) is not None:
        raise GoogLeNetError(f"{what} cannot be made: {reason}")
