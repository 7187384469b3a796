"""Write predictions to a file as they are made: CSV for spreadsheets, JSON lines for programs."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from googlenet_fast.classifier.prediction import FilePrediction
from googlenet_fast.classifier.sources import Unreadable
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.files import csv_cell

_COLUMNS = ("image", "rank", "class", "index", "probability", "error")


def record(outcome: FilePrediction | Unreadable) -> dict[str, Any]:
    """Return what was found in an image, or why it cannot be read, as plain values."""
    if isinstance(outcome, Unreadable):
        return {"image": outcome.name, "reason": outcome.reason}
    classes = [
        {"index": s.index, "class": s.name, "probability": round(s.probability, 6)}
        for s in outcome.scores
    ]
    return {"image": outcome.image.name, "classes": classes}


class Results:
    """An open file of results, CSV if its name ends in .csv, else JSON lines.

    CSV has a row for each class of an image, the likeliest first, or one with the error. JSON lines
    have an object for each image, as in the document that `predict --json` prints.
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path = path
        self._file = file
        self._csv = csv.writer(file, lineterminator="\n") if path.suffix.lower() == ".csv" else None
        if self._csv is not None:
            self._csv.writerow(_COLUMNS)

    def add(self, outcome: FilePrediction | Unreadable) -> None:
        """Write one image, so that all so far are in the file if the command is interrupted.

        Raises:
            GoogLeNetError: the disk is full, for example.
        """
        try:
            if self._csv is None:
                print(json.dumps(record(outcome)), file=self._file)
            else:
                self._csv.writerows(_rows(outcome))
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from None


@contextmanager
def results(path: Path) -> Iterator[Results]:
    """Open a file for results, in place of an older one.

    Raises:
        GoogLeNetError: it cannot be written.
    """
    try:
        # A name of a file that is not UTF-8 gets its own bytes.
        file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        yield Results(path, file)
    finally:
        try:
            file.close()
        except OSError as error:  # what `add` could not write is tried again
            raise _unwritable(path, error) from None


def _rows(outcome: FilePrediction | Unreadable) -> list[tuple[Any, ...]]:
    if isinstance(outcome, Unreadable):
        return [(csv_cell(outcome.name), "", "", "", "", csv_cell(outcome.reason))]
    return [
        (csv_cell(outcome.image.name), rank, csv_cell(s.name), s.index, f"{s.probability:.6f}", "")
        for rank, s in enumerate(outcome.scores, 1)
    ]


def _unwritable(path: Path, error: OSError) -> GoogLeNetError:
    return GoogLeNetError(f"--output {path}: cannot be written: {error.strerror or error}")
