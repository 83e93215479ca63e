"""Series for promtool's unit tests of rules, and for each alert when it fires and when it must not.

Time goes in steps of one minute, in the scenarios of hours and days in longer ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ryot_metrics.observability import rules
from ryot_metrics.observability.slo import Objective, objectives
from ryot_metrics.observability.thresholds import Thresholds

WHERE = {"model": "m", "instance": "a:8000", "job": "ryot"}
MINUTES = 30


class Scenario(NamedTuple):
    """What is put in, and whether the alerts of a name (a pattern) fire after all of it."""

    alert: str
    fires: bool
    says: str
    series: list[dict[str, str]]
    minutes: int = MINUTES
    step: int = 1
    alerts: int = 1


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    shown = ",".join(f'{key}="{value}"' for key, value in (WHERE | labels).items())
    return {"series": f"{name}{{{shown}}}", "values": values}


def gauge(name: str, value: float, minutes: int = MINUTES, **labels: str) -> dict[str, str]:
    return series(name, f"{value:g}x{minutes}", **labels)


def counter(name: str, *phases: tuple[float, int], step: int = 1, **labels: str) -> dict[str, str]:
    """A counter that grows by so much a minute for so many minutes, phase after phase."""
    parts, value = [], 0.0
    for number, (slope, minutes) in enumerate(phases):
        count = minutes // step
        first = 0 if number == 0 else 1  # a phase begins after the last sample of the one before
        start, rise = value + first * slope * step, slope * step
        parts.append(f"{start:.6f}+{rise:.6f}x{count - first}")
        value += slope * step * count
    return series(name, " ".join(parts), **labels)


def histogram(name: str, slopes: dict[str, float], **labels: str) -> list[dict[str, str]]:
    """Buckets that grow by so many observations a minute; the bounds are cumulative."""
    buckets = [counter(f"{name}_bucket", (n, MINUTES), le=le, **labels) for le, n in slopes.items()]
    return [*buckets, counter(f"{name}_count", (slopes["+Inf"], MINUTES), **labels)]


def requests(**slopes: float) -> list[dict[str, str]]:
    name = "ryot_inference_requests_total"
    return [counter(name, (slope, MINUTES), status=status) for status, slope in slopes.items()]


def busy(tokens_per_second: float, active: float) -> list[dict[str, str]]:
    tokens = (60 * tokens_per_second, MINUTES)
    return [
        counter("ryot_tokens_generated_total", tokens, token_type="completion"),
        counter("ryot_tokens_generated_total", (1e6, MINUTES), token_type="prompt"),
        gauge("ryot_active_inference_requests", active),
    ]


LATENCY, TTFT = "ryot_inference_latency_seconds", "ryot_ttft_latency_seconds"
QUEUE, GPU = "ryot_queue_depth", "ryot_gpu_memory_percentage"
UNUSED, DROPPED = "ryot_memory_efficiency_ratio", "ryot_metrics_dropped_total"


def spike(name: str, high: float, low: float) -> dict[str, str]:
    """Two high minutes among low ones, right before the end."""
    return series(name, f"{low:g}x{MINUTES - 2} {high:g}x1", device_id="0")


THRESHOLDS = [
    Scenario(*row)
    for alert, rows in {
        "RyotHighErrorRate": [
            (True, "6% fail", requests(success=94, error=4, timeout=2)),
            (True, "all fail, and nothing ever succeeded", requests(partial=1)),
            (False, "4% fail", requests(success=96, error=4)),
            (False, "clients hang up", requests(success=50, cancelled=50)),
            (False, "nothing fails, at any rate", requests(success=5000)),
            (False, "nothing happens", requests(success=0, error=0)),
        ],
        "RyotHighLatency": [
            (True, "p95 between 2.5 and 5 s", histogram(LATENCY, {"2.5": 90, "5": 99, "+Inf": 99})),
            (False, "p95 below 2.5 s", histogram(LATENCY, {"2.5": 96, "5": 99, "+Inf": 99})),
            (False, "no requests", histogram(LATENCY, {"2.5": 0, "5": 0, "+Inf": 0})),
        ],
        "RyotVeryHighLatency": [
            (True, "p95 above 10 s", histogram(LATENCY, {"10": 90, "30": 99, "+Inf": 99})),
            (False, "p95 below 10 s", histogram(LATENCY, {"5": 90, "10": 99, "+Inf": 99})),
        ],
        "RyotHighTTFT": [
            (True, "p95 above 1 s", histogram(TTFT, {"1": 90, "2.5": 99, "+Inf": 99})),
            (False, "p95 far below", histogram(TTFT, {"0.05": 99, "1": 99, "+Inf": 99})),
        ],
        "RyotLowTokenThroughput": [
            (True, "40 tokens/s with 2 requests", busy(40, 2)),
            (False, "60 tokens/s", busy(60, 2)),
            (False, "idle", busy(0, 0)),
            (False, "a request now and then", busy(3, 0.2)),
        ],
        "RyotTokenThroughputBelowTarget": [
            (True, "80 tokens/s with 2 requests", busy(80, 2)),
            (False, "120 tokens/s", busy(120, 2)),
            (False, "idle", busy(0, 0)),
        ],
        "RyotQueueBacklog": [
            (
                True,
                "120 wait, of two priorities",
                [gauge(QUEUE, 60, priority_level=level) for level in ("high", "low")],
            ),
            (False, "100 wait", [gauge(QUEUE, 100, priority_level="normal")]),
            (
                False,
                "60 wait on each of two instances",
                [gauge(QUEUE, 60, instance=instance) for instance in ("a:1", "b:1")],
            ),
            (False, "a burst of two minutes", [spike(QUEUE, 500, 0)]),
        ],
        "RyotQueueAboveTarget": [
            (True, "51 wait", [gauge(QUEUE, 51, priority_level="normal")]),
            (False, "50 wait", [gauge(QUEUE, 50, priority_level="normal")]),
        ],
        "RyotGPUMemoryPressure": [
            (True, "90% used", [gauge(GPU, 90, device_id="0")]),
            (False, "85% used", [gauge(GPU, 85, device_id="0")]),
            (False, "1% used, which a ratio would call full", [gauge(GPU, 1, device_id="0")]),
            (False, "a peak of two minutes", [spike(GPU, 99, 50)]),
        ],
        "RyotGPUMemoryReservedUnused": [
            (True, "40% of the reserved memory used", [gauge(UNUSED, 0.4, device_id="0")]),
            (False, "half of it used", [gauge(UNUSED, 0.5, device_id="0")]),
            (False, "all of it used", [gauge(UNUSED, 1, device_id="0")]),
        ],
        "RyotSamplesDropped": [
            (True, "samples dropped", [counter(DROPPED, (1, MINUTES), reason="cardinality")]),
            (False, "none dropped", [counter(DROPPED, (0, MINUTES), reason="cardinality")]),
            (
                False,
                "some dropped, but before",
                [counter(DROPPED, (9, 10), (0, MINUTES), reason="cardinality")],
                MINUTES + 10,
            ),
        ],
    }.items()
    for row in [(alert, *row) for row in rows]
]

HOUR, DAY = 60, 24 * 60
# Phases of (times the budget, minutes), and what of them fires.
BURNS: dict[str, list[tuple[bool, str, list[tuple[float, int]]]]] = {
    "FastBurn": [
        (True, "an hour at 20 times the budget", [(0, 6 * HOUR), (20, HOUR)]),
        (True, "six hours at 8 times", [(8, 6 * HOUR)]),
        (False, "twenty minutes at 20 times", [(0, 6 * HOUR), (20, 20)]),
        (False, "two hours at 20 times, over for 40 minutes", [(0, 4 * HOUR), (20, 120), (0, 40)]),
        (False, "six hours at 5 times", [(5, 6 * HOUR)]),
    ],
    "SlowBurn": [
        (True, "a day at 4 times the budget", [(0, 2 * DAY), (4, DAY)]),
        (True, "three days at 1.5 times", [(1.5, 3 * DAY)]),
        (False, "three days at 0.8 times", [(0.8, 3 * DAY)]),
        (False, "a day at 4 times, over for 7 hours", [(0, 2 * DAY), (4, DAY), (0, 7 * HOUR)]),
        (False, "an hour at 20 times", [(0, 2 * DAY), (20, HOUR), (0, 12 * HOUR)]),
    ],
}


GOALS = objectives(Thresholds())
STEPS = {"FastBurn": 2, "SlowBurn": 10}
FEW = (False, "all of too few requests", [(1000.0, DAY)])


def _traffic(goal: Objective, phases: list[tuple[float, int]], step: int) -> list[dict[str, str]]:
    """Requests of which the budget's multiple is bad, phase after phase."""
    each = 0.01 if phases == FEW[2] else 600  # a minute
    shares = [(min(1.0, times * goal.budget), minutes) for times, minutes in phases]
    good = [(each * (1 - share), minutes) for share, minutes in shares]
    bad = [(each * share, minutes) for share, minutes in shares]
    total = [(each, minutes) for _, minutes in shares]
    if goal.name == "success":
        name = "ryot_inference_requests_total"
        return [
            counter(name, *good, step=step, status="success"),
            counter(name, *bad, step=step, status="timeout"),
            counter(name, *total, step=step, status="cancelled"),
        ]
    family = goal.total[0].removesuffix("_count")
    bound = {"latency_p95": "0.5", "latency_p99": "2.5", "ttft_p95": "0.05"}[goal.name]
    every = [] if goal.name == "latency_p99" else [counter(f"{family}_count", *total, step=step)]
    return [counter(f"{family}_bucket", *good, step=step, le=bound), *every]


