"""The results of a run: lines of JSON in one file, each on disk before the next begins.

A line of a stage has `stage`, `key` (which row it is), the `digest` of what it was measured with,
and its values. A line with `status` instead of `key` ends an attempt at a stage.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]

OK, SKIPPED, FAILED, OUT_OF_TIME = "ok", "skipped", "failed", "out of time"
"""The values of `status`. Only what is `ok` is not run again."""


class Results:
    """Appends to the file and reads it back.

    Args:
        path: the file; it need not exist.
        digest: lines of other digests are ignored, and stay in the file.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self._path, self.digest = path, digest

    def append(self, stage: str, **values: Any) -> None:
        """Write a line, and wait until it is on disk."""
        line = {"stage": stage, "digest": self.digest, "time": round(time.time(), 1), **values}
        with self._path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # a stage may have several processes
            if file.tell() and not self._path.read_bytes().endswith(b"\n"):
                file.write(b"\n")  # after a line that was cut off
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def lines(self) -> list[Line]:
        """Return the lines of this digest, without those that were cut off."""
        if not self._path.is_file():
            return []
        found = map(_parsed, self._path.read_bytes().splitlines())
        return [line for line in found if line is not None and line.get("digest") == self.digest]

    def rows(self, stage: str) -> list[Line]:
        """Return the rows of a stage, in the order of their first attempts; later ones win."""
        rows = {
            json.dumps(line["key"]): line
            for line in self.lines()
            if line["stage"] == stage and "key" in line
        }
        return list(rows.values())

    def has(self, stage: str, key: Sequence[object]) -> bool:
        """Return True if a row was recorded; what ended in an error is tried again."""
        return any(row["key"] == list(key) and "error" not in row for row in self.rows(stage))

    def of_card(self) -> "Results":
        """Return the results of this machine's card: what another one measured is left out."""
        rows = self.rows("machine")
        card = hashlib.sha256(json.dumps(rows[0]["value"]).encode()).hexdigest()[:8]
        results = Results(self._path, f"{self.digest}-{card}")
        for row in rows:
            results.append(**{**row, "digest": results.digest})
        return results

    def end(self, stage: str) -> Line | None:
        """Return how the last attempt at a stage ended; None without one."""
        ends = [line for line in self.lines() if line["stage"] == stage and "status" in line]
        return ends[-1] if ends else None


def last_run(path: Path) -> Results | None:
    """Return the results of the last run in a file that knew its machine; None without one."""
    lines = map(_parsed, path.read_bytes().splitlines() if path.is_file() else [])
    known = [line for line in lines if line and line["stage"] == "machine" and "key" in line]
    return Results(path, known[-1]["digest"]) if known else None


def _parsed(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "stage" in line else None
