"""The folder of a training run: its lock, checkpoints and metrics."""

import json
import logging
import os
import shlex
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from googlenet_fast.engine.checkpoint import load_checkpoint, save_checkpoint
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.files import remove_unfinished, write_atomically

try:
    import fcntl
except ImportError:  # Windows has no fcntl; there two runs in one folder go unnoticed
    fcntl = None  # type: ignore[assignment]


_log = logging.getLogger("googlenet_fast")


class RunFolder:
    """The output of one run: config.yaml, metrics.jsonl, curves.png and the checkpoints last.pt,
    previous.pt, best.pt and epoch_N.pt.

    Args:
        path: the folder; None creates one in runs/, named by the time.
        resuming: continue the run in the folder, if there is one.

    A run of the same torchrun is always continued, and is found without a path: torchrun starts the
    same command again after a worker failed or the number of nodes changed.

    Raises:
        GoogLeNetError: the folder cannot be written to, holds a run and `resuming` is false, or
            another process is training in it.
    """

    def __init__(self, path: Path | None, *, resuming: bool) -> None:
        self._launcher = _launcher()
        try:
            self.path = path or self._folder_of_launcher() or _new_folder()
            self.path.mkdir(parents=True, exist_ok=True)
            self.last, self.previous = self.path / "last.pt", self.path / "previous.pt"
            """The newest checkpoint, and the one before."""
            self.best = self.path / "best.pt"
            """The checkpoint with the highest validation top-1."""
            self.metrics = self.path / "metrics.jsonl"
            """One JSON object per line: training and validation metrics."""
            self._started_by = self.path / ".begun_by"
            self._lock = self._take_lock()
            self.restarted = self._launcher is not None and self._launcher == _read(
                self._started_by
            )
            for unfinished in remove_unfinished(self.path):
                _log.warning("%s was not written completely: removed", unfinished)
        except OSError as error:
            raise GoogLeNetError(
                f"--output {path or 'runs'}: cannot be written to ({error.strerror}); "
                "choose another folder with --output"
            ) from None
        if self._holds_a_run and not resuming and not self.restarted:
            self.close()
            raise GoogLeNetError(
                f"--output {self.path} holds a run already; continue it with --resume auto "
                "or choose another folder"
            )

    def _take_lock(self) -> IO[str]:
        lock = (self.path / ".lock").open("w")
        if fcntl is not None:
            try:
                # Unlike flock's, forked workers, which may outlive this process, don't share it.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # depends on the system
                lock.close()
                raise GoogLeNetError(
                    f"--output {self.path}: another run is training here; "
                    "wait for it or choose another folder"
                ) from None
        return lock

    def _folder_of_launcher(self) -> Path | None:
        """Return the folder in runs/ of the run that this process's torchrun started."""
        for file in Path("runs").glob("*/.begun_by"):
            if self._launcher is not None and _read(file) == self._launcher:
                return file.parent
        return None

    @property
    def _holds_a_run(self) -> bool:
        return any(path.exists() for path in (self.last, self.previous, *self._others()))

    def _others(self) -> list[Path]:
        """Return the best checkpoint and those of epochs, newest first.

        They are written before last.pt, so a full disk may leave the first of them alone.
        """
        found = [self.best, *self.path.glob("epoch_*.pt")]
        return sorted(
            (path for path in found if path.exists()), key=lambda p: p.stat().st_mtime, reverse=True
        )

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def epoch(self, number: int) -> Path:
        """Return the path of the checkpoint that is kept for an epoch, counted from 1."""
        return self.path / f"epoch_{number}.pt"

    def begin(self, config: str) -> None:
        """Store the resolved configuration, as YAML, and the torchrun that started the run."""
        write_atomically(self.path / "config.yaml", config.encode())
        if self._launcher is not None:
            write_atomically(self._started_by, self._launcher.encode())

    def save_checkpoint(
        self, state: dict[str, Any], *, best: bool, of_epoch: int | None = None
    ) -> None:
        """Save `state` as the newest checkpoint, as the best if `best`, and as epoch `of_epoch`."""
        copies = [self.best] if best else []
        if of_epoch is not None:
            copies.append(self.epoch(of_epoch))
        save_checkpoint(self.last, state, keep_as=self.previous, copies=copies)

    def adopt_best(self, best: Path, top1: float) -> bool:
        """Copy a best checkpoint of this top-1 into the folder, unless it has one already.

        Returns:
            Whether the folder has a best checkpoint now.
        """
        if self.best.exists():
            return True
        try:
            if load_checkpoint(best)["best_top1"] != top1:
                return False
        except GoogLeNetError:
            return False
        write_atomically(self.best, best.read_bytes())
        return True

    def load_newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest readable checkpoint and its path; None if there are no checkpoints.

        It is last.pt, else previous.pt, else the best one or one that is kept for an epoch.

        Raises:
            GoogLeNetError: there are checkpoints, but none can be read.
        """
        if not self._holds_a_run:
            return None
        for path in (self.last, self.previous, *self._others()):
            try:
                return path, load_checkpoint(path)
            except GoogLeNetError as error:
                _log.warning("%s", error)
        raise GoogLeNetError(
            f"{self.path}: none of its checkpoints can be read; choose another folder with --output"
        )

    def resume_command(self) -> str:
        """Return the command that continues this run."""
        config = shlex.quote(str(self.path / "config.yaml"))
        return f"python -m googlenet_fast.train -c {config} --resume auto"

    def drop_metrics_after(self, step: int) -> None:
        """Drop the metrics that a run resumed at `step` will log again."""
        if self.metrics.exists():
            kept = [line for line in read_metrics(self.metrics) if line["step"] <= step]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            write_atomically(self.metrics, text.encode())


def best_of(weights: Path) -> Path:
    """Return the best checkpoint of a run for its folder; other paths are returned unchanged.

    Raises:
        GoogLeNetError: a folder without a best checkpoint.
    """
    if not weights.is_dir():
        return weights
    best = weights / "best.pt"
    if best.is_file():
        return best
    if (weights / "last.pt").is_file():
        raise GoogLeNetError(f"{weights}: the run has no best.pt yet; name {weights / 'last.pt'}")
    raise GoogLeNetError(
        f"{weights}: is not the folder of a run (no best.pt); name a file of weights"
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl, without those that a crash or full disk cut short."""
    lines = []
    for line in path.read_text().splitlines():
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
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
    raise GoogLeNetError(f"cannot find a free folder name in runs/ for {stamp}; give --output")


def _launcher() -> str | None:
    """Return an identifier of this process's torchrun; None without torchrun."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if run is None else f"{run} {socket.gethostname()} {os.getppid()}"


def _read(file: Path) -> str | None:
    return file.read_text() if file.exists() else None
