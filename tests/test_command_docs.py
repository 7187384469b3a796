"""docs/commands.md: each command has the flags that its table says, with these meanings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from googlenet_fast.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
NAMES = [*(name for name in COMMANDS if name != "data"), "data check", "data shard"]
TABLE = PAGE.partition("## The same flag")[2]


def commands_of(cell: str) -> list[str]:
    """The commands that a cell of the table lists."""
    excluded = cell.removeprefix("all but ").replace(" and ", ", ").split(", ")
    if cell.startswith("all but "):
        return [name for name in NAMES if name not in excluded]
    return cell.split(", ")


@pytest.mark.parametrize("command", NAMES)
def test_the_table_says_which_command_has_which_flag(command: str) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "googlenet_fast", *command.split(), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    # A positional argument has a flag too.
    positionals = re.findall(r"^  ([A-Z]+)  ", child.stdout, re.MULTILINE)
    shown = set(re.findall(r"--(?:\[no-\])?([a-z-]+)(?![a-z.-])", child.stdout))
    shown |= {name.lower() for name in positionals}
    rows = re.findall(r"^\| (`--.*?`) \| (.*?) \|", TABLE, re.MULTILINE)
    assert len(rows) > 15
    for flags, cell in rows:
        for flag in re.findall(r"--([a-z-]+)", flags):
            assert (flag in shown) == (command in commands_of(cell)), flag
