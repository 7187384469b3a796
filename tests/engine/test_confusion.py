"""The tables and the picture of a confusion matrix."""

import csv
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from googlenet_fast.engine.confusion import (
    class_results,
    write_class_results,
    write_confusion,
)
from googlenet_fast.engine.confusion_image import confusion_png
from googlenet_fast.engine.evaluation import Evaluation


def evaluation(confusion: torch.Tensor) -> Evaluation:
    images = int(confusion.sum())
    return Evaluation(images=images, loss=0.5, top5_count=images, confusion=confusion)


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_cells_are_no_formulas(tmp_path: Path) -> None:
    """Spreadsheets run cells that begin so; a quote before them makes them text."""
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\t\t", "a=1", "'b"]
    safe = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\t=1", "'\t\t", "a=1", "'b"]
    confusion = torch.ones(8, 8, dtype=torch.int64) - torch.eye(8, dtype=torch.int64)
    write_confusion(confusion, names, tmp_path / "confusion.csv")
    header, *rows = read_csv(tmp_path / "confusion.csv")
    assert header[1:] == [row[0] for row in rows] == safe
    assert [[int(count) for count in row[1:]] for row in rows] == confusion.tolist()
    write_class_results(class_results(evaluation(confusion), names), tmp_path / "classes.csv")
    _, *rows = read_csv(tmp_path / "classes.csv")
    assert [row[1] for row in rows] == safe
    assert [row[5] for row in rows] == [safe[1]] + [safe[0]] * 7


def test_class_results() -> None:
    confusion = torch.tensor([[5, 3, 2], [0, 0, 0], [0, 0, 4]])
    first, last = class_results(evaluation(confusion), ["ape", "bee", "cat"])
    assert (first.name, first.images, first.correct, first.confused_with) == ("ape", 10, 5, "bee")
    assert first.top1 == 50
    assert (last.index, last.top1, last.confused_with) == (2, 100, "")


def test_tables(tmp_path: Path) -> None:
    names = ['a, "b"', "ü 山", "c"]
    confusion = torch.randint(1, 10**12, (3, 3))
    write_confusion(confusion, names, tmp_path / "confusion.csv")
    header, *rows = read_csv(tmp_path / "confusion.csv")
    assert header[1:] == [row[0] for row in rows] == names
    assert [[int(count) for count in row[1:]] for row in rows] == confusion.tolist()

    write_class_results(class_results(evaluation(confusion), names), tmp_path / "classes.csv")
    header, *rows = read_csv(tmp_path / "classes.csv")
    assert [row[1] for row in rows] == names
    top1 = header.index("top1")
    expected = 100 * confusion.diagonal() / confusion.sum(1)
    assert [float(row[top1]) for row in rows] == pytest.approx(expected.tolist(), abs=0.01)


@pytest.mark.parametrize("num_classes", [2, 10, 60, 1000])
def test_picture(num_classes: int) -> None:
    """A perfect diagonal shows every class as a square of its share of the picture's width."""
    names = [f"class number {i} with a long name" for i in range(num_classes)]
    content = confusion_png(evaluation(7 * torch.eye(num_classes, dtype=torch.int64)), names)
    with Image.open(BytesIO(content)) as image:
        assert max(image.size) < 3200
        pixels = np.asarray(image.convert("RGB")).astype(int)
    dark_blue = np.all(np.abs(pixels - [8, 48, 107]) < 12, axis=2)
    diagonal = dark_blue[:, : int(0.85 * dark_blue.shape[1])]  # without the colour bar
    width = np.count_nonzero(diagonal.any(0))
    assert width > max(num_classes, 0.2 * image.width)
    assert np.count_nonzero(diagonal) == pytest.approx(width**2 / num_classes, rel=0.25)


def test_picture_leaves_out_classes_that_do_not_occur() -> None:
    confusion = torch.zeros(1000, 1000, dtype=torch.int64)
    confusion[3, 500] = confusion[999, 999] = 1
    content = confusion_png(evaluation(confusion), [str(i) for i in range(1000)])
    with Image.open(BytesIO(content)) as image:
        assert max(image.size) < 800
