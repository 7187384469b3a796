"""The confusion matrix and the results of each class as tables; `confusion_image` draws it."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from googlenet_fast.engine.evaluation import Evaluation
from googlenet_fast.files import csv_cell, write_atomically


@dataclass(frozen=True)
class ClassResult:
    """Results for the images of one class."""

    index: int
    name: str
    images: int
    correct: int
    confused_with: str
    """The wrong class that was predicted most often; "" if all were right."""

    @property
    def top1(self) -> float:
        """Share of the class's images, in %, that were predicted correctly."""
        return 100 * self.correct / self.images


def class_results(evaluation: Evaluation, names: Sequence[str]) -> list[ClassResult]:
    """Return the results of each class that has images, by class index."""
    results = []
    for index in evaluation.confusion.sum(1).nonzero().flatten().tolist():
        row = evaluation.confusion[index].clone()
        images, correct = int(row.sum()), int(row[index])
        row[index] = 0
        confused_with = names[int(row.argmax())] if correct < images else ""
        results.append(ClassResult(index, names[index], images, correct, confused_with))
    return results


def write_class_results(results: Sequence[ClassResult], path: Path) -> None:
    """Write one line per class as CSV."""
    header = ["index", "class", "images", "correct", "top1", "most_often_confused_with"]
    _write_csv(
        [header]
        + [
            [r.index, r.name, r.images, r.correct, f"{r.top1:.2f}", r.confused_with]
            for r in results
        ],
        path,
    )


def write_confusion(confusion: Tensor, names: Sequence[str], path: Path) -> None:
    """Write the counts as CSV: one row per label, one column per prediction."""
    rows = zip(names, confusion.tolist(), strict=True)
    _write_csv([["label \\ prediction", *names], *([name, *counts] for name, counts in rows)], path)


def _write_csv(rows: Sequence[Sequence[object]], path: Path) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(csv_cell, row) for row in rows)
    write_atomically(path, text.getvalue().encode())
