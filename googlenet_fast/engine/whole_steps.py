"""Time whole steps of the candidates on the user's device, and take the fastest that is right.

A choice per op cannot see what ops cost together, nor what a compiler does with all of them. So
before a long run each candidate takes some seconds of steps of the run itself, on a copy of its
network. The answer is kept in the disk cache.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import isfinite
from typing import Any, NamedTuple

from googlenet_fast.engine.candidates import CANDIDATES, OURS, Candidate
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.trials import InaccurateError
from googlenet_fast.registry import requested
from googlenet_fast.selfcheck.accuracy import first_line
from googlenet_fast.selfcheck.disk_cache import read_record, write_record

RECORD = "whole-steps"
"""Name of the record of what was timed."""

COMPILED_RUN = 50_000
"""Steps from which on compiling pays; it takes minutes."""

Measure = Callable[[Candidate], float]
"""Returns the seconds of a candidate's step; raises `InaccurateError` or any other error."""


class Choice(NamedTuple):
    """The candidate that was taken, and why."""

    candidate: Candidate
    line: str
    """For the user: every candidate's time, or why it was left out."""
    seconds: Mapping[str, float]
    """Of a step, by candidate."""
    timed: bool
    """False if all is from the cache."""


def wanted(steps: int, always: bool) -> list[Candidate]:
    """Return the candidates that a run of so many steps compares, this package's first.

    Nothing is compared where `GOOGLENET_FAST_IMPL` requests a backend.

    Args:
        steps: of the run.
        always: compare those whose compilation takes minutes in short runs too.
    """
    if requested() != "auto":
        return [OURS]
    return [c for c in CANDIDATES.values() if always or not c.compiled or steps >= COMPILED_RUN]


def choose(
    what: str,
    question: Mapping[str, Any],
    candidates: Sequence[Candidate],
    measure: Measure,
    process: Process,
) -> Choice:
    """Return the fastest candidate that is right; the main process decides for all.

    Args:
        what: is timed, for the line: "whole steps".
        question: what the times depend on besides the device, in values that JSON has.
        candidates: in order of preference.
        measure: times one; called in the main process alone.
        process: this one; all of them call this function.
    """
    device = str(process.device)
    known = process.broadcast(_known(question, device) if process.is_main else None)
    seconds: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for candidate in candidates:
        name = candidate.name
        # One message for each, so that nobody waits for longer than one of them takes.
        found = known.get(name) or process.broadcast(
            _outcome(measure, candidate) if process.is_main else None
        )
        (reasons if isinstance(found, str) else seconds)[name] = found
    timed = bool(seconds.keys() - known.keys())
    if process.is_main and timed:
        _remember(question, {**known, **seconds}, device)
    taken = CANDIDATES[min(seconds, key=seconds.__getitem__)] if seconds else OURS
    times = [f"{name} {1000 * value:.2f} ms" for name, value in seconds.items()]
    left_out = "".join(f"; {name} left out: {reason}" for name, reason in reasons.items())
    line = f"{what}: {', '.join(times) or 'none could be timed'}: {taken.name}{left_out}"
    return Choice(taken, line, seconds, timed)


def describe_known(device: str) -> list[str]:
    """Return a line for each comparison that the cache has of a device."""
    lines = []
    for found in read_record(RECORD, device):
        with suppress(KeyError, TypeError, ValueError):
            question = json.loads(found["question"])
            seconds = _known(question, device)
            times = [f"{name} {1000 * value:.2f} ms" for name, value in seconds.items()]
            about = "{mode} batch {batch} at {image_size} px, {amp}".format(**question)
            lines.append(f"{about}: {', '.join(times)}")
    return lines


def _outcome(measure: Measure, candidate: Candidate) -> float | str:
    """Return a candidate's seconds, or why it is left out."""
    try:
        return measure(candidate)
    except InaccurateError as error:
        return f"it failed its accuracy check: {error}"
    except Exception as error:  # compilers and memory fail in their own ways
        return first_line(error)


def _known(question: Mapping[str, Any], device: str) -> dict[str, float]:
    for found in read_record(RECORD, device):
        if isinstance(found, dict) and found.get("question") == _text(question):
            seconds = found.get("seconds")
            if isinstance(seconds, dict) and all(map(_is_time, seconds.values())):
                return {name: value for name, value in seconds.items() if name in CANDIDATES}
    return {}


def _text(question: Mapping[str, Any]) -> str:
    return json.dumps(question, sort_keys=True)


def _is_time(value: object) -> bool:
    return isinstance(value, float) and isfinite(value) and value > 0


def _remember(question: Mapping[str, Any], seconds: Mapping[str, float], device: str) -> None:
    text = _text(question)
    others = [
        found
        for found in read_record(RECORD, device)
        if isinstance(found, dict) and found.get("question") != text
    ]
    write_record(RECORD, device, [*others, {"question": text, "seconds": dict(seconds)}])
