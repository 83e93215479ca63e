"""Grafana dashboards: the panels of `panels`, laid out and written as Grafana's JSON.

A family's labels decide how it is filtered, the end of its name decides the unit, and its help
text stands under the title. This module must not name a family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ryot_metrics.observability import promql
from ryot_metrics.observability.panels import FLEET, SERVICE, STAGES, Panel, Plain, engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from ryot_metrics.catalogue import Family
    from ryot_metrics.observability.panels import Section

SCHEMA_VERSION = 42  # the last of Grafana's dashboards in this form
COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WINDOW = "$__rate_interval"

UNITS = (
    ("_tokens_per_second", "suffix: tokens/s"),
    ("_seconds", "s"),
    ("_bytes", "bytes"),
    ("_ratio", "percentunit"),
    ("_percent", "percent"),
    ("_percentage", "percent"),
    ("_usd_total", "currencyUSD"),
)


class View(NamedTuple):
    """A way to see a family.

    Attributes:
        targets: PromQL and legends, from the family, the labels and the filter.
        kind: Grafana's panel.
        unit: The unit, where it is not that of the family's name.
        size: Width and height on the grid.
    """

    targets: Callable[[Family, str, str], list[tuple[str, str]]]
    kind: str = "timeseries"
    unit: str = ""
    size: tuple[int, int] = (12, 8)


def _legend(by: str) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in by.split(", ") if label)


def _quantiles(family: Family, by: str, where: str) -> list[tuple[str, str]]:
    return [
        (
            promql.quantile(share, family.name, by, WINDOW, where),
            f"p{100 * share:g} {_legend(by)}".strip(),
        )
        for share in (0.5, 0.95, 0.99)
    ]


def _rate(function: str) -> Callable[[Family, str, str], list[tuple[str, str]]]:
    return lambda family, by, where: [
        (promql.rate(family.name, by, WINDOW, where, function), _legend(by))
    ]


def _gauge(operator: str) -> Callable[[Family, str, str], list[tuple[str, str]]]:
    return lambda family, by, where: [
        (promql.aggregate(operator, by, promql.selector(family.name, where)), _legend(by))
    ]


def _heatmap(family: Family, _: str, where: str) -> list[tuple[str, str]]:
    return [(promql.rate(f"{family.name}_bucket", "le", WINDOW, where, "increase"), "{{le}}")]


def _hourly(family: Family, by: str, where: str) -> list[tuple[str, str]]:
    return [(f"3600 * {promql.rate(family.name, by, WINDOW, where)}", _legend(by))]


NOW = (4, 4)
VIEWS = {
    "rate": View(_rate("rate")),
    "increase": View(_rate("increase"), unit="short"),
    "hourly": View(_hourly),
    "quantiles": View(_quantiles),
    "heatmap": View(_heatmap, "heatmap"),
    "mean": View(
        lambda family, by, where: [(promql.mean(family.name, by, WINDOW, where), _legend(by))]
    ),
    "hit_ratio": View(
        lambda family, by, where: [(promql.hit_ratio(family.name, by, WINDOW, where), _legend(by))],
        unit="percentunit",
    ),
    **{operator: View(_gauge(operator)) for operator in ("sum", "avg", "min", "max")},
    "rate_now": View(_rate("rate"), "stat", size=NOW),
    "sum_now": View(_gauge("sum"), "stat", size=NOW),
    "p95_now": View(lambda *args: _quantiles(*args)[1:2], "stat", size=NOW),
    "failed_now": View(
        lambda _, by, where: [(promql.failed_ratio(by, WINDOW, where), "")],
        "stat",
        "percentunit",
        NOW,
    ),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "heatmap": {
        "calculate": False,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "tooltip": {"mode": "single", "yHistogram": True},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
    },
}


class Dashboard(NamedTuple):
    """A dashboard: its title, its sections, and its variables with the series they come from."""

    title: str
    sections: Callable[[], tuple[Section, ...]]
    variables: dict[str, str]


_SERVICE = {
    "model": "ryot_inference_requests_total",
    "instance": 'ryot_inference_requests_total{model=~"$model"}',
}
_STAGES = {
    "model": "ryot_pipeline_requests_total",
    "instance": 'ryot_pipeline_requests_total{model=~"$model"}',
}
_FLEET = {
    "component": "llm_kv_blocks_total",
    "worker_id": 'llm_kv_blocks_total{component=~"$component"}',
}
DASHBOARDS = {
    "service": Dashboard("Ryot: LLM service", lambda: SERVICE, _SERVICE),
    "engine": Dashboard("Ryot: batching engine", engine, _SERVICE),
    "pipeline": Dashboard("Ryot: stages of a pipeline", lambda: STAGES, _STAGES),
    "fleet": Dashboard("Ryot: fleet of workers", lambda: FLEET, _FLEET),
}


def dashboard(which: str) -> dict[str, Any]:
    """A Grafana dashboard, as the data of its JSON.

    Args:
        which: `service`, `engine`, `pipeline` or `fleet`.

    Raises:
        ValueError: There is no such dashboard.

    Example:
        >>> dashboard("service")["title"]
        'Ryot: LLM service'
    """
    if which not in DASHBOARDS:
        raise ValueError(f"dashboard must be one of {', '.join(DASHBOARDS)}, not {which!r}")
    chosen = DASHBOARDS[which]
    return {
        "uid": f"ryot-{which}",
        "title": chosen.title,
        "tags": ["ryot", "llm"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": []},
        "templating": {"list": _variables(chosen.variables)},
        "panels": _lay_out(chosen.sections()),
    }


def _variables(chosen: dict[str, str]) -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Data source", "type": "datasource"}
    return [
        {**source, "query": "prometheus", "refresh": 1},
        *(
            {
                "name": name,
                "type": "query",
                "datasource": SOURCE,
                "query": {"query": f"label_values({series}, {name})", "refId": name},
                "refresh": 2,
                "sort": 1,
                "multi": True,
                "includeAll": True,
                "allValue": ".*",
                "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            }
            for name, series in chosen.items()
        ),
    ]


def _lay_out(sections: tuple[Section, ...]) -> list[dict[str, Any]]:
    """The panels on the grid: sections one below the other, each filled row by row."""
    placed: list[dict[str, Any]] = []
    top = 0
    for title, rows in sections:
        drawn = [panel for panel in map(_draw, rows) if panel]
        if not drawn:
            continue
        bar = {"type": "row", "title": title, "collapsed": False, "panels": []}
        placed.append(bar | {"gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}})
        left, top, height = 0, top + 1, 0
        for panel in drawn:
            size = panel["gridPos"]
            if left + size["w"] > COLUMNS:
                left, top, height = 0, top + height, 0
            placed.append(panel | {"gridPos": {"x": left, "y": top, **size}})
            left, height = left + size["w"], max(height, size["h"])
        top += height
    return [{"id": number, **panel} for number, panel in enumerate(placed, start=1)]


def _draw(panel: Panel | Plain) -> dict[str, Any] | None:
    """A panel without its place; None where the catalogue lacks its family."""
    if isinstance(panel, Plain):
        view = VIEWS["avg"]
        return _panel(panel.title, "", view, panel.unit, [(panel.expr, panel.legend)])
    family = promql.row(panel.family)
    if family is None:
        return None
    view = VIEWS[panel.view]
    model = 'model=~"$model",' if "model" in family.labels else ""
    targets = view.targets(family, panel.by, f'{model}instance=~"$instance"')
    unit = view.unit or next((unit for end, unit in UNITS if family.name.endswith(end)), "short")
    return _panel(panel.title, f"{family.help} ({family.name})", view, unit, targets)


def _panel(
    title: str, description: str, view: View, unit: str, targets: list[tuple[str, str]]
) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": unit}
    if view.kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 8, "showPoints": "never"}
    axis = {"yAxis": {"unit": unit}} if view.kind == "heatmap" else {}
    format_ = "heatmap" if view.kind == "heatmap" else "time_series"
    return {
        "type": view.kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"w": view.size[0], "h": view.size[1]},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": OPTIONS[view.kind] | axis,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": expr,
                "legendFormat": legend,
                "format": format_,
                "range": True,
            }
            for index, (expr, legend) in enumerate(targets)
        ],
    }
