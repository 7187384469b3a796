"""The command line of evaluation."""

import csv
import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from wcwidth import wcswidth

from googlenet_fast import evaluate
from googlenet_fast.capture import WARMUP
from googlenet_fast.classifier import classifier
from googlenet_fast.data import sample_dataset
from googlenet_fast.engine.config import load_config
from googlenet_fast.engine.confusion import ClassResult
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.evaluate_weights import class_table
from googlenet_fast.engine.trainer import Trainer
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.weights import save_weights
from tests.capturers import Tape
from tests.engine.runs import start_torchrun

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(run_main: Callable[..., tuple[int, str, str]]) -> Command:
    """Runs the command in this process and gives its status, stdout and stderr."""
    return partial(run_main, evaluate.main, "--device", "cpu")


def test_captured_networks_give_the_same_results(
    command: Command, digit_weights: Path, few_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of eight batches has one image."""
    arguments = (digit_weights, "--list", few_digits, "--root", sample_dataset(), "--batch-size", 6)
    results = [result_of(command(*arguments)[1])]
    tape = Tape()
    monkeypatch.setattr(classifier, "capturer_for", lambda *_: tape)
    results += [result_of(command(*arguments)[1])]
    assert tape.replays == 8 - WARMUP
    for result in results:
        del result["images_per_second"]
    assert results[0] == results[1]


def test_cuda_graphs_need_a_gpu(command: Command, digit_weights: Path) -> None:
    status, _, stderr = command(digit_weights, "--graph", "on")
    assert status != 0
    assert stderr.startswith("error: --graph on: captures CUDA graphs, which needs a GPU")


def result_of(stdout: str) -> dict[str, Any]:
    last = stdout.splitlines()[-1]
    assert last.startswith("RESULT ")
    return json.loads(last.removeprefix("RESULT "))


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 43 validation digits, whose number no batch size here divides."""
    lines = (sample_dataset() / "val_list.txt").read_text().splitlines()
    path = tmp_path_factory.mktemp("lists") / "few digits.txt"
    path.write_text("\n".join(lines[::8][:43]))
    return path


@pytest.fixture(scope="session")
def digit_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network for digits."""
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    model = GoogLeNet("torchvision", 10, aux=False)
    save_weights(model, path, class_names=[str(i) for i in range(10)], image_size=64)
    return path


@pytest.fixture(scope="session")
def animal_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network for three animals."""
    path = tmp_path_factory.mktemp("weights") / "animals.safetensors"
    save_weights(
        GoogLeNet("torchvision", 3, aux=False), path, class_names=["ape", "bee", "cat"],
        image_size=64,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(("resize", "right"), [(None, (32, 41)), ("antialias", (29, 40))])
@pytest.mark.parametrize("loader", ["dali", "pillow"])
def test_caffe_weights_on_real_photos(
    loader: str, resize: str | None, right: tuple[int, int], shared_data: Path, command: Command
) -> None:
    """What reference implementations get: with cv2's filter, as Caffe, and with antialiasing."""
    pytest.importorskip("nvidia.dali" if loader == "dali" else "PIL")
    status, stdout, _ = command(
        shared_data / "bvlc_googlenet" / "bvlc_googlenet.caffemodel",
        "--list", shared_data / "dali_jpeg47" / "image_list.txt", "--loader", loader,
        *(() if resize is None else ("--resize", resize)),
    )  # fmt: skip
    assert status == 0
    assert f"({right[0]}/47)" in stdout
    assert f"({right[1]}/47)" in stdout
    assert f"resize={resize or 'cv2'}" in stdout
    result = result_of(stdout)
    assert (result["top1_count"], result["top5_count"], result["images"]) == (*right, 47)
    assert result["resize"] == (resize or "cv2")


@pytest.mark.slow
def test_checkpoint_gives_what_its_run_measured(
    few_digits: Path, tmp_path: Path, command: Command
) -> None:
    """With averaged weights, and with sizes, preset and class names from the checkpoint."""
    config = load_config([
        "-c", "digits", "--data.train_list", str(few_digits), "--data.val_list", str(few_digits),
        "--data.root", str(sample_dataset()), "--data.batch_size", "16", "--epochs", "2",
        "--ema_decay", "0.5", "--output", str(tmp_path / "run"), "--device", "cpu",
    ])  # fmt: skip
    alone = Process(0, 1, 0, 1, torch.device("cpu"))
    with closing(Trainer(config, alone)) as trainer:
        expected = trainer.run()
    assert expected is not None
    status, stdout, _ = command(
        tmp_path / "run" / "last.pt", "--list", few_digits, "--root", sample_dataset(),
        "--batch-size", "5", "--output", tmp_path / "new" / "results",
    )  # fmt: skip
    assert status == 0
    result = result_of(stdout)
    assert result["images"] == 43
    assert result["top1"] == expected["top1"]
    assert result["top5"] == expected["top5"]
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    check_output_folder(tmp_path / "new" / "results", result)


def check_output_folder(folder: Path, result: dict[str, Any]) -> None:
    names = {file.name for file in folder.iterdir()}
    assert names == {"results.json", "per_class.csv", "confusion.csv", "confusion.png"}
    document = json.loads((folder / "results.json").read_text())
    assert {key: document[key] for key in result} == result
    assert sum(entry["images"] for entry in document["classes"]) == 43
    with (folder / "confusion.csv").open(newline="") as file:
        rows = [[int(count) for count in row[1:]] for row in list(csv.reader(file))[1:]]
    assert sum(map(sum, rows)) == 43
    assert sum(rows[i][i] for i in range(10)) == result["top1_count"]
    with Image.open(folder / "confusion.png") as image:
        image.load()


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["dali", "pillow"])
def test_two_processes_count_each_image_once(
    loader: str, few_digits: Path, digit_weights: Path, command: Command, tmp_path: Path
) -> None:
    pytest.importorskip("nvidia.dali" if loader == "dali" else "PIL")
    arguments = [
        str(digit_weights), "--list", str(few_digits), "--root", str(sample_dataset()),
        "--batch-size", "4", "--loader", loader,
    ]  # fmt: skip
    log = tmp_path / "log"
    start_torchrun(
        log, "--standalone", "--nproc-per-node=2", "--run-path", "--start-method=fork",
        evaluate.__file__, *arguments, "--device", "cpu",
    ).join(300)  # fmt: skip
    assert log.read_text().count("RESULT ") == 1, log.read_text()
    two = result_of(log.read_text())
    one = result_of(command(*arguments)[1])
    assert (one["world_size"], two["world_size"]) == (1, 2)
    for key in ("images", "top1_count", "top5_count"):
        assert one[key] == two[key]
    assert one["images"] == 43
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_embedded_digits_by_default_and_json(
    digit_weights: Path, command: Command, tmp_path: Path
) -> None:
    status, stdout, _ = command(digit_weights, "--json", "--output", tmp_path)
    assert status == 0
    document = json.loads(stdout)
    listed = len((sample_dataset() / "val_list.txt").read_text().splitlines())
    assert document["images"] == listed
    assert [entry["class"] for entry in document["classes"]] == [str(i) for i in range(10)]
    assert document == json.loads((tmp_path / "results.json").read_text())


def test_class_folders_are_matched_by_name(
    animal_weights: Path, tmp_path: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    """Bees and cats are classes 0 and 1 of the folder, 1 and 2 of the network."""
    for name in ("bee", "cat", "cat"):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", (70, 70)).save(tmp_path / name / f"{len(list(tmp_path.rglob('*')))}.png")
    status, stdout, _ = command(animal_weights, "--data", tmp_path, "--json")
    assert status == 0
    assert "matched with the network's by name" in caplog.text
    classes = json.loads(stdout)["classes"]
    assert [(entry["index"], entry["class"], entry["images"]) for entry in classes] == [
        (1, "bee", 1), (2, "cat", 2),
    ]  # fmt: skip


@pytest.mark.parametrize("loader", ["dali", "pillow"])
def test_bad_images_stop_it_or_are_left_out(
    loader: str, tmp_path: Path, animal_weights: Path, command: Command
) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    root = tmp_path / "photos ä"
    for name in ("ape", "bee", "cat"):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (70, 60)).save(root / name / "good.jpg")
    (root / "bee" / "bad.jpg").write_bytes(b"no image")
    Image.new("RGB", (70, 90)).save(root / "cat" / "large.jpg")
    arguments = [str(animal_weights), "--data", str(root), "--loader", loader]
    status, _, stderr = command(*arguments)
    assert status == 2
    assert "bad.jpg: cannot be read as an image" in stderr
    output = tmp_path / "report"
    limits = ("--max-pixels", "5000", "--output", str(output))
    status, stdout, _ = command(*arguments, "--bad-images", "skip", *limits)
    assert status == 0
    result = result_of(stdout)
    assert (result["images"], result["bad_images"]) == (3, 2)
    assert "2 images cannot be read and were skipped" in stdout
    lines = (output / "bad_images.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        str(root / "bee" / "bad.jpg"),
        str(root / "cat" / "large.jpg"),
    ]


def test_table_of_many_classes_shows_the_worst_and_the_best() -> None:
    results = [ClassResult(i, f"class {i}", 100, i, "") for i in torch.randperm(100).tolist()]
    lines = class_table(results, "9900 images of x").splitlines()
    assert lines[0] == "accuracy of 100 classes on 9900 images of x: the worst and the best ten"
    shown = [int(line.split()[1]) for line in lines if line.startswith("class ") and "%" in line]
    assert shown == [*range(10), *range(90, 100)]
    assert lines[12] == "..."


def test_the_table_is_aligned_with_names_of_two_columns_a_character() -> None:
    results = [
        ClassResult(0, "金毛寻回犬", 10, 9, "dog"),
        ClassResult(1, "dog", 5, 5, ""),
        ClassResult(2, "猫" * 30, 7, 0, "金毛寻回犬"),
    ]
    _, *lines = class_table(results, "22 images").splitlines()
    marks = ["top-1", "%", "%", "%"]
    ends = {
        wcswidth(line[: line.index(mark) + len(mark)])
        for line, mark in zip(lines, marks, strict=True)
    }
    assert len(ends) == 1
    assert wcswidth(lines[-1].split()[0]) == 35  # 17 characters and the sign of a cut


def mistakes(folder: Path, digits: Path, animals: Path) -> dict[str, tuple[list[object], str]]:
    garbage, names = folder / "garbage.pth", folder / "names.txt"
    garbage.write_bytes(b"no weights at all")
    names.write_text("ape\nbee\n")
    (folder / "file").touch()
    return {
        "no weights": ([folder / "no.pt"], "no.pt: No such file or directory"),
        "garbage": ([garbage], "garbage.pth: "),
        "no data": ([digits, "--data", folder / "nowhere"], "nowhere: no such"),
        "no list": ([digits, "--list", folder / "no.txt"], "no.txt: no such file"),
        "too few classes": ([animals, "--data", sample_dataset()], "but there are 3 classes"),
        "default data": ([animals], "has 3 classes, the embedded digits 10; name the images"),
        "preset": ([digits, "--preset", "papper"], "torchvision; did you mean paper?"),
        "other preset": ([digits, "--preset", "paper"], "of preset torchvision"),
        "names": ([digits, "--class-names", names], "names.txt: has 2 names, but "),
        "flag": ([digits, "--batchsize", "3"], "no such flag; did you mean --batch-size"),
        "number": ([digits, "--batch-size", "0"], "--batch-size 0: must be more than 0"),
        "size": ([digits, "--image-size", "20"], "image size 20x20: preset torchvision takes 64"),
        "output": ([digits, "--output", folder / "file" / "x"], "--output "),
        "nothing": ([], "the following arguments are required: WEIGHTS"),
    }  # fmt: skip


MISTAKES = (
    "no weights", "garbage", "no data", "no list", "too few classes", "default data", "preset",
    "other preset", "names", "flag", "number", "size", "output", "nothing",
)  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_status_2(
    mistake: str, tmp_path: Path, digit_weights: Path, animal_weights: Path, command: Command
) -> None:
    arguments, expected = mistakes(tmp_path, digit_weights, animal_weights)[mistake]
    status, stdout, stderr = command(*arguments)
    assert status == 2
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert expected in stderr


def test_weights_that_give_no_numbers(tmp_path: Path, few_digits: Path, command: Command) -> None:
    model = GoogLeNet("torchvision", 10, aux=False)
    torch.nn.init.constant_(model.fc.bias, float("nan"))
    save_weights(model, tmp_path / "nan.safetensors", image_size=64)
    status, _, stderr = command(
        tmp_path / "nan.safetensors", "--list", few_digits, "--root", sample_dataset()
    )
    assert status == 2
    assert "nan.safetensors: the loss is nan" in stderr
