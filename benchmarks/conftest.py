"""What `pytest benchmarks/` prints: the machine, progress, and a table at the end."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from tabulate import tabulate

from benchmarks import harness
from benchmarks.harness import DISTURBED, Measurement
from benchmarks.machine import machine
from googlenet_fast import ops

_shown = pytest.StashKey[int]()
"""How many measurements were shown as progress."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the benchmarks' own options."""
    group = parser.getgroup("benchmarks")
    group.addoption(
        "--quick",
        action="store_true",
        help="only the kernels, without torch.compile: about a minute on two cores",
    )
    group.addoption(
        "--bench-output",
        type=Path,
        default=Path("benchmarks.jsonl"),
        metavar="FILE",
        help="append each measurement to this file, a JSON object a line (default: %(default)s)",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let benchmarks see whether they are to be quick; print their lines in place of files."""
    config.pluginmanager.getplugin("terminalreporter").showfspath = False
    harness.quick = config.getoption("--quick")
    config.stash[_shown] = 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the kernels' benchmarks if asked to be quick."""
    if harness.quick:
        names = {"raw_kernels", *ops.__all__}
        kernels = [i for i in items if i.path.stem.removeprefix("bench_") in names]
        config.hook.pytest_deselected(items=[i for i in items if i not in kernels])
        items[:] = kernels


def pytest_report_header() -> str:
    """Name the machine and its load."""
    return "machine: " + ", ".join(f"{key} {value}" for key, value in machine().items())


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(
    report: pytest.CollectReport | pytest.TestReport,
) -> tuple[str, str, str] | None:
    """Print no dot for a benchmark that ran: it has a line of its own."""
    return ("passed", "", "") if report.when == "call" and report.passed else None


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Print and record what a benchmark measured, when it has."""
    config = item.config
    new = harness.measurements[config.stash[_shown] :]
    config.stash[_shown] += len(new)
    done = item.session.items.index(item) + 1
    reporter = config.pluginmanager.getplugin("terminalreporter")
    figures = ", ".join(f"{m.provider} {m.p50:.3g} ms" for m in new)
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        reporter.write_line(f"[{done}/{len(item.session.items)}] {item.name}: {figures or '-'}")
    _record(config.getoption("--bench-output"), new)


def _record(file: Path, found: Sequence[Measurement]) -> None:
    if found:
        environment = machine()
        with file.open("a") as output:
            output.writelines(json.dumps({**asdict(m), **environment}) + "\n" for m in found)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print all figures."""
    if not harness.measurements:
        return
    terminalreporter.section("figures")
    terminalreporter.write_line(table(harness.measurements))
    for remark in harness.remarks:
        terminalreporter.write_line(remark)
    if any(m.disturbed for m in harness.measurements):
        terminalreporter.write_line(
            f"* other processes kept more than {DISTURBED:g} cores busy meanwhile"
        )
    terminalreporter.write_line(f"appended to {config.getoption('--bench-output')}")


def table(found: Sequence[Measurement]) -> str:
    """Return a row for each measurement; the ratio is of the first provider's time to its own."""
    rows = []
    for i, m in enumerate(found):
        first = i == 0 or found[i - 1].benchmark != m.benchmark
        median = f"{m.p50:.4g}{'*' if m.disturbed else ' '}"
        error = "" if m.error is None else f"{m.error:.0e}"
        work = m.benchmark if first else ""
        rows.append([work, m.provider, median, f"{m.ratio:.2f}", error, m.rate])
    headers = ["work", "provider", "median ms", "ratio", "error", "rate"]
    align = ("left", "left", "right", "right", "right", "left")
    return tabulate(rows, headers, colalign=align, disable_numparse=True)
