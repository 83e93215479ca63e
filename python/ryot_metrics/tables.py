"""Tables of figures as text, in the form of the pipeline statistics document.

Must not know what the figures mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["Figure", "table"]

Figure = int | float | Sequence[float]


def table(title: str, columns: Mapping[str, Mapping[str, Figure]]) -> str:
    """A table with a line for each field and a column for each of what has these fields.

    Args:
        title: What stands in brackets above it.
        columns: Their heads, and the figures by field. A field that a column lacks is left blank.

    Returns:
        Lines without a line break at the end. Whole numbers are grouped by thousands, others have
        three decimals, lists their elements in brackets.

    Example:
        >>> print(table("Stage", {"0": {"batch_size": 1024, "stage_gen_time_ms": 9.5}}))
        [Stage]
        +-------------------+-------+
        | Field             |     0 |
        +-------------------+-------+
        | batch_size        | 1,024 |
        | stage_gen_time_ms | 9.500 |
        +-------------------+-------+
    """
    fields = list(dict.fromkeys(field for figures in columns.values() for field in figures))
    rows = [["Field", *columns]]
    for field in fields:
        found = (figures.get(field) for figures in columns.values())
        rows.append([field, *("" if it is None else _text(it) for it in found)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "+".join(["", *("-" * (width + 2) for width in widths), ""])
    head, *body = (_line(row, widths) for row in rows)
    return "\n".join([f"[{title}]", rule, head, rule, *body, rule])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    field = cells[0].ljust(widths[0])
    figures = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return f"| {' | '.join([field, *figures])} |"


def _text(figure: Figure) -> str:
    if isinstance(figure, int):
        return f"{figure:,}"
    if isinstance(figure, float):
        return f"{figure:,.3f}"
    return f"[{', '.join(map(_text, figure))}]"