def burns(end: str) -> list[Scenario]:
    """The scenarios of the alerts of one speed; what is said of them holds for all objectives."""
    return [
        Scenario(
            f"Ryot.+{end}",
            fires,
            says,
            [line for goal in GOALS for line in _traffic(goal, phases, STEPS[end])],
            sum(minutes for _, minutes in phases),
            STEPS[end],
            len(GOALS),
        )
        for fires, says, phases in [*BURNS[end], FEW]
    ]


def unit_test(rule_file: str, scenarios: list[Scenario]) -> dict[str, Any]:
    """A file for `promtool test rules`: each alert fires, or has nothing to say."""
    return {
        "rule_files": [rule_file],
        "group_eval_order": [group["name"] for group in rules()["groups"]],
        "evaluation_interval": f"{max(scenario.step for scenario in scenarios)}m",
        "tests": [
            {
                "name": f"{scenario.alert}: {scenario.says}",
                "interval": f"{scenario.step}m",
                "input_series": scenario.series,
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname=~"{scenario.alert}",'
                        'alertstate="firing"})',
                        "eval_time": f"{scenario.minutes}m",
                        "exp_samples": [{"labels": "{}", "value": scenario.alerts}]
                        if scenario.fires
                        else [],
                    }
                ],
            }
            for scenario in scenarios
        ],
    }
