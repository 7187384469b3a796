"""The report on runs as one self-contained HTML file."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import jinja2
from markupsafe import Markup

from googlenet_fast import __version__
from googlenet_fast.engine.confusion import ClassResult, class_results
from googlenet_fast.engine.confusion_image import confusion_png
from googlenet_fast.engine.curves import LEARNING, THROUGHPUT, curves_svg
from googlenet_fast.engine.run_evaluation import RunEvaluation, data_uri
from googlenet_fast.engine.run_record import RunRecord, differences
from googlenet_fast.errors import printable

MAX_CLASSES = 10
"""Rows of the table of classes."""


@dataclass
class ReportedRun:
    """A run and the evaluation of its best checkpoint."""

    record: RunRecord
    evaluation: RunEvaluation | None
    missing: list[str]
    """A line for each section that is missing, with the reason."""
    name: str = ""
    """A name that no other run has."""
    confusion: str = field(init=False, default="")
    """The confusion matrix, a data URI."""
    worst_classes: list[ClassResult] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.evaluation is not None:
            evaluation, names = self.evaluation.evaluation, self.evaluation.names
            self.confusion = data_uri(confusion_png(evaluation, names), "image/png")
            classes = sorted(class_results(evaluation, names), key=lambda c: (c.top1, -c.images))
            self.worst_classes = classes[:MAX_CLASSES]


def report_page(runs: Sequence[ReportedRun]) -> str:
    """Return the page; all text from files is escaped."""
    for run, name in zip(runs, _names([run.record for run in runs]), strict=True):
        run.name = name
    records = [run.record for run in runs]
    metrics = {run.name: run.record.metrics for run in runs}
    summaries = [record.summary() for record in records]
    rows = dict.fromkeys(key for summary in summaries for key in summary)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("googlenet_fast", "engine"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report_page.html").render(
        title=f"GoogLeNet: {', '.join(metrics)}",
        names=list(metrics),
        summary={key: [summary.get(key, "") for summary in summaries] for key in rows},
        differences=differences(records),
        curves=Markup(curves_svg(metrics, LEARNING)),
        throughput=Markup(curves_svg(metrics, THROUGHPUT)),
        runs=runs,
        footer=f"googlenet_fast {__version__}, {time.strftime('%Y-%m-%d %H:%M')}",
    )


def _names(records: Sequence[RunRecord]) -> list[str]:
    """Return the names of the runs if they differ, else their paths."""
    names = [record.name for record in records]
    if len(set(names)) < len(names):
        names = [str(record.path.resolve()) for record in records]
    return [printable(name) for name in names]
