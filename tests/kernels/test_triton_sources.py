"""The Triton kernels use what every vendor's Triton has, and avoid what it miscompiles."""

import ast
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[2] / "kernels").glob("*.py"))

FORBIDDEN = ("inline_asm", "tl.atomic", "descriptor", "get_device_capability", "driver.active")


def kernels(path: Path) -> list[ast.FunctionDef]:
    """The functions that Triton compiles."""
    return [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(decorator) == "triton.jit" for decorator in node.decorator_list)
    ]


def calls(node: ast.AST, *names: str) -> list[ast.Call]:
    """Calls of functions of these names inside a piece of source."""
    return [
        call
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and ast.unparse(call.func) in names
    ]


def test_there_are_kernels() -> None:
    assert sum(len(kernels(path)) for path in SOURCES) >= 10


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_features_of_one_vendor(path: Path) -> None:
    code = ast.unparse(ast.parse(path.read_text()))
    assert not [word for word in FORBIDDEN if word in code]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_access_is_masked(path: Path) -> None:
    for kernel in kernels(path):
        for access in calls(kernel, "tl.load", "tl.store"):
            assert any(keyword.arg == "mask" for keyword in access.keywords), ast.unparse(access)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_products_state_their_precision(path: Path) -> None:
    for kernel in kernels(path):
        for product in calls(kernel, "tl.dot"):
            assert any(keyword.arg == "input_precision" for keyword in product.keywords)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_taps_and_channels_never_share_a_loop(path: Path) -> None:
    """Compilers got loops wrong that derive the tap by division or remainder."""
    for kernel in kernels(path):
        for loop in (node for node in ast.walk(kernel) if isinstance(node, ast.For)):
            counter = ast.unparse(loop.target)
            for node in ast.walk(loop):
                if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv | ast.Mod):
                    assert ast.unparse(node.left) != counter, ast.unparse(node)
