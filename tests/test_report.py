"""The report on runs."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from googlenet_fast import report
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.trainer import Trainer

Command = Callable[..., tuple[int, str, str]]
HOSTILE = '<script>alert("1")</script> $\\q$ & ä'
"""Of a class and of settings; as a file name it has to do without the slash."""


@pytest.fixture
def command(run_main: Callable[..., tuple[int, str, str]]) -> Command:
    return partial(run_main, report.main, "--device", "cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, one of which has a hostile name."""
    root = tmp_path_factory.mktemp("photos")
    for name, colour in ((HOSTILE.replace("/", ""), (200, 30, 30)), ("plain", (30, 30, 200))):
        (root / name).mkdir()
        for i in range(20):
            Image.new("RGB", (70, 66), colour).save(root / name / f"{i} <b>.jpg")
    return root


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs."""
    path = tmp_path_factory.mktemp("runs") / "first <i>"
    config = load_config([
        "-c", "digits", "--data", str(photos), "--data.batch_size", "9", "--epochs", "2",
        "--output", str(path), "--device", "cpu", "--log_interval", "1",
    ])  # fmt: skip
    with closing(Trainer(config, Process(0, 1, 0, 1, torch.device("cpu")))) as trainer:
        assert trainer.run() is not None
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / finished.name))


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key.endswith(("src", "href"))]
        self.addresses += re.findall(r"url\((.*?)\)", " ".join(str(value) for _, value in attrs))

    def handle_data(self, data: str) -> None:
        self.addresses += re.findall(r"(?:url\(|@import )([^);]*)", data)
        self.text += data

    @property
    def images(self) -> list[Image.Image]:
        contents = [a.partition(";base64,")[2] for a in self.addresses if a.startswith("data:")]
        return [Image.open(io.BytesIO(base64.b64decode(content))) for content in contents]


def test_one_run(finished: Path, command: Command) -> None:
    status, stdout, stderr = command(finished)
    assert (status, stderr) == (0, "")
    path = Path(stdout.strip())
    assert path == finished / "report.html"
    page = Page(path)
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    evaluated = [record for record in records if record["kind"] == "val"]
    assert f"{max(record['top1'] for record in evaluated):.2f} %" in page.text
    assert "best.pt on 4 validation images of " in page.text
    for heading in (
        "Curves",
        "Throughput",
        "Most confident mistakes",
        "Environment",
        "Configuration",
    ):
        assert heading in page.text
    assert page.tags.count("svg") == 2
    assert "googlenet_fast" in page.text
    assert "torch" in page.text
    assert "optimizer.lr" in page.text
    assert "missing" not in re.sub(r"<style>.*</style>", "", path.read_text(), flags=re.S)


def test_the_page_needs_no_network_and_runs_nothing(finished: Path, command: Command) -> None:
    assert command(finished)[0] == 0
    page = Page(finished / "report.html")
    assert all(a.startswith(("data:image/", "#")) for a in page.addresses)
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert HOSTILE.replace("/", "") in page.text
    assert "first <i>" in page.text


def test_mistakes_are_shown_with_their_thumbnails(run: Path, command: Command) -> None:
    """A network that takes everything for one class is wrong about half of the images."""
    checkpoint = torch.load(run / "best.pt", weights_only=True)
    checkpoint["model"]["fc.weight"].zero_()
    checkpoint["model"]["fc.bias"].copy_(torch.tensor([0.0, 5.0]))
    torch.save(checkpoint, run / "best.pt")
    assert command(run, "--mistakes", 1)[0] == 0
    page = Page(run / "report.html")
    assert "top-1\n50.00 %" in page.text
    assert "plain 99.3 %" in page.text
    assert "<b>.jpg" in page.text
    confusion, thumbnail = page.images
    assert confusion.format == "PNG"
    thumbnail.load()
    red, green, blue = thumbnail.getpixel((150, 108))  # type: ignore[misc]
    assert red > 180
    assert max(green, blue) < 60


def test_runs_are_compared(finished: Path, run: Path, command: Command, tmp_path: Path) -> None:
    second = run.rename(tmp_path / "second")
    text = (second / "config.yaml").read_text()
    (second / "config.yaml").write_text(text.replace("momentum: 0.9", "momentum: 0.85"))
    output = tmp_path / "out.html"
    status, stdout, _ = command(finished, second, "--no-predictions", "--output", output)
    assert (status, stdout) == (0, f"{output}\n")
    page = Page(output)
    differ = page.text.partition("Settings that differ")[2].partition("Curves")[0]
    assert "".join(differ.split()) == "first<i>secondoptimizer.momentum0.90.85"
    assert page.text.count("No predictions: --no-predictions was given.") == 2


@pytest.mark.parametrize(
    ("file", "content", "reason", "lost"),
    [
        ("metrics.jsonl", None, "No metrics: there is no metrics.jsonl.", "svg"),
        ("metrics.jsonl", b"", "nothing was logged", "svg"),
        ("metrics.jsonl", b"\xff\xfe garbage", "No metrics: metrics.jsonl cannot be read", "svg"),
        (
            "metrics.jsonl",
            b'[1]\n{"kind": "train", "epoch": "x", "loss": NaN}\n',
            "No curves",
            "svg",
        ),
        ("config.yaml", None, "No config: there is no config.yaml.", "details"),
        ("config.yaml", b"- a\n", "config.yaml cannot be read (not a configuration)", "details"),
        ("config.yaml", b"a: !!python/object/apply:os.system [x]", "cannot be read", "details"),
        ("environment.json", None, "No environment: there is no environment.json.", None),
        ("environment.json", b"[" * 100_000, "environment.json cannot be read", None),
        ("best.pt", None, "best.pt", "figure"),
        ("best.pt", b"garbage", "No predictions: ", "figure"),
    ],
)
def test_what_is_missing_is_left_out_and_said(
    file: str, content: bytes | None, reason: str, lost: str | None, run: Path, command: Command
) -> None:
    (run / file).unlink()
    if content is not None:
        (run / file).write_bytes(content)
    assert command(run)[0] == 0
    page = Page(run / "report.html")
    assert reason in page.text
    assert lost not in page.tags


def test_a_dataset_that_moved_away(run: Path, command: Command, tmp_path: Path) -> None:
    text = (run / "config.yaml").read_text()
    path = re.search(r"path: .*(\n    .*)*", text)
    assert path is not None
    (run / "config.yaml").write_text(text.replace(path[0], "path: /gone/away"))
    assert command(run)[0] == 0
    page = Page(run / "report.html")
    assert "No predictions: /gone/away: no such dataset folder." in page.text
    assert page.tags.count("svg") == 2


def test_mistakes_of_the_user(finished: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, expected in (
        ([tmp_path / "none"], "none: no such run folder"),
        ([tmp_path / "empty"], "empty: is not the folder of a run"),
        ([finished, finished], "a run is given twice"),
        (
            [finished, "--output", tmp_path / "no" / "x.html", "--no-predictions"],
            "x.html: there is no",
        ),
        ([finished, "--output", finished / "best.pt"], "best.pt: choose a name that ends in .html"),
        ([finished, "--mistakes", "-1"], "--mistakes -1: must be 0 or more"),
        ([], "the following arguments are required: RUN"),
    ):
        status, stdout, stderr = command(*arguments)
        assert (status, stdout) == (2, "")
        assert stderr.startswith("error: ")
        assert stderr.count("\n") == 1
        assert expected in stderr
