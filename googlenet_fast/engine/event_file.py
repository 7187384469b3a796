"""TensorBoard's file of a run."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """Writes scalars in the calling thread, where a full disk is an error of the caller.

    `SummaryWriter` writes in a thread of its own, which prints a traceback.

    Args:
        folder: where the file is made.
        last_step: TensorBoard forgets the points of older files of the folder after this step.
    """

    def __init__(self, folder: Path, last_step: int) -> None:
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.0"
        # Without a buffer nothing is left to write, and to fail again, when the file is closed.
        self._file = (folder / name).open("ab", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=last_step + 1, session_log=start))

    def add(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Write values of one kind at a step; may raise OSError."""
        points = [Summary.Value(tag=f"{kind}/{k}", simple_value=v) for k, v in values.items()]
        self._write(Event(step=step, summary=Summary(value=points)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
