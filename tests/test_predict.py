"""The command line of prediction."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import googlenet_fast
from googlenet_fast import predict
from googlenet_fast.capture import WARMUP
from googlenet_fast.classifier import classifier, sources
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.weights import save_weights
from tests.capturers import Tape
from tests.http_server import Server

Command = Callable[..., tuple[int, str, str]]
LOADERS = ["dali", "pillow"]


@pytest.fixture
def command(run_main: Callable[..., tuple[int, str, str]]) -> Command:
    """Runs the command in this process and gives its status, stdout and stderr."""
    return partial(run_main, predict.main, "--device", "cpu")


@pytest.fixture(params=LOADERS)
def loader(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("nvidia.dali" if request.param == "dali" else "PIL")
    return request.param


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "animals.safetensors"
    model = GoogLeNet("torchvision", 3, aux=False)
    save_weights(model, path, class_names=["ape", "bee", "cat"], image_size=64)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine photos, at several depths and under odd names, among other files."""
    folder = tmp_path / "my photos"
    for name in ("a.jpg", "b.PNG", "c ü.jpeg", "sub/a.jpg", "sub/sub/z.jpg", "sub/ä/1.webp"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((90, 70), 80).convert("RGB").save(path)
    (folder / "notes.txt").touch()
    (folder / "._a.jpg").touch()
    return folder


def predictions(stdout: str) -> dict[str, list[tuple[int, str, float]]]:
    """Image -> classes, from the JSON document."""
    return {
        entry["image"]: [(c["index"], c["class"], c["probability"]) for c in entry["classes"]]
        for entry in json.loads(stdout)["predictions"]
    }


def test_photos_are_named(shared_data: Path, loader: str, command: Command) -> None:
    caffe = shared_data / "bvlc_googlenet" / "bvlc_googlenet.caffemodel"
    folder = shared_data / "dali_jpeg47"
    status, stdout, _ = command(
        caffe, folder / "100", folder / "84", "--loader", loader, "--resize", "antialias"
    )
    assert status == 0
    assert [line.split(maxsplit=2)[2] for line in stdout.splitlines() if line[2:3] == " "][::5] == [
        "black swan, Cygnus atratus", "peacock",
    ]  # fmt: skip


@pytest.mark.slow
def test_every_image_once_in_order_and_alike_in_any_batch(
    weights: Path, photos: Path, loader: str, command: Command
) -> None:
    arguments = (weights, photos, photos / "sub" / "a.jpg", "--loader", loader, "--json")
    status, stdout, _ = command(*arguments, "--batch-size", "2")
    assert status == 0
    files = [Path(entry["image"]) for entry in json.loads(stdout)["predictions"]]
    found = ["a.jpg", "b.PNG", "c ü.jpeg", "sub/a.jpg", "sub/sub/z.jpg", "sub/ä/1.webp"]
    assert files == [photos / name for name in [*found, "sub/a.jpg"]]
    for classes in predictions(stdout).values():
        assert {index: name for index, name, _ in classes} == {0: "ape", 1: "bee", 2: "cat"}
        values = [value for _, _, value in classes]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-4)

    together = predictions(command(*arguments, "--batch-size", "64")[1])
    for image, classes in predictions(stdout).items():
        others = [together[image]]
        if Path(image).name in ("c ü.jpeg", "1.webp"):
            alone = command(weights, image, "--loader", loader, "--json")[1]
            others.append(predictions(alone)[image])
        for other in others:
            assert sorted(other) == [
                (index, name, pytest.approx(value, abs=1e-4))
                for index, name, value in sorted(classes)
            ]


def test_table(weights: Path, photos: Path, command: Command) -> None:
    status, stdout, _ = command(weights, photos / "a.jpg", "--top", "2")
    assert status == 0
    name, *lines = stdout.rstrip().splitlines()
    assert name == str(photos / "a.jpg")
    assert len(lines) == 2
    assert {line.index("%") for line in lines} == {9}


