"""Datasets and networks can be used without the trainer: they import nothing of it."""

import ast
from pathlib import Path

import pytest

import googlenet_fast

PACKAGE = Path(googlenet_fast.__file__).parent
ABOVE_DATA = {
    "classifier", "deploy", "doctor", "engine", "evaluate", "export", "predict", "report", "train",
}  # fmt: skip
ABOVE = {"data": ABOVE_DATA, "model": ABOVE_DATA | {"data"}}
"""Folder -> parts of the package that its files may not import, not even inside a function."""
COMMAND_LINE = PACKAGE / "data" / "__main__.py"


def imported(file: Path) -> set[str]:
    """First names below `googlenet_fast` of all imports in a file."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = [name.split(".") for name in names if name.startswith("googlenet_fast.")]
    return {part[1] for part in parts}


@pytest.mark.parametrize("folder", ABOVE)
def test_no_import_leads_up(folder: str) -> None:
    files = sorted((PACKAGE / folder).rglob("*.py"))
    assert files
    for file in files:
        if file != COMMAND_LINE:
            assert not imported(file) & ABOVE[folder], file
