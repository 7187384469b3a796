"""Measure this package on a GPU within a few minutes, and report: `python -m benchmarks.gpu_run`.

    python -m benchmarks.gpu_run --minutes 9 --output gpu-run

Results are lines in gpu-run/results.jsonl, each on disk at once. The report is gpu-run/entry.md,
and the next entry of docs/gpu-runs.md. The same command again runs what has no result yet.
"""

import argparse
import time
from pathlib import Path

from benchmarks.gpu_run.entry import PAGE, insert, make_entry
from benchmarks.gpu_run.plan import MACHINE, MINUTES, stages
from benchmarks.gpu_run.results import OK, Results
from benchmarks.gpu_run.runner import Stage, python_stage, run_stages
from benchmarks.gpu_run.tree import digest, environment, link_kernels
from googlenet_fast.errors import GoogLeNetError, run_command
from googlenet_fast.files import write_atomically


def main() -> None:
    """Run the stages and write the report, whatever became of them."""
    started = time.monotonic()
    arguments = _parser().parse_args()
    if not 0 < arguments.minutes < float("inf"):
        raise GoogLeNetError(f"--minutes {arguments.minutes}: must be more than 0")
    output = arguments.output.absolute()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GoogLeNetError(f"--output {output}: {error.strerror}") from None
    link_kernels()
    carried = arguments.carried and arguments.carried.absolute()
    variables = environment(output, carried, arguments.dry_run)
    results = Results(output / "results.jsonl", digest(arguments.dry_run))

    def run(selected: list[Stage]) -> None:
        flags = ["--output", str(output), "--digest", results.digest]
        flags += ["--dry-run"] * arguments.dry_run
        run_stages(
            selected,
            results,
            output,
            deadline=started + 60 * arguments.minutes,
            scale=arguments.minutes / MINUTES,
            command=lambda stage: python_stage(stage.name, *flags),
            environment=variables,
        )

    results.append(MACHINE.name, status="again")  # the card may be another one
    run([MACHINE])
    machine = results.end(MACHINE.name)
    if machine is None or machine["status"] != OK:
        raise GoogLeNetError(f"{machine and machine['reason']} ({output / 'logs' / 'machine.log'})")
    results = results.of_card()
    try:
        run(stages(arguments.update, arguments.dry_run))
    finally:
        _report(results, output, arguments.dry_run)


def _report(results: Results, output: Path, dry_run: bool) -> None:
    entry = make_entry(results, output.name)
    write_atomically(output / "entry.md", entry.encode())
    if not dry_run:
        write_atomically(PAGE, insert(PAGE.read_text(), entry).encode())
    print(entry)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_run",
        description="Measure this package on a GPU, within a time limit, and report.",
    )
    add = parser.add_argument
    add("--minutes", type=float, default=MINUTES, help="the whole run takes no longer (default 9)")
    add("--output", type=Path, required=True, help="folder of results, caches, logs and the report")
    add("--update", action="store_true", help="also measure the package's speed table anew")
    add("--carried", type=Path, help="a folder that benchmarks.gpu_run.carry made elsewhere")
    add("--dry-run", action="store_true", help="rehearse on the CPU, with tiny sizes")
    return parser


if __name__ == "__main__":
    run_command(main)
