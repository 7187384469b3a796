"""What a stage gets: where it runs, and where it records its rows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_run.results import Results


class SkippedError(Exception):
    """The stage cannot run here; the message says why."""


@dataclass(frozen=True)
class Setting:
    """What a stage runs on, and where it records its rows."""

    stage: str
    """Its name, with the variant."""
    results: Results
    output: Path
    """Folder of the run."""
    dry_run: bool
    """Rehearse on the CPU, with Triton's kernels interpreted and the least work that shows that
    everything runs."""

    @property
    def variant(self) -> list[str]:
        """What follows the stage's name, split at colons."""
        return self.stage.split(":")[1:]

    @property
    def device(self) -> str:
        """Type of the device."""
        return "cpu" if self.dry_run else "cuda"

    @property
    def batches(self) -> tuple[int, ...]:
        """Images per step."""
        return (1,) if self.dry_run else (64, 256)

    def has(self, *key: object) -> bool:
        """Return True if an earlier attempt recorded a row."""
        return self.results.has(self.stage, key)

    def row(self, *key: object, **values: Any) -> None:
        """Record a row, on disk at once, and print it."""
        print(*key, values, flush=True)
        self.results.append(self.stage, key=key, **values)

    def attempt(self, *key: object, measure: Callable[[], dict[str, Any]]) -> None:
        """Record what `measure` returns, or its error; what was recorded before stays."""
        if self.has(*key):
            return
        try:
            values = measure()
        except SkippedError:
            raise
        except Exception as error:  # of a compiler, a library, a driver: the other rows go on
            values = {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        self.row(*key, **values)
