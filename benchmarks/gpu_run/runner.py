"""Run stages one after the other, each in a process of its own, within one time limit.

Nothing that a stage does can make the run longer: its process group is killed at its limit, and the
runner waits for nothing without one.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu_run.results import FAILED, OK, OUT_OF_TIME, SKIPPED, Results
from benchmarks.gpu_run.tree import ROOT

SKIP_STATUS = 3
"""Exit status of a stage that cannot run here; the last line that it prints says why."""

TO_CLOSE = 5.0
"""Seconds at the end of a run that no stage gets: to end the last one and write the entry."""

LEAST = 5.0
"""Seconds that a stage needs to be started at all."""

GRACE = 2.0
"""Seconds that a killed process gets to disappear. The runner does not wait for longer."""


class Stage(NamedTuple):
    """A part of the run."""

    name: str
    """Of its module in benchmarks/gpu_run/stages, and after a ":" what that gets as variant."""
    title: str
    seconds: float
    """Its limit in a run of nine minutes; longer and shorter runs scale it."""

    @property
    def module(self) -> str:
        """Name of its module."""
        return self.name.partition(":")[0]


Command = Callable[[Stage], Sequence[str]]
"""Returns the command that runs a stage."""


def run_stages(
    stages: Iterable[Stage],
    results: Results,
    output: Path,
    deadline: float,
    scale: float,
    command: Command,
    environment: Mapping[str, str],
) -> None:
    """Run what has no result yet, until the deadline.

    Args:
        stages: most important first.
        results: where each attempt's end is recorded; the stages record their rows there.
        output: folder of the logs, one a stage.
        deadline: on `time.monotonic`'s clock.
        scale: of the stages' limits.
        command: returns the command that runs a stage.
        environment: of the stages.
    """
    logs = output / "logs"
    logs.mkdir(exist_ok=True)
    for stage in stages:
        ended = results.end(stage.name)
        if ended is not None and ended["status"] == OK:
            _say(stage, "has a result from before")
            continue
        left = deadline - TO_CLOSE - time.monotonic()
        if left < LEAST:
            _say(stage, "no time left")
            results.append(stage.name, status=OUT_OF_TIME, reason="not started", seconds=0.0)
            continue
        limit = min(stage.seconds * scale, left)
        _say(stage, f"at most {limit:.0f} s")
        started = time.monotonic()
        log = logs / f"{stage.name.replace(':', '-')}.log"
        status, reason = run_limited(command(stage), log, limit, environment)
        seconds = round(time.monotonic() - started, 1)
        results.append(stage.name, status=status, reason=reason, seconds=seconds)
        _say(stage, f"{status} after {seconds:.0f} s" + (f": {reason}" if reason else ""))


def run_limited(
    command: Sequence[str], log: Path, limit: float, environment: Mapping[str, str]
) -> tuple[str, str | None]:
    """Run a command for at most `limit` seconds; return its status and why it is not `OK`."""
    with log.open("wb") as file:
        # Its own session: the whole group can be ended, and no Ctrl-C reaches it but through here.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=dict(environment),
            start_new_session=True,
        )
    try:
        code = child.wait(limit)
    except subprocess.TimeoutExpired:
        return OUT_OF_TIME, f"ended after {limit:.0f} s"
    finally:
        _end(child)
    if code == 0:
        return OK, None
    return (SKIPPED if code == SKIP_STATUS else FAILED), _last_line(log) or f"exit status {code}"


def python_stage(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a stage of this package."""
    return [sys.executable, "-m", "benchmarks.gpu_run.stage", name, *arguments]


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it left running."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # in the driver it cannot be ended: leave it
        child.wait(GRACE)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _say(stage: Stage, what: str) -> None:
    print(f"{stage.title}: {what}", flush=True)
