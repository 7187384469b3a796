"""Texts of strangers never reach the terminal as they are."""

import errno
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from googlenet_fast import GoogLeNet, evaluate, predict, report, save_weights
from googlenet_fast.classifier.display_names import display_names
from googlenet_fast.errors import GoogLeNetError, log_to_stderr, printable

RunMain = Callable[..., tuple[int, str, str]]
NASTY = "a\x1b[31mred\n\r\t\x07\x9b2J\u202eb"
"""Colour, line ends, a bell, a C1 control and a change of direction."""
ESCAPED = "a\\x1b[31mred\\n\\r\\t\\x07\\x9b2J\\u202eb"


def assert_clean(*texts: str) -> None:
    for text in texts:
        assert not set(text) & set("\x1b\r\x07\x9b\u202e"), text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (NASTY, ESCAPED),
        ("dög 山 👩‍🚀 a\u200cb", "dög 山 👩‍🚀 a\u200cb"),
        ("bytes\udcff", "bytes\\udcff"),
        (Path("a\nb"), "a\\nb"),
    ],
)
def test_printable(text: object, shown: str) -> None:
    assert printable(text) == shown
    assert printable(printable(text)) == shown


@pytest.fixture
def same_level_after() -> Iterator[None]:
    """Keep a command's level of logging from the tests that follow."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.mark.usefixtures("same_level_after")
def test_errors_and_the_log(run_main: RunMain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def main() -> None:
        log_to_stderr(logging.INFO)
        logging.getLogger("googlenet_fast").info("%s: %d\nand %s", NASTY, 3, Path(NASTY))
        raise GoogLeNetError(f"{NASTY}: no such file")

    status, _, stderr = run_main(main)
    assert status == 2
    assert stderr == f"{ESCAPED}: 3\nand {ESCAPED}\nerror: {ESCAPED}: no such file\n"


def test_a_full_disk_below_stdout(run_main: RunMain, monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("googlenet_fast.errors._leave_unwritten", lambda: None)
    assert run_main(main) == (
        2, "", "error: the output cannot be written: No space left on device\n"
    )  # fmt: skip


def test_names_that_are_equal_when_escaped_stay_distinct() -> None:
    assert display_names(["a\n", "a\\n"]) == ("a\\n (0)", "a\\n (1)")


def test_commands(tmp_path: Path, run_main: RunMain) -> None:
    """File names and class names in tables, messages, CSV files, JSON and pictures."""
    folder = tmp_path / NASTY
    images = [folder / f"{name}{NASTY}" / f"{NASTY}.png" for name in ("=x", "y")]
    for image in images:
        image.parent.mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(image)
    weights = tmp_path / f"{NASTY}.safetensors"
    model = GoogLeNet("torchvision", 2, aux=False)
    names = [image.parent.name for image in images]
    save_weights(model, weights, class_names=names, image_size=64)
    options = ("--device", "cpu", "--loader", "pillow", "--num-workers", "0")
    status, stdout, stderr = run_main(
        evaluate.main, weights, "--data", folder, *options, "--output", tmp_path / "o"
    )
    assert status == 0
    assert_clean(stdout, stderr)
    assert f"y{ESCAPED}"[:20] in stdout
    per_class = (tmp_path / "o" / "per_class.csv").read_text()
    assert f",'=x{ESCAPED}," in per_class
    assert_clean(per_class, (tmp_path / "o" / "confusion.csv").read_text())

    sheet = tmp_path / "sheet.png"
    status, stdout, stderr = run_main(
        predict.main, weights, *images, tmp_path / "missing\x1b", *options, "--sheet", sheet
    )
    assert status == 2
    assert_clean(stdout, stderr)
    assert sheet.exists()
    _, stdout, _ = run_main(predict.main, weights, images[0], *options, "--json")
    assert json.loads(stdout)["predictions"][0]["image"] == str(images[0])

    run = tmp_path / f"run{NASTY}"
    run.mkdir()
    (run / "config.yaml").write_text(f"data: {json.dumps({NASTY: NASTY})}")
    torch.save({}, run / "best.pt")
    status, stdout, stderr = run_main(report.main, run, "--no-predictions")
    assert status == 0
    page = (run / "report.html").read_text()
    assert_clean(stdout, stderr, page)
    assert f"<th>data.{ESCAPED}</th><td>{ESCAPED}</td>" in page
    status, _, stderr = run_main(evaluate.main, run / "best.pt", *options)
    assert status == 2
    assert_clean(stderr)
