"""The process of one stage: `python -m benchmarks.gpu_run.stage NAME --output DIR --digest D`."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.gpu_run.results import Results
from benchmarks.gpu_run.runner import SKIP_STATUS
from benchmarks.gpu_run.setting import Setting, SkippedError


def main() -> None:
    """Run a stage; the exit status tells a failure from a stage that cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_run.stage")
    parser.add_argument("name")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--digest", required=True)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    results = Results(arguments.output / "results.jsonl", arguments.digest)
    setting = Setting(arguments.name, results, arguments.output, arguments.dry_run)
    module = arguments.name.partition(":")[0]
    try:
        import_module(f"benchmarks.gpu_run.stages.{module}").run(setting)
    except SkippedError as reason:
        print(reason)
        sys.exit(SKIP_STATUS)
    errors = [row["error"] for row in results.rows(setting.stage) if "error" in row]
    if errors:
        sys.exit(f"{len(errors)} rows have errors; the first: {errors[0]}")


if __name__ == "__main__":
    main()
