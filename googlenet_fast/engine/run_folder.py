"""The folder of a training run: its lock, checkpoints and metrics."""

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from googlenet_fast.engine.checkpoint import write_atomically
from googlenet_fast.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock; there two runs in one folder go unnoticed
    fcntl = None  # type: ignore[assignment]


class RunFolder:
    """Where one run writes: config.yaml, metrics.jsonl, last.pt, best.pt, curves.png.

    Args:
        path: the folder; None makes a new one below runs/, named by the time.
        resuming: whether a run that the folder holds is to be continued.

    Raises:
        UserError: the folder cannot be written to, holds a run that is not to be continued, or
            another process is training in it.
    """

    def __init__(self, path: Path | None, *, resuming: bool) -> None:
        try:
            self.path = _new_folder() if path is None else path
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
        except OSError as error:
            raise UserError(
                f"--output {path or 'runs'}: cannot be written to ({error.strerror}); "
                "choose another folder with --output"
            ) from None
        if self.last.exists() and not resuming:
            raise UserError(
                f"--output {self.path} holds a run already; continue it with --resume auto "
                "or choose another folder"
            )

    def _take_lock(self) -> IO[str]:
        lock = (self.path / ".lock").open("w")
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"--output {self.path}: another run is training here; "
                    "wait for it or choose another folder"
                ) from None
        return lock

    def close(self) -> None:
        """Give up the lock."""
        self._lock.close()

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the highest validation top-1."""
        return self.path / "best.pt"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: what was logged and evaluated."""
        return self.path / "metrics.jsonl"

    def save_config(self, text: str) -> None:
        """Store the resolved configuration."""
        write_atomically(self.path / "config.yaml", text.encode())

    def save_bad_images(self, lines: Sequence[str]) -> None:
        """Store which images are left out and why."""
        text = "".join(f"{line}\n" for line in lines)
        write_atomically(self.path / "bad_images.txt", text.encode(errors="surrogateescape"))

    def resume_command(self) -> str:
        """What to type to continue this run."""
        config = shlex.quote(str(self.path / "config.yaml"))
        return f"python -m googlenet_fast.train -c {config} --resume auto"

    def forget_metrics_after(self, step: int) -> None:
        """Drop metrics that a run resumed at `step` will log again."""
        if self.metrics.exists():
            kept = [line for line in read_metrics(self.metrics) if line["step"] <= step]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            write_atomically(self.metrics, text.encode())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a crash is left out."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _new_folder() -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for attempt in range(100):
        path = Path("runs") / (stamp if attempt == 0 else f"{stamp}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise UserError(f"cannot find a free folder name below runs/ for {stamp}; give --output")
