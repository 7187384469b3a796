"""All commands under one name."""

import re
import sys
from contextlib import suppress
from importlib.metadata import entry_points

import pytest

from googlenet_fast import __main__, __version__
from googlenet_fast.__main__ import COMMANDS, entry_point


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/googlenet-fast", *arguments])
    entry_point()


def test_help_lists_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch)
    listed = re.findall(r"^  (\w+)  +\w", capsys.readouterr().out, re.MULTILINE)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(SystemExit):
        run(monkeypatch, command, "--help")
    assert f"usage: googlenet-fast {command} " in capsys.readouterr().out


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "--version")
    assert capsys.readouterr().out == f"googlenet_fast {__version__}\n"


@pytest.mark.parametrize("command", ["data", "train", "data shard"])
def test_version_of_a_command(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(SystemExit):
        run(monkeypatch, *command.split(), "--version")
    assert capsys.readouterr().out == f"googlenet_fast {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "chekc"], "error: chekc: no such command; did you mean check?\n"),
        (
            ["data", "check", "--worker", "3"],
            "error: --worker: no such flag; did you mean --workers?\n",
        ),
        (["doctor", "--jsn"], "error: --jsn: no such flag; did you mean --json?\n"),
        (
            ["export", "a", "b", "--presets=x"],
            "error: --presets: no such flag; did you mean --preset?\n",
        ),
    ],
)
def test_each_command_answers_typos(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, *arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == message


def test_a_typo_is_answered_with_the_nearest_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, "trian")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: trian: no such command; did you mean train?\n"


def test_the_script_is_installed() -> None:
    (script,) = (s for s in entry_points(group="console_scripts") if s.name == "googlenet-fast")
    assert script.load() is __main__.entry_point


def test_the_help_of_train_is_for_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "train", "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert " finetune Fine-tuning on " in text
    assert "--batch-size, --data.batch-size N " in text
    assert "(more than 0, default: 32)" in text  # of the recipe digits, which it would take
    assert not re.search(r"Annotated|lambda|default: null|--\w*_", text)
