"""Tables on a terminal, where a Chinese character takes two columns."""

from collections.abc import Sequence

from tabulate import tabulate
from wcwidth import wcswidth


def table(
    rows: Sequence[Sequence[str]], headers: Sequence[str] = (), *, right: Sequence[int] = ()
) -> str:
    """Return rows of texts as aligned columns; those whose indices are in `right`, to the right."""
    columns = len(rows[0]) if rows else 0
    text = tabulate(
        rows,
        headers,
        tablefmt="plain",
        colalign=["right" if column in right else "left" for column in range(columns)],
        disable_numparse=True,
        preserve_whitespace=True,
    )
    return "\n".join(line.rstrip() for line in text.splitlines())


def shortened(name: str, columns: int) -> str:
    """Return the name in at most `columns` columns, cut between synonyms if possible."""
    if wcswidth(name) <= columns:
        return name
    start = name[: columns - 1]
    while wcswidth(start) > columns - 1:
        start = start[:-1]
    return (start.rpartition(",")[0] or start).rstrip() + "…"
