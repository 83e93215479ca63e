"""The file of rules: recording rules, then the alerts over them, in groups.

This module must not know what a rule says, and not how YAML is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ryot_metrics.observability.alerts import alerts, burn_alerts
from ryot_metrics.observability.recording import RECORDINGS
from ryot_metrics.observability.slo import LONG_WINDOWS, SPEEDS, WINDOWS, objectives
from ryot_metrics.observability.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ryot_metrics.observability.alerts import Alert
    from ryot_metrics.observability.recording import Recording


def rules(limits: Thresholds | None = None) -> dict[str, Any]:
    """Recording and alert rules, as the data of a Prometheus rule file.

    Args:
        limits: What the alerts compare with; by default, the Ryot metric design's numbers.

    Raises:
        ValueError: An objective's time is not a bound of its histogram's buckets.

    Example:
        >>> [group["name"] for group in rules()["groups"]]
        ['ryot_inference_rules', 'ryot_slo_rules', 'ryot_slo_long_rules', 'ryot_inference_alerts']
    """
    limits = limits or Thresholds()
    goals = objectives(limits)
    recent, past = (speed.burns[0].long for speed in SPEEDS)
    short = [rule for goal in goals for rule in [*goal.recordings(WINDOWS), goal.volume(recent)]]
    long = [rule for goal in goals for rule in [*goal.recordings(LONG_WINDOWS), goal.volume(past)]]
    return {
        "groups": [
            _group("ryot_inference_rules", "30s", RECORDINGS),
            _group("ryot_slo_rules", "30s", short),
            # Days change slowly and cost much; a sample lives for five minutes.
            _group("ryot_slo_long_rules", "2m", long),
            _group("ryot_inference_alerts", "30s", [*alerts(limits), *burn_alerts(goals, limits)]),
        ]
    }


def _group(name: str, interval: str, rows: Sequence[Recording | Alert]) -> dict[str, Any]:
    return {"name": name, "interval": interval, "rules": [row.as_rule() for row in rows]}
