"""The catalogue of families as data and as a table, from the one table in the native module."""

from __future__ import annotations

from typing import NamedTuple

from ryot_metrics import _ryot_metrics


class Family(NamedTuple):
    """A family of the catalogue.

    Attributes:
        name: Its name on the page.
        type: `counter`, `gauge`, `histogram` or `info`.
        labels: Its labels.
        buckets: A histogram's upper bounds, without `+Inf`.
        help: What it measures.
        samples: The names that its samples may have.
    """

    name: str
    type: str
    labels: list[str]
    buckets: list[float]
    help: str
    samples: list[str]


def families() -> list[Family]:
    """Every family that this package fills, views included.

    Example:
        >>> [family.type for family in families() if family.name == "ryot_queue_depth"]
        ['gauge']
    """
    return [Family(*row) for row in _ryot_metrics.catalogue()]


def markdown() -> str:
    """The catalogue as a Markdown table."""
    lines = ["| family | type | labels | measures |", "|---|---|---|---|"]
    for family in families():
        labels = ", ".join(family.labels) or "free" * (family.type == "info")
        buckets = " ".join(f"{bound:g}" for bound in family.buckets)
        measures = f"{family.help} Buckets: {buckets}." if buckets else family.help
        lines.append(f"| `{family.name}` | {family.type} | {labels} | {measures} |")
    return "\n".join(lines) + "\n"
