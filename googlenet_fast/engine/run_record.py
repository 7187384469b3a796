"""Read the readable files of a run folder."""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from googlenet_fast.engine.curves import Metrics, series
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.run_folder import read_metrics
from googlenet_fast.environment import devices, versions
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.files import write_atomically
from googlenet_fast.plain_yaml import read_yaml

ENVIRONMENT = "environment.json"


@dataclass
class RunRecord:
    """A run. Missing parts are empty, with the reason in `missing`."""

    path: Path
    metrics: Metrics = ()
    """Lines of metrics.jsonl."""
    config: dict[str, str] = field(default_factory=dict)
    """Dotted keys of config.yaml -> values."""
    environment: dict[str, str] = field(default_factory=dict)
    """Devices and versions at the last start of the run."""
    missing: dict[str, str] = field(default_factory=dict)
    """"metrics", "config" or "environment" -> why it is missing."""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.resolve().name

    def summary(self) -> dict[str, str]:
        """Return the known numbers by which runs are compared."""
        val = {key: series(self.metrics, "val", key) for key in ("top1", "top5", "loss")}
        rows = {}
        if val["top1"]:
            epoch, best = max(val["top1"], key=lambda point: point[1])
            rows["best top-1"] = f"{best:.2f} % (epoch {epoch:.0f})"
        for title, key, unit in (
            ("top-1", "top1", " %"),
            ("top-5", "top5", " %"),
            ("loss", "loss", ""),
        ):
            if val[key]:
                rows[f"last {title}"] = f"{val[key][-1][1]:.{4 if key == 'loss' else 2}f}{unit}"
        if train := series(self.metrics, "train", "loss"):
            rows["epochs"] = f"{train[-1][0]:.2f} of {self.config.get('epochs', '?')}"
        if speeds := series(self.metrics, "train", "images_per_second"):
            rows["median images/s"] = f"{statistics.median(y for _, y in speeds):,.1f}"
        if shares := series(self.metrics, "train", "data_share"):
            rows["median share of time waiting for images"] = (
                f"{statistics.median(y for _, y in shares):.1%}"
            )
        if memory := series(self.metrics, "train", "memory_gib"):
            rows["peak memory"] = f"{max(y for _, y in memory):.1f} GiB"
        return rows


def read_run(path: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        GoogLeNetError: not a run folder.
    """
    run = RunRecord(path)
    if not path.is_dir():
        raise GoogLeNetError(f"{path}: no such run folder")
    for part, file, read in (
        ("metrics", "metrics.jsonl", _read_metrics),
        ("config", "config.yaml", _read_config),
        ("environment", ENVIRONMENT, _read_environment),
    ):
        try:
            setattr(run, part, read(path / file))
        except FileNotFoundError:
            run.missing[part] = f"there is no {file}"
        except (OSError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            run.missing[part] = f"{file} cannot be read ({reason})"
    if "metrics" in run.missing and "config" in run.missing:
        raise GoogLeNetError(
            f"{path}: is not the folder of a run (no metrics.jsonl, no config.yaml)"
        )
    return run


def write_environment(folder: Path, process: Process) -> None:
    """Store the devices and versions of a run in its folder, for `read_run`."""
    processes = f"{process.world_size}, each on {process.device.type}"
    values = {"processes": processes, **devices(), **versions()}
    write_atomically(folder / ENVIRONMENT, json.dumps(values, indent=2).encode())


def _read_metrics(file: Path) -> Metrics:
    metrics = [line for line in read_metrics(file) if isinstance(line, dict)]
    if not metrics:
        raise ValueError("nothing was logged")
    return metrics


def _read_config(file: Path) -> dict[str, str]:
    values = read_yaml(file.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("not a configuration")
    return flattened(values)


def _read_environment(file: Path) -> dict[str, str]:
    values = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    return flattened(values)


def flattened(values: dict[Any, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as text under dotted keys, without those that are None."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def differences(runs: list[RunRecord]) -> dict[str, list[str]]:
    """Return the settings that differ between runs: key -> value of each run, "" if not set."""
    keys = dict.fromkeys(key for run in runs for key in run.config if key != "output")
    rows = {key: [run.config.get(key, "") for run in runs] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}
