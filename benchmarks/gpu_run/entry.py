"""The report of a run: the next entry of docs/gpu-runs.md, from what it recorded so far.

`python -m benchmarks.gpu_run.entry DIR` writes the entry of a run that was made elsewhere.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.gpu_run.plan import STAGES
from benchmarks.gpu_run.results import OK, SKIPPED, Line, Results, last_run
from benchmarks.gpu_run.tree import ROOT
from googlenet_fast.errors import GoogLeNetError, run_command
from googlenet_fast.files import write_atomically

PAGE = ROOT / "docs" / "gpu-runs.md"

KERNELS = 25
"""Rows of the table of kernels."""


def make_entry(results: Results, name: str) -> str:
    """Return the entry in Markdown; of what was not measured it says so.

    Args:
        results: with the rows of stage `machine`.
        name: of the run's folder.
    """
    machine = {row["key"][0]: row for row in results.rows("machine")}
    began = results.lines()[0]["time"]
    date = time.strftime("%Y-%m-%d", time.gmtime(began))
    about = {key: value for key, value in machine["about"].items() if key not in _BOOKKEEPING}
    parts = [
        f"## {date}, {machine['gpu']['value']}",
        marker(name, began),
        "Made by `python -m benchmarks.gpu_run`. "
        + "; ".join(f"{key} {value}" for key, value in about.items())
        + ".",
    ]
    for title, make in SECTIONS.items():
        lines = make(results)
        if lines:
            parts.append("\n".join([f"### {title}", "", *lines]))
    parts.append("\n".join(["### Not run, or in part", "", *_missing(results)]))
    return "\n\n".join(parts) + "\n"


def marker(name: str, began: float) -> str:
    """Return the comment by which the entry of a run is found again."""
    return f"<!-- gpu-run: {name} {began} -->"


def insert(page: str, entry: str) -> str:
    """Return the page with an entry at its end, or in place of an earlier one of the same run."""
    mark = next(line for line in entry.splitlines() if line.startswith("<!-- gpu-run: "))
    head, *entries = page.rstrip("\n").split("\n## ")
    body = entry.removeprefix("## ").rstrip("\n")
    if any(mark in other for other in entries):
        entries = [body if mark in other else other.rstrip("\n") for other in entries]
    else:
        entries.append(body)
    return "\n\n## ".join([head.rstrip("\n"), *(other.rstrip("\n") for other in entries)]) + "\n"


def _constants(results: Results) -> list[str]:
    return _table(
        ("constant", "value"),
        ((_words(row["key"][0]), _values(row)) for row in results.rows("constants")),
    )


def _correctness(results: Results) -> list[str]:
    rows = results.rows("correctness")
    dtypes = list(dict.fromkeys(row["key"][2] for row in rows))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        op, backend, dtype = row["key"]
        cells.setdefault((op, backend), {})[dtype] = _verdict(row)
    return _table(
        ("op", "backend", *(f"error in {dtype}" for dtype in dtypes)),
        (
            (f"`{op}`", backend, *(found.get(dtype, "") for dtype in dtypes))
            for (op, backend), found in cells.items()
        ),
    )


def _verdict(row: Line) -> str:
    if wrong := row.get("failure") or row.get("error"):
        return f"**wrong: {wrong}**"
    if "unsupported" in row:
        return "not supported"
    error = row["relative_error"]
    return "no sample" if error is None else f"{error:.1e}"


def _networks(results: Results) -> list[str]:
    names = [stage.name for stage in STAGES if stage.module == "networks"]
    names += [line["stage"] for line in results.lines() if line["stage"].startswith("networks:")]
    rows = [row for name in dict.fromkeys(names) for row in results.rows(name)]
    return [
        "Images a second, fp16, of a captured step unless the row says otherwise.",
        "",
        *_table(
            ("work", "batch", "provider", "images a second", "error of the logits"),
            (
                (
                    *map(str, row["key"]),
                    row.get("error") or f"{row['images_per_second']:,.0f}",
                    f"{row['relative_error']:.1e}" if "relative_error" in row else "",
                )
                for row in sorted(rows, key=lambda row: row["key"][:2])
            ),
        ),
    ] * bool(rows)


def _kernels(results: Results) -> list[str]:
    lines: list[str] = []
    for row in results.rows("kernel_times"):
        mode, batch, provider = row["key"]
        if "error" in row:
            lines += [f"{mode}, batch {batch}, {provider}: {row['error']}", ""]
            continue
        lines += [
            f"{mode}, batch {batch}, {provider}: {row['launches']:.0f} launches,"
            f" {row['microseconds'] / 1000:.2f} ms a step.",
            "",
            *_table(
                ("us a step", "launches", "kernel"),
                (
                    (f"{k['microseconds']:.0f}", f"{k['launches']:g}", f"`{k['name'][:100]}`")
                    for k in row["kernels"][:KERNELS]
                ),
            ),
            "",
        ]
    return lines[:-1]


def _trainer(results: Results) -> list[str]:
    return _table(
        ("launches", "batch", "result"),
        ((*map(str, row["key"]), _values(row)) for row in results.rows("trainer")),
    )


def _layers(results: Results) -> list[str]:
    return _table(
        ("work", "op", "layer", "ms by backend (times as fast as eager PyTorch)"),
        (
            (
                row["key"][0],
                f"`{row['key'][1]}`",
                f"{row['key'][2]}, {row.get('shape', '')}",
                row.get("error")
                or ", ".join(
                    f"{name} {found['milliseconds']:.3f} ({found['ratio']:.2f})"
                    for name, found in row["providers"].items()
                ),
            )
            for row in results.rows("layers")
        ),
    )


def _graphs(results: Results) -> list[str]:
    return _table(
        ("convolution", "result"),
        ((row["key"][0], _values(row)) for row in results.rows("cudnn_graphs")),
    )


def _sanitizer(results: Results) -> list[str]:
    return _table(
        ("tool", "backend", "result"),
        ((*row["key"], _values(row)) for row in results.rows("sanitizer")),
    )


SECTIONS: dict[str, Callable[[Results], list[str]]] = {
    "Constants of the card": _constants,
    "Correctness": _correctness,
    "The network": _networks,
    "Time by kernel": _kernels,
    "The trainer": _trainer,
    "Single layers": _layers,
    "cuDNN graphs": _graphs,
    "compute-sanitizer": _sanitizer,
}

_BOOKKEEPING = ("stage", "key", "digest", "time")


def _missing(results: Results) -> list[str]:
    lines = []
    for stage in STAGES:
        end = results.end(stage.name)
        if (end is None and stage.name == "speed_table") or (end and end["status"] == OK):
            continue  # not asked for, or measured
        status = "not started" if end is None else end["status"]
        reason = f" ({end['reason']})" if end is not None and end["reason"] else ""
        word = "cannot run here" if status == SKIPPED else status
        lines.append(f"- {stage.title}: {word}{reason}")
    return lines or ["Everything was run."]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table; none without rows."""
    titles = list(head)
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    if not body:
        return []
    return ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles), *body]


def _values(row: Line) -> str:
    values = {key: value for key, value in row.items() if key not in _BOOKKEEPING}
    return ", ".join(f"{_words(key)} {_number(value)}" for key, value in values.items())


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def main() -> None:
    """Write the entry of a run's folder into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_run.entry")
    parser.add_argument("folder", type=Path, help="the --output of a run")
    parser.add_argument("--page", type=Path, default=PAGE, help="default: docs/gpu-runs.md")
    arguments = parser.parse_args()
    path = arguments.folder / "results.jsonl"
    results = last_run(path)
    if results is None:
        raise GoogLeNetError(f"{path}: no results; python -m benchmarks.gpu_run makes them")
    entry = make_entry(results, arguments.folder.absolute().name)
    write_atomically(arguments.page, insert(arguments.page.read_text(), entry).encode())
    print(arguments.page)


if __name__ == "__main__":
    run_command(main)
