"""Log a run while it trains: lines or a progress bar, metrics.jsonl, TensorBoard if it is there."""

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from googlenet_fast.engine.run_folder import RunFolder
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.extras import missing

if TYPE_CHECKING:
    from googlenet_fast.engine.event_file import EventFile

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class MetricsLogger:
    """Logs a run of `total_steps` steps in its main process.

    On a terminal a progress bar shows the last line. Elsewhere each line is printed.
    """

    def __init__(self, folder: RunFolder, total_steps: int, start_step: int) -> None:
        try:
            # Without a buffer nothing is left to write, and to fail again, in `close`.
            self._metrics = folder.metrics.open("ab", buffering=0)
            self._tensorboard = _event_file(folder, start_step)
        except OSError as error:
            raise GoogLeNetError(
                f"cannot write to {folder.path}: {error.strerror or error}"
            ) from None
        self._folder = folder.path
        self._total_steps, self._start_step = total_steps, start_step
        self._bar: tqdm[Any] | None = None

    def log(self, line: str) -> None:
        """Print a line above the progress bar."""
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.write(line)

    def record(self, kind: str, step: int, values: dict[str, float], line: str) -> None:
        """Record values of one kind ("train" or "val") at a step."""
        record = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        try:
            self._metrics.write(f"{json.dumps(record)}\n".encode())
            if self._tensorboard is not None:
                self._tensorboard.add(kind, step, values)
        except OSError as error:
            raise GoogLeNetError(
                f"cannot write to {self._folder}: {error.strerror or error}; free space and "
                "continue with --resume auto"
            ) from None
        if kind == "train" and sys.stderr.isatty():
            self._advance(step, line)
        else:
            self.log(line)

    def _advance(self, step: int, line: str) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=self._total_steps,
                initial=self._start_step,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar:16}| {desc}",
            )
        self._bar.set_description_str(line, refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Flush and close everything."""
        if self._bar is not None:
            self._bar.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._metrics.close()


def _event_file(folder: RunFolder, start_step: int) -> "EventFile | None":
    """Open TensorBoard's file; return None if TensorBoard is not installed."""
    if missing(["tensorboard"]):
        return None
    from googlenet_fast.engine.event_file import EventFile

    return EventFile(folder.path, start_step)


def format_time(seconds: float) -> str:
    """Return seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def memory_used(device: torch.device) -> float | None:
    """Return the peak memory of this process in GiB, GPU or resident; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
