"""The package's speed table, measured by its own command; a copy is in the run's folder."""

import shutil

from benchmarks.gpu_run.setting import Setting, SkippedError
from benchmarks.tools import fastest


def run(setting: Setting) -> None:
    """Measure and write the table."""
    if setting.dry_run:
        raise SkippedError("a dry run measures no table")
    fastest.main()
    shutil.copy(fastest.TABLE, setting.output)
    setting.row("table", value=fastest.TABLE.name)