def test_results_in_a_file(weights: Path, photos: Path, tmp_path: Path, command: Command) -> None:
    (photos / "bad.jpg").write_bytes(b"no JPEG")
    arguments = (weights, photos, tmp_path / "no.jpg", "--top", "2")
    expected = json.loads(command(*arguments, "--json")[1])
    status, stdout, _ = command(*arguments, "--output", tmp_path / "ä b.jsonl")
    assert (status, stdout) == (2, "")
    lines = [json.loads(line) for line in (tmp_path / "ä b.jsonl").read_text().splitlines()]
    assert [line for line in lines if "classes" in line] == expected["predictions"]
    assert {line["image"] for line in lines if "reason" in line} == {
        error["image"] for error in expected["errors"]
    }

    assert command(*arguments, "--output", tmp_path / "found.CSV")[0] == 2
    with (tmp_path / "found.CSV").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["image"], r["class"], float(r["probability"])) for r in rows if r["class"]] == [
        (image["image"], found["class"], found["probability"])
        for image in expected["predictions"]
        for found in image["classes"]
    ]
    assert [row["rank"] for row in rows if row["class"]] == ["1", "2"] * 6
    assert sum(bool(row["error"]) for row in rows) == 2


def test_cells_of_results_are_no_formulas(
    photos: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["=1+1", "@SUM(A1)", "a=1"]
    weights = tmp_path / "named.safetensors"
    model = GoogLeNet("torchvision", 3, aux=False)
    save_weights(model, weights, class_names=names, image_size=64)
    (photos / "a.jpg").rename(tmp_path / "+1.jpg")
    monkeypatch.chdir(tmp_path)
    assert command(weights, "+1.jpg", "--output", "found.csv")[0] == 0
    with Path("found.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {"'=1+1", "'@SUM(A1)", "a=1"}
    assert {row["image"] for row in rows} == {"'+1.jpg"}


def test_urls_and_standard_input(
    weights: Path, photos: Path, server: Server, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (photos / "a.jpg").read_bytes()
    url = server.add("/p/a%20b.jpg?size=1", content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    status, stdout, _ = command(weights, url, "-", photos / "a.jpg", url, "--json")
    assert status == 0
    entries = json.loads(stdout)["predictions"]
    assert [entry["image"] for entry in entries] == [url, "-", str(photos / "a.jpg"), url]
    assert len({json.dumps(entry["classes"]) for entry in entries}) == 1
    assert len(server.requests) == 1


def test_images_that_do_not_come_are_one_line_each(
    weights: Path, photos: Path, server: Server, command: Command, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sources, "MOST_IMAGE_BYTES", 50_000)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    page = server.add("/page.html", b"<html>")
    large = server.add("/large.jpg", bytes(60_000))
    gone = f"{server.root}/gone.jpg"
    nowhere = "https://googlenet.invalid/a.jpg"
    status, stdout, stderr = command(
        weights, page, large, gone, nowhere, "-", photos / "a.jpg", "--sheet", tmp_path / "s.png"
    )
    assert status == 2
    assert stdout.startswith(str(photos / "a.jpg"))
    reasons = dict(line.removeprefix("error: ").split(": ", 1) for line in stderr.splitlines())
    assert reasons[page].startswith("cannot be read as an image")
    assert reasons[large] == "cannot be downloaded (it has more than 50,000 bytes)"
    assert reasons[gone] == "cannot be downloaded (HTTP 404 Not Found)"
    assert reasons[nowhere].startswith("cannot be downloaded (")
    assert reasons["-"] == "standard input is empty"
    assert len(reasons) == 5


@pytest.mark.parametrize("suffix", [".npy", ".NPZ", ".csv"])
def test_vectors(
    suffix: str, weights: Path, photos: Path, tmp_path: Path, command: Command
) -> None:
    (photos / "bad.jpg").write_bytes(b"no JPEG")
    file = tmp_path / f"vectors{suffix}"
    arguments = (weights, photos, "--json")
    status, stdout, _ = command(*arguments, "--embed", file)
    assert status == 2
    expected = {
        image: pytest.approx([p for _, _, p in sorted(classes)], abs=1e-4)
        for image, classes in predictions(command(*arguments)[1]).items()
    }
    images = list(predictions(stdout))
    assert {i: [p for _, _, p in sorted(c)] for i, c in predictions(stdout).items()} == expected
    if suffix == ".csv":
        header, *rows = csv.reader(file.read_text().splitlines())
        assert header == ["image", *map(str, range(1024))]
        assert [row[0] for row in rows] == images
        vectors = np.array([row[1:] for row in rows], np.float32)
    elif suffix == ".npy":
        vectors = np.load(file)
    else:
        assert np.load(file)["images"].tolist() == images
        vectors = np.load(file)["vectors"]
    own = googlenet_fast.load(weights, "cpu").embed(images)
    assert vectors.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(vectors), own, rtol=0, atol=0.05)  # DALI rounds


def test_overlays(weights: Path, photos: Path, tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "why" / "here"
    (photos / "bad.jpg").write_bytes(b"no JPEG")
    assert command(weights, photos, "--explain", folder)[0] == 2
    names = ["1", "a", "a-2", "b", "c ü", "z"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}.explained.png" for name in names
    )
    own = googlenet_fast.load(weights, "cpu").explain(photos / "a.jpg").overlay
    with Image.open(folder / "a.explained.png") as overlay:
        assert overlay.size == (64, 64)
        difference = np.abs(np.asarray(overlay, int) - np.asarray(own, int))
    assert difference.mean() < 10


def test_overlays_beside_the_photos_leave_them(
    weights: Path, tmp_path: Path, command: Command
) -> None:
    photo = tmp_path / "a.png"
    Image.new("RGB", (64, 64), "red").save(photo)
    before = photo.read_bytes()
    assert command(weights, photo, "--explain", tmp_path)[0] == 0
    assert photo.read_bytes() == before
    assert (tmp_path / "a.explained.png").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--output", "o.csv", "--embed", "o.csv"], "--embed o.csv: is --output too"),
        (["--sheet", "{photo}"], ".png: is an image too; choose another name"),
    ],
)
def test_an_output_in_place_of_something_else(
    flags: list[str], expected: str, weights: Path, tmp_path: Path, command: Command
) -> None:
    photo = tmp_path / "a.png"
    Image.new("RGB", (64, 64), "red").save(photo)
    status, _, stderr = command(weights, photo, *(flag.format(photo=photo) for flag in flags))
    assert status == 2
    assert expected in stderr


def test_a_results_file_that_cannot_be_written(
    weights: Path, photos: Path, tmp_path: Path, command: Command
) -> None:
    old = tmp_path / "old.csv"
    old.write_text("kept")
    for arguments, message in (
        ((weights, "--output", tmp_path / "no" / "a.csv"), "no/a.csv: cannot be written: No such"),
        ((weights, "--output", "a.txt"), "a.txt: choose a name that ends in .csv or .jsonl"),
        ((weights, "--embed", "a.txt"), "a.txt: choose a name that ends in .npy, .npz or .csv"),
        ((weights, "--embed", tmp_path / "no" / "a.npy"), "cannot be written: no folder"),
        ((weights, "--explain", old), "old.csv: cannot be made: File exists"),
        ((tmp_path / "no.pth", "--output", old), "no.pth: No such file"),
    ):
        status, _, stderr = command(*arguments, photos)
        assert status == 2
        assert message in stderr
    assert old.read_text() == "kept"
    if Path("/dev/full").exists():
        full = tmp_path / "full.jsonl"
        full.symlink_to("/dev/full")
        status, _, stderr = command(weights, photos, "--output", full)
        assert status == 2
        assert (
            stderr.strip() == f"error: --output {full}: cannot be written: No space left on device"
        )


def test_unreadable_images_do_not_keep_the_others(
    weights: Path, photos: Path, loader: str, tmp_path: Path, command: Command
) -> None:
    (photos / "bad 1.jpg").write_bytes(b"no JPEG")
    (photos / "sub" / "bad 2.jpg").touch()
    (tmp_path / "empty").mkdir()
    sheet = tmp_path / "sheet.png"
    status, stdout, stderr = command(
        weights, tmp_path / "no.jpg", photos, tmp_path / "empty", "--loader", loader, "--json",
        "--sheet", sheet, "--batch-size", "3",
    )  # fmt: skip
    assert status == 2
    assert len(predictions(stdout)) == 6
    lines = stderr.splitlines()
    assert len(lines) == 4
    bad = ("no.jpg: no such file", "empty: no image", "bad 1.jpg: cannot", "bad 2.jpg: cannot")
    for line, expected in zip(lines, bad, strict=True):
        assert line.startswith("error: ")
        assert expected in line
    errors = json.loads(stdout)["errors"]
    assert [f"error: {entry['reason']}" for entry in errors] == lines
    with Image.open(sheet) as image:
        image.load()


def test_damaged_photos_of_many_kinds_in_one_batch(
    weights: Path, shared_data: Path, loader: str, tmp_path: Path
) -> None:
    """Some fail in their header, some in their pixels, beside one of 280 megapixels: DALI crashed.

    In a process of its own, which a crash would end.
    """
    folders = [shared_data / "weird_jpegs" / name for name in ("sharp", "wuffs", "zune-image")]
    sheet = tmp_path / "sheet.jpg"
    command: list[str | Path] = [sys.executable, "-m", "googlenet_fast.predict", weights, *folders]
    command += ["--json", "--sheet", sheet, "--loader", loader, "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    document = json.loads(done.stdout)
    images = {Path(entry["image"]).name for entry in document["predictions"]}
    errors = {Path(entry["image"]).name for entry in document["errors"]}
    files = {path.name for folder in folders for path in folder.rglob("*.jp*g")}
    assert images | errors == files
    assert not images & errors
    assert {"peacock.grayscale.jpeg", "small-img.jpg", "cymk.jpg"} <= images
    assert {"corrupt-header.jpg", "truncated.jpg"} <= errors
    assert sheet.exists()


def test_images_of_too_many_pixels(
    weights: Path, photos: Path, loader: str, command: Command
) -> None:
    Image.new("RGB", (91, 70)).save(photos / "large.jpg")
    limit = str(90 * 70)
    status, stdout, stderr = command(
        str(weights), str(photos), "--json", "--loader", loader, "--max-pixels", limit
    )
    assert status == 2
    assert len(predictions(stdout)) == 6
    assert "large.jpg" in stderr
    assert "91x70 pixels, more than" in stderr


def test_only_unreadable_images(weights: Path, tmp_path: Path, command: Command) -> None:
    status, stdout, stderr = command(weights, tmp_path / "no.jpg", "--sheet", tmp_path / "s.png")
    assert (status, stdout) == (2, "")
    assert stderr == f"error: {tmp_path / 'no.jpg'}: no such file or folder\n"
    assert not (tmp_path / "s.png").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sheet", "sheet.gif"], "--sheet sheet.gif: choose a name that ends in .png or .jpg"),
        (["--topp", "3"], "did you mean --top?"),
        (["--top", "none"], "--top none: must be a whole number, more than 0"),
        (["--preset", "caffe"], "--preset caffe: must be one of paper, paddleclas"),
        (["--class-names", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--resize-size", "32"], "resize_size 32: must be image_size, 64, or more"),
        (["--image-size", "99999"], "image_size 99999, resize_size 114285: must be 16384 or less"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    arguments: list[str], expected: str, weights: Path, photos: Path, command: Command
) -> None:
    status, stdout, stderr = command(weights, photos, *arguments)
    assert (status, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert expected in stderr


def test_captured_networks_predict_the_same(
    command: Command, weights: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (weights, photos, "--json", "--loader", "pillow", "--batch-size", 1)
    expected, tape = command(*arguments)[1], Tape()
    monkeypatch.setattr(classifier, "capturer_for", lambda *_: tape)
    assert command(*arguments)[1] == expected
    assert tape.replays == len(predictions(expected)) - WARMUP > 0


def test_cuda_graphs_need_a_gpu(command: Command, weights: Path, photos: Path) -> None:
    status, _, stderr = command(weights, photos, "--graph", "on")
    assert status != 0
    assert stderr.startswith("error: --graph on: captures CUDA graphs, which needs a GPU")


def test_torchrun_is_refused(
    weights: Path, photos: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, stderr = command(weights, photos)
    assert status == 2
    assert "start it without torchrun" in stderr
