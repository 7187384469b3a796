"""How benchmarks time and what `pytest benchmarks/` prints of it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks import harness
from benchmarks.harness import OtherProcesses, interleave
from tests.helpers import run_python

BENCHMARK = """
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from benchmarks.harness import interleave, remarks


@pytest.mark.parametrize("batch", [1, 16])
def bench_sleep(batch):
    runs = {"slow": partial(time.sleep, 0.004), "fast": partial(time.sleep, 0.002)}
    interleave(f"a nap of {batch}", runs, repeats=3, errors={"fast": 1e-6})
    remarks.append("said beside")


@pytest.mark.skip(reason="no bed")
def bench_skipped():
    pass
"""


@pytest.fixture
def _no_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "measurements", [])


@pytest.mark.usefixtures("_no_measurements")
def test_providers_alternate_and_ratios_use_medians() -> None:
    turns = []
    seconds = {"slow": 0.004, "fast": 0.002}

    def clock(work: Callable[[], object]) -> float:
        return seconds[str(work())]

    def work(name: str) -> str:
        turns.append(name)
        return name

    providers = {"slow": lambda: work("slow"), "fast": lambda: work("fast")}
    measured = interleave("a case", providers, repeats=3, errors={"fast": 1e-6}, clock=clock)
    assert turns == ["slow", "fast"] * 4
    assert measured["fast"].ratio == pytest.approx(2)
    assert (measured["slow"].p50, measured["fast"].p50) == (4, 2)
    assert harness.measurements == list(measured.values())
    assert [m.error for m in harness.measurements] == [None, 1e-6]


class Clock:
    """Time and the machine's work, as a test sets them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.busy = 0.0, 0.0
        monkeypatch.setattr(harness.time, "monotonic", lambda: self.now)
        real = psutil.cpu_times()
        zero = real._replace(**dict.fromkeys(real._fields, 0.0))
        monkeypatch.setattr(psutil, "cpu_times", lambda: zero._replace(user=self.busy, idle=7.0))


def test_other_processes_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    others = OtherProcesses()
    clock.now, clock.busy = 10.0, 5.0
    assert others.busy_cores() == pytest.approx(0.5, abs=0.05)


def test_work_of_children_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    others = OtherProcesses()
    run_python("-c", "import time\nwhile time.process_time() < 0.7: pass")
    clock.now, clock.busy = 10.0, 5.0
    assert others.busy_cores() <= 0.45


def test_what_pytest_shows(tmp_path: Path) -> None:
    file = tmp_path / "bench_sleep.py"
    file.write_text(BENCHMARK)
    output = tmp_path / "out.jsonl"
    options = ["-c", "pyproject.toml", "-p", "benchmarks.conftest", f"--bench-output={output}"]
    child = run_python("-m", "pytest", *options, file, cwd=Path(__file__).parents[2])
    assert child.returncode == 0, child.stdout + child.stderr
    for expected in (
        r"machine: device .*, load ",
        r"\[2/3\] bench_sleep\[16\]: slow \S+ ms, fast \S+ ms\n",
        r"(?m)^work +provider +median ms +ratio +error +rate$",
        r"(?m)^a nap of 16 +slow +[\d.]+\*? +1.00 *\n +fast +[\d.]+\*? +[\d.]+ +1e-06$",
        r"(?m)^said beside$",
        r"SKIPPED .*no bed",
    ):
        assert re.search(expected, child.stdout), (expected, child.stdout)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(r["benchmark"], r["provider"]) for r in records[:2]] == [
        *(("a nap of 1", "slow"), ("a nap of 1", "fast"))
    ]
    assert {"device", "load", "disturbance", "p50"} <= records[0].keys()


def test_quick_keeps_the_kernels() -> None:
    child = run_python(
        *("-m", "pytest", "benchmarks", "--quick", "--collect-only", "-q"),
        cwd=Path(__file__).parents[2],
    )
    files = {line.partition("::")[0] for line in child.stdout.splitlines() if "::" in line}
    assert "benchmarks/bench_inception.py" in files
    assert not files & {"benchmarks/bench_data.py", "benchmarks/bench_overhead.py"}
