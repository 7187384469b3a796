"""No module imports from a floor above its own, so there are no import cycles between rooms."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "googlenet_fast"
FLOORS = (
    ("choices", "errors", "kernels", "limits", "tables", "vendors"),
    ("commands", "extras", "files", "plain_yaml"),
    ("extension", "download", "parser"),
    ("registry", "capture", "cli", "environment", "paddleclas", "pretrained"),
    ("selfcheck",),
    ("ops",),
    ("model",),
    ("data",),
    ("classifier",),
    ("engine", "deploy"),
    ("train", "evaluate", "predict", "export", "report", "doctor", "__main__"),
)
"""Rooms, which are modules and subpackages, from the lowest floor up."""

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    """The room of googlenet_fast.ROOM.x; "" for googlenet_fast itself."""
    inner = module.removeprefix(PACKAGE).removeprefix(".")
    return inner.partition(".")[0]


def imports(source: str, package: str) -> Iterator[str]:
    """Yield what a module in `package` imports of ours: on top, in functions, or by its name."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            function, argument = ast.unparse(node.func).rpartition(".")[2], node.args[0]
            if function in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                names = [str(argument.value)]
        yield from (name for name in names if name.split(".")[0] == PACKAGE)


def forbidden(source: str, module: str, package: str) -> list[str]:
    """Return the imports of a module that do not go down, or that name no room."""
    own = room_of(module)
    rooms = {name: room_of(name) for name in imports(source, package)}
    return [
        f"{module} imports {name}"
        for name, room in rooms.items()
        if room not in ("", own, "__version__") and FLOOR_OF.get(room, 99) >= FLOOR_OF[own]
    ]


def modules() -> list[tuple[str, str, Path]]:
    """Return each module but googlenet_fast itself: its name, its package, its file."""
    found = []
    kernels = (ROOT / "kernels").glob("*.py")  # rglob does not follow the symbolic link to it
    for file in sorted([*(ROOT / PACKAGE).rglob("*.py"), *kernels]):
        *parents, stem = file.relative_to(ROOT).with_suffix("").parts
        if parents[0] != PACKAGE:
            parents.insert(0, PACKAGE)
        package = ".".join(parents)
        module = package if stem == "__init__" else f"{package}.{stem}"
        if module != PACKAGE:
            found.append((module, package, file))
    return found


@pytest.mark.parametrize(("module", "package", "file"), modules(), ids=lambda value: str(value))
def test_imports_go_down(module: str, package: str, file: Path) -> None:
    assert room_of(module) in FLOOR_OF, f"{module} belongs to no room"
    assert forbidden(file.read_text(encoding="utf-8"), module, package) == []


@pytest.mark.parametrize(
    "source",
    [
        "import googlenet_fast.engine.step",
        "from googlenet_fast.engine import step",
        "from googlenet_fast import engine",
        "def f():\n    from ..engine.step import TrainStep",
        "from ..engine import step",
        "from .. import engine",
        "importlib.import_module('googlenet_fast.engine')",
        "__import__('googlenet_fast.engine')",
    ],
)
def test_an_import_that_goes_up_is_found(source: str) -> None:
    """However it is written, from a module of ops."""
    assert len(forbidden(source, "googlenet_fast.ops.max_pool", "googlenet_fast.ops")) == 1


def test_rooms_on_one_floor_do_not_know_each_other() -> None:
    source = (
        "from googlenet_fast import __version__\nfrom googlenet_fast.errors import GoogLeNetError\n"
    )
    assert forbidden(source, "googlenet_fast.cli", PACKAGE) == []
    source += "from googlenet_fast.paddleclas import translate\nfrom . import environment\n"
    assert forbidden(source, "googlenet_fast.cli", PACKAGE) == [
        "googlenet_fast.cli imports googlenet_fast.paddleclas.translate",
        "googlenet_fast.cli imports googlenet_fast.environment",
    ]
