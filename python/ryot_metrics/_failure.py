"""What a failed `assert_metric` says: found beside expected, what comes near, what has changed.

Knows nothing of pytest and compares nothing: it only tells.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from ryot_metrics.testing import Metrics

NEAREST = 5
"""Samples or names that are shown as near."""
CHANGES = 20
"""Rows of the table of changes."""


def explain(
    metrics: Metrics,
    what: str,
    name: str,
    labels: Mapping[str, str],
    expected: object,
    found: float | None,
    known: Collection[str],
) -> str:
    """The text of a failure.

    Args:
        metrics: What was recorded.
        what: `delta`, `value`, `count`, `sum` or `absent`.
        name: The sample's name.
        labels: The labels that were asked for.
        expected: The number that was asked for.
        found: The number that is there; None for none.
        known: The labels that the family has.
    """
    there = "no such sample" if found is None else _number(found)
    if what == "absent":
        head = f"is there, with the value {there}; it must be absent"
    else:
        wanted = _number(expected) if isinstance(expected, int | float) else str(expected)
        head = f"{what}: expected {wanted}, found {there}"
    lines = [f"{sample_text(name, labels)}", f"  {head}"]
    if known and (unknown := sorted(labels.keys() - known)):
        lines.append(f"  no label {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    page = metrics.samples().samples
    if name not in page:
        lines += _section("nearest names", _near_names(name, page, metrics.names()))
    elif what != "absent":
        children = [dict(sorted(key)) for key in page[name]]
        lines += _section("nearest samples", _near_samples(metrics, name, labels, children))
    lines += _section("changed during the test", _changes(metrics))
    return "\n".join(lines)


def sample_text(name: str, labels: Mapping[str, str]) -> str:
    """A sample as it stands on a page.

    Example:
        >>> sample_text("jobs_total", {"queue": "mail"})
        'jobs_total{queue="mail"}'
    """
    inside = ", ".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{inside}}}" if inside else name


def _number(value: float) -> str:
    return f"{value:.12g}"


def _section(title: str, lines: Iterable[str]) -> list[str]:
    lines = list(lines)
    return ["", f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def _near_names(name: str, page: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    page = set(page)
    for near in difflib.get_close_matches(name, sorted(page | set(known)), NEAREST):
        yield near if near in page else f"{near} (nothing was recorded)"
    if f"{name}_count" in page:
        yield f"{name} is a histogram or a summary: ask for its count or its sum"


def _near_samples(
    metrics: Metrics, name: str, labels: Mapping[str, str], children: list[dict[str, str]]
) -> Iterator[str]:
    """The children with the most labels as asked for; each other one beside what was asked for."""
    asked = labels.items()
    children.sort(key=lambda child: len(asked & child.items()), reverse=True)
    for child in children[:NEAREST]:
        differing = [
            f'{label}="{child[label]}" is not "{value}"' if label in child else f"no label {label}"
            for label, value in asked
            if child.get(label) != value
        ]
        value, delta = metrics.value(name, child), metrics.delta(name, child)
        numbers = f"value {_number(value or 0.0)}, delta {_number(delta)}"
        yield "  ".join([sample_text(name, child), numbers, *(f"<- {it}" for it in differing)])
    if len(children) > NEAREST:
        yield f"and {len(children) - NEAREST} more"


def _changes(metrics: Metrics) -> Iterator[str]:
    changes = [it for it in metrics.changes() if not it.name.endswith("_bucket")]
    if not changes:
        yield "nothing"
        return
    rows = [
        (
            sample_text(it.name, it.labels),
            "-" if it.before is None else _number(it.before),
            _number(it.after),
            f"{it.after - (it.before or 0.0):+.12g}",
        )
        for it in changes[:CHANGES]
    ]
    rows.insert(0, ("sample", "before", "after", "delta"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for sample, *numbers in rows:
        cells = (cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))
        yield "  ".join([sample.ljust(widths[0]), *cells])
    if len(changes) > CHANGES:
        yield f"and {len(changes) - CHANGES} more"
