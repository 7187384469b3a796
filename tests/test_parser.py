"""The parser of all command lines."""

import argparse
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from googlenet_fast import __version__
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.parser import Parser, Range

Percent = Annotated[int, Range("1 to 100", lambda number: 1 <= number <= 100)]


def make_parser() -> Parser:
    parser = Parser(prog="tool", description="About.")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="a file")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGES", help="files")
    parser.add_argument("--batch-size", type=Percent, default=64, help="images per batch")
    parser.add_argument("--amp", type=Literal["auto", "off"], default="auto", help="precision")
    parser.add_argument("--relabel", type=bool, default=False, help="renumber")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--size", type=int, help="pixels; default: as in training")
    parser.add_argument("--scale", type=float, default=1 / 3, help="a factor")
    parser.add_argument("--delimiter", default=" ", help="between words")
    parser.add_alias("--batch", "--batch-size")
    parser.add_alias("--old-batch", "--batch-size", shown=False)
    return parser


def parsed(*arguments: str) -> dict[str, Any]:
    return vars(make_parser().parse_args(arguments, namespace=argparse.Namespace()))


@pytest.mark.parametrize(
    "arguments",
    [
        ["w", "--batch-size", "3"],
        ["w", "--batch_size=3"],
        ["--batch", "3", "w"],
        ["--old_batch", "3", "w"],
        ["--batch-size", "3", "--weights", "w"],
        ["--weights=w", "--batch", "3"],
        ["--batch", "3", "--", "w"],
    ],
)
def test_a_flag_has_several_spellings(arguments: list[str]) -> None:
    found = parsed(*arguments)
    assert (found["weights"], found["images"], found["batch_size"]) == (Path("w"), [], 3)


def test_positionals_have_flags() -> None:
    assert parsed("--images", "a", "b", "--weights", "w")["images"] == [Path("a"), Path("b")]
    found = parsed("a", "b", "--weights", "w")
    assert (found["weights"], found["images"]) == (Path("w"), [Path("a"), Path("b")])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], False),
        (["--relabel"], True),
        (["--relabel", "w"], True),
        (["--relabel", "true"], True),
        (["--relabel=no"], False),
        (["--no-relabel"], False),
        (["--no_relabel"], False),
        (["--relabel", "--no-relabel"], False),
        (["--json", "--relabel", "--size", "3"], True),
    ],
)
def test_switches(words: list[str], expected: bool) -> None:
    found = parsed(*words) if "w" in words else parsed("w", *words)
    assert found["relabel"] is expected
    assert found["weights"] == Path("w")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--batch-siz", "3"], "--batch-siz: no such flag; did you mean --batch-size?"),
        (["--batch_siz", "3"], "--batch_siz: no such flag; did you mean --batch_size?"),
        (["--batc", "3"], "--batc: no such flag; did you mean --batch?"),
        (["--old-batc=3"], "--old-batc: no such flag; did you mean --batch?"),
        (["--xyz"], "--xyz: no such flag; tool --help lists all"),
        (["--no-batch", "3"], "--no-batch: no such flag"),
        (["--no-relabel=true"], "--no-relabel: no such flag"),
        (["--batch", "many"], "--batch many: must be a whole number, 1 to 100"),
        (["--batch-size", "1.5"], "--batch-size 1.5: must be a whole number, 1 to 100"),
        (["--batch_size", "101"], "--batch_size 101: must be 1 to 100"),
        (["--old-batch", "0"], "--old-batch 0: must be 1 to 100"),
        (["--scale", "inf"], "--scale inf: must be a number"),
        (["--scale", "x"], "--scale x: must be a number"),
        (["--relabel=maybe"], "--relabel maybe: must be true or false"),
        (["--amp", "of"], "--amp of: must be one of auto, off; did you mean off?"),
        (["--batch-size"], "--batch-size: expected one argument"),
        (["-x"], "unrecognized arguments: -x; tool --help lists all"),
    ],
)
def test_mistakes_are_told_in_the_words_that_were_typed(
    arguments: list[str], expected: str
) -> None:
    with pytest.raises(GoogLeNetError) as error:
        parsed("w", *arguments)
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named_as_in_the_help() -> None:
    with pytest.raises(GoogLeNetError, match="are required: WEIGHTS; tool"):
        parsed("--json")


def help_of(parser: Parser) -> str:
    return " ".join(parser.format_help().split())


def test_help_shows_the_defaults_in_force() -> None:
    parser = make_parser()
    shown = help_of(parser)
    assert shown.startswith("usage: tool WEIGHTS [IMAGES ...] [--FLAG VALUE ...] About.")
    assert "--batch, --batch-size N images per batch (1 to 100, default: 64)" in shown
    assert "--amp {auto,off} precision (default: auto)" in shown
    assert "--[no-]relabel renumber (default: false)" in shown
    assert "--json print JSON --size" in shown
    assert "--size N pixels; default: as in training --scale" in shown
    assert "--scale X a factor (default: 0.333333)" in shown
    assert "between words (default: ' ')" in shown
    assert "old-batch" not in shown
    parser.set_defaults(batch_size=7, size=96, relabel=True)
    shown = help_of(parser)
    assert "images per batch (1 to 100, default: 7)" in shown
    assert "--size N pixels (default: 96)" in shown
    assert "renumber (default: true)" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parsed("--version")
    assert not exit_.value.code
    assert capsys.readouterr().out == f"googlenet_fast {__version__}\n"
