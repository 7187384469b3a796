"""The run on a GPU: its schedule and limits, what it records, its report, and a rehearsal."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_run import __main__ as command
from benchmarks.gpu_run import carry, entry, runner, tree
from benchmarks.gpu_run.plan import MACHINE, STAGES, stages
from benchmarks.gpu_run.results import FAILED, OK, OUT_OF_TIME, SKIPPED, Results
from benchmarks.gpu_run.runner import Stage, run_limited, run_stages
from benchmarks.gpu_run.setting import Setting
from googlenet_fast.errors import GoogLeNetError

HANGS = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(100)
"""


def of_stages(programs: dict[str, str]) -> Callable[[Stage], list[str]]:
    return lambda stage: [sys.executable, "-c", programs[stage.name]]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results.jsonl", "digest")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TO_CLOSE", 0.0)
    monkeypatch.setattr(runner, "LEAST", 0.2)


def run(
    programs: dict[str, str], results: Results, folder: Path, seconds: float, limit: float
) -> dict[str, str]:
    """Run a stage for each program and return how each ended."""
    planned = [Stage(name, name, limit) for name in programs]
    deadline = time.monotonic() + seconds
    run_stages(planned, results, folder, deadline, 1, of_stages(programs), os.environ)
    ends = {name: results.end(name) for name in programs}
    return {name: end["status"] for name, end in ends.items() if end is not None}


@pytest.mark.usefixtures("at_once")
def test_a_stage_that_hangs_is_killed_and_the_rest_goes_on(
    results: Results, tmp_path: Path
) -> None:
    programs = {"hangs": HANGS, "fails": "raise SystemExit('a reason')", "works": ""}
    started = time.monotonic()
    assert run(programs, results, tmp_path, 60, 0.5) == {
        "hangs": OUT_OF_TIME,
        "fails": FAILED,
        "works": OK,
    }
    assert time.monotonic() - started < 10
    assert (results.end("fails") or {})["reason"] == "a reason"


@pytest.mark.usefixtures("at_once")
def test_the_run_ends_at_its_deadline(results: Results, tmp_path: Path) -> None:
    started = time.monotonic()
    found = run(dict.fromkeys("abc", HANGS), results, tmp_path, 1.0, 0.7)
    assert time.monotonic() - started < 1.0 + runner.GRACE
    assert set(found.values()) == {OUT_OF_TIME}
    assert (results.end("c") or {})["reason"] == "not started"


def test_what_a_stage_leaves_running_ends_with_it(tmp_path: Path) -> None:
    late = tmp_path / "late"
    program = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.7); open({str(late)!r}, 'w')"])
"""
    program = program.replace("open('", "open(r'")
    found = run_limited([sys.executable, "-c", program], tmp_path / "log", 30, os.environ)
    assert found == (OK, None)
    time.sleep(1)
    assert not late.exists()


def test_a_stage_that_cannot_run_here_says_why(tmp_path: Path) -> None:
    program = f"print('no sanitizer'); raise SystemExit({runner.SKIP_STATUS})"
    found = run_limited([sys.executable, "-c", program], tmp_path / "log", 30, os.environ)
    assert found == (SKIPPED, "no sanitizer")


@pytest.mark.usefixtures("at_once")
def test_a_second_run_repeats_what_did_not_succeed(results: Results, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    note = f"open({str(ran)!r}, 'a').write"
    programs = {"works": f"{note}('w')", "fails": f"{note}('f'); raise SystemExit(1)"}
    for expected in ("wf", "wff"):
        run(programs, results, tmp_path, 60, 30)
        assert ran.read_text() == expected
    run(programs, Results(tmp_path / "results.jsonl", "other"), tmp_path, 60, 30)
    assert ran.read_text() == "wffwf"


def test_a_line_that_was_cut_off_is_ignored(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results.append("a", key=["row"], value=1)
    path.write_bytes(path.read_bytes() + b'{"stage": "a", "key": ["ot')
    results.append("a", status=OK)
    assert [line.get("status") for line in results.lines()] == [None, OK]


def test_rows_of_a_later_attempt_win(results: Results) -> None:
    results.append("a", key=["one"], error="out of memory")
    assert not results.has("a", ["one"])
    results.append("a", key=["two"], value=2)
    results.append("a", key=["one"], value=1)
    assert [row["value"] for row in results.rows("a")] == [1, 2]
    assert results.has("a", ["one"])


def test_another_card_has_results_of_its_own(results: Results) -> None:
    found = []
    for card in ("one", "two", "one"):
        results.append("machine", key=["gpu"], value=card)
        found.append(results.of_card())
        assert [row["value"] for row in found[-1].rows("machine")] == [card]
    found[0].append("constants", status=OK)
    assert [of.end("constants") is None for of in found] == [False, True, False]


def test_an_error_of_one_row_leaves_the_others(results: Results, tmp_path: Path) -> None:
    setting = Setting("a", results, tmp_path, dry_run=True)
    setting.attempt("wrong", measure=lambda: {"value": 1 / 0})
    setting.attempt("right", measure=lambda: {"value": 1})
    setting.attempt("right", measure=lambda: {"value": 2})  # has a result
    wrong, right = results.rows("a")
    assert wrong["error"] == "ZeroDivisionError: division by zero"
    assert right["value"] == 1


def recorded(results: Results) -> Results:
    """A run that ended early."""
    results.append("machine", key=["gpu"], value="A card")
    results.append("machine", key=["about"], torch="2.11")
    results.append("machine", status=OK, reason=None, seconds=1)
    results.append("constants", key=["memory"], tb_per_second=4.3)
    results.append("constants", status=OK, reason=None, seconds=1)
    key = ["inception", "triton", "float16"]
    results.append("correctness", key=key, failure="relative error 1")
    results.append("networks:captured", key=["training", 64, "PyTorch"], images_per_second=5447.0)
    results.append("networks:captured", key=["training", 64, "this package"], error="a | b")
    kernels = [{"name": "conv", "launches": 2.0, "microseconds": 30.0}]
    results.append(
        "kernel_times",
        key=["training", 64, "PyTorch"],
        launches=2.0,
        microseconds=30.0,
        kernels=kernels,
    )
    providers = {"triton": {"milliseconds": 0.1, "ratio": 2.0, "error": 0.0}}
    key = ["training", "max_pool", "3a"]
    results.append("layers", key=key, shape="192x28x28", providers=providers)
    results.append("sanitizer", status=SKIPPED, reason="no program", seconds=1)
    return results


def test_the_entry_of_a_run_that_ended_early(results: Results) -> None:
    text = entry.make_entry(recorded(results), "run")
    for part in (
        ", A card\n",
        "torch 2.11",
        "| memory | tb per second 4.3 |",
        "| `inception` | triton | **wrong: relative error 1** |",
        "| training | 64 | PyTorch | 5,447 |  |",
        "| training | 64 | this package | a \\| b |  |",
        "| 30 | 2 | `conv` |",
        "| training | `max_pool` | 3a, 192x28x28 | triton 0.100 (2.00) |",
        "- compute-sanitizer: cannot run here (no program)",
        "- trainer, captured and host-launched: not started",
    ):
        assert part in text


def test_an_entry_is_added_once_and_replaced_later(results: Results) -> None:
    page = "# Runs\n\nAbout.\n\n## 2026-01-01, another\n\n### Part\ntext\n"
    first = entry.make_entry(recorded(results), "run")
    once = entry.insert(page, first)
    assert once == f"{page}\n{first}"
    results.append("sanitizer", status=OK, reason=None, seconds=1)
    second = entry.make_entry(results, "run")
    assert first != second
    assert entry.insert(once, second) == f"{page}\n{second}"
    later = entry.insert(f"{once}\n## 2027-01-01, later\n\ntext\n", second)
    assert later == f"{page}\n{second}\n## 2027-01-01, later\n\ntext\n"


def test_the_entry_of_a_run_made_elsewhere(
    results: Results, tmp_path: Path, run_main: Callable[..., tuple[int, str, str]]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Runs\n")
    assert run_main(entry.main, tmp_path, "--page", page)[0] == 2
    recorded(results)
    Results(tmp_path / "results.jsonl", "without a machine").append("machine", status="again")
    assert run_main(entry.main, tmp_path, "--page", page)[0] == 0
    assert "A card" in page.read_text()


def test_every_stage_has_a_module_and_every_table_a_section() -> None:
    planned = [MACHINE, *STAGES, *stages(update=True, dry_run=True)]
    for stage in planned:
        assert find_spec(f"benchmarks.gpu_run.stages.{stage.module}") is not None
    assert "speed_table" not in {stage.name for stage in stages(update=False, dry_run=False)}
    assert stages(update=True, dry_run=False) == list(STAGES)


def make_tree(root: Path) -> Path:
    for folder in ("googlenet_fast", "kernels", "csrc", "benchmarks/gpu_run/stages"):
        (root / folder).mkdir(parents=True)
        (root / folder / "one.py").write_text("1\n")
    return root


def test_a_digest_is_of_the_sources_and_the_kind_of_run(tmp_path: Path) -> None:
    root = make_tree(tmp_path)
    before = tree.digest(dry_run=False, root=root)
    assert tree.digest(dry_run=False, root=root) == before != tree.digest(dry_run=True, root=root)
    (root / "kernels" / "one.py").write_text("2\n")
    assert tree.digest(dry_run=False, root=root) != before


@pytest.mark.parametrize("lost", ["absent", "text"])
def test_a_tree_that_lost_its_link_gets_it_again(tmp_path: Path, lost: str) -> None:
    root = make_tree(tmp_path)
    if lost == "text":
        (root / "googlenet_fast" / "kernels").write_text("../kernels")
    tree.link_kernels(root)
    tree.link_kernels(root)
    assert (root / "googlenet_fast" / "kernels" / "one.py").is_file()


def test_an_extension_of_other_sources_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GoogLeNetError, match="no such file"):
        tree.environment(tmp_path, tmp_path / "carried", dry_run=False, inherited={})
    library = tmp_path / "_C.abi3.so"
    library.write_bytes(b"of other sources")
    with pytest.raises(GoogLeNetError, match="other C\\+\\+ sources"):
        tree.environment(tmp_path, tmp_path, dry_run=False, inherited={})
    monkeypatch.setattr(tree, "sources_digest", lambda folder: "of other sources")
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "one-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("one/__init__.py", "")
    found = tree.environment(tmp_path, tmp_path, dry_run=False, inherited={"PYTHONPATH": "mine"})
    assert (tmp_path / "site" / "one" / "__init__.py").is_file()
    assert found[tree.EXTENSION] == str(library)
    assert found["PYTHONPATH"].split(os.pathsep) == [str(tree.ROOT), str(tmp_path / "site"), "mine"]
    assert found["TRITON_CACHE_DIR"] == str(tmp_path / "cache" / "triton")


def test_what_is_carried_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(100))
    assert carry.check_size(tmp_path, 100) == 100
    with pytest.raises(GoogLeNetError, match="large"):
        carry.check_size(tmp_path, 99)


def test_the_carried_extension_is_of_one_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(tree.CARRIED_LIBRARIES)

    def run(command: list[Any], **options: Any) -> subprocess.CompletedProcess[str]:
        assert list(map(str, command[1:4])) == ["setup.py", "-q", "build_ext"]
        variables = options["env"]
        built = Path(command[command.index("--build-lib") + 1], "googlenet_fast")
        built.mkdir()
        for name in names:
            (built / name).write_text(variables["TORCH_CUDA_ARCH_LIST"])
        return subprocess.CompletedProcess(command, variables["TORCH_CUDA_ARCH_LIST"] == "1.0")

    monkeypatch.setattr(carry.subprocess, "run", run)
    carried = tmp_path / "carried"
    carry.build(carried, "9.0")
    assert {path.name: path.read_text() for path in carried.iterdir()} == dict.fromkeys(
        names, "9.0"
    )
    with pytest.raises(GoogLeNetError, match="does not build"):
        carry.build(carried, "1.0")
    del names[1]
    with pytest.raises(GoogLeNetError, match=r"_C_cuda\.abi3\.so: no such file"):
        carry.build(carried, "9.0")


def test_mistakes_are_one_line(
    tmp_path: Path, run_main: Callable[..., tuple[int, str, str]]
) -> None:
    status, _, printed = run_main(command.main, "--output", tmp_path, "--minutes", -1)
    assert (status, printed) == (2, "error: --minutes -1.0: must be more than 0\n")


@pytest.mark.slow
@pytest.mark.triton
def test_a_rehearsal_runs_every_stage(tmp_path: Path) -> None:
    """On the CPU, with another process's caches and interpreter; then nothing is left to do."""
    flags = ["--dry-run", "--update", "--minutes", "40", "--output", str(tmp_path)]
    page = entry.PAGE.read_text()
    printed = []
    for _ in range(2):
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu_run", *flags],
            cwd=tree.ROOT,
            capture_output=True,
            text=True,
        )
        assert child.returncode == 0, child.stdout + child.stderr
        printed.append(child.stdout)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        rows.setdefault(line["stage"], []).extend([line] if "key" in line else [])
    skipped = {line["stage"] for line in lines if line.get("status") == SKIPPED}
    assert skipped <= {"speed_table", "cudnn_graphs", "trainer"}
    for stage in stages(update=True, dry_run=True):
        assert rows[stage.name] or stage.name in skipped
        errors = [row for row in rows[stage.name] if "error" in row or row.get("failure")]
        assert not errors or stage.name in skipped
        assert (f"{stage.title}: has a result from before" in printed[1]) != (stage.name in skipped)
    assert "no GPU: a dry run" in (tmp_path / "entry.md").read_text()
    assert entry.PAGE.read_text() == page
