"""The alert rules of the Ryot metric design and of the Ryot metrics module's documentation.

Corrected: percent is compared with percent, an error rate is a ratio, a quantile is taken of a rate
of buckets, an idle model is not slow. The objectives' alerts come from `slo`. This module must not
know YAML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ryot_metrics.observability.promql import COMPLETION, TOKENS, rate
from ryot_metrics.observability.slo import SPEEDS, Objective, Speed

if TYPE_CHECKING:
    from ryot_metrics.observability.thresholds import Thresholds

MODEL = "{{ $labels.model }}"
GPU = "GPU {{ $labels.device_id }} of {{ $labels.instance }}"
VALUE = "{{ $value | humanize }}"
SECONDS = "{{ $value | humanizeDuration }}"
PERCENT = "{{ $value | humanizePercentage }}"


class Alert(NamedTuple):
    """An alert rule.

    Attributes:
        name: Its name.
        severity: `critical` (a person is needed now) or `warning` (within a day).
        hold: How long the expression must hold before the alert fires.
        expr: What is evaluated; a result is a problem.
        summary: The problem in a few words.
        description: What was measured, and against what.
        runbook: Where to look first.
        slo: The objective that it watches, as a label.
    """

    name: str
    severity: str
    hold: str
    expr: str
    summary: str
    description: str
    runbook: str
    slo: str = ""

    def as_rule(self) -> dict[str, object]:
        """The rule as Prometheus reads it."""
        texts = {key: getattr(self, key) for key in ("summary", "description", "runbook")}
        labels = {"severity": self.severity, "component": "ryot"}
        labels |= {"slo": self.slo} if self.slo else {}
        hold = {"for": self.hold} if self.hold else {}
        return {"alert": self.name, "expr": self.expr, **hold, "labels": labels} | {
            "annotations": texts
        }


def alerts(limits: Thresholds) -> list[Alert]:
    """The alerts that compare a measurement with a threshold."""
    return [*_requests(limits), *_capacity(limits), *_gpu(limits), _DROPPED]


def _requests(limits: Thresholds) -> list[Alert]:
    return [
        Alert(
            "RyotHighErrorRate",
            "warning",
            "5m",
            f"ryot:error_rate:rate5m > {limits.error_ratio:g}",
            f"Requests to {MODEL} fail",
            f"{PERCENT} of the requests failed in 5 minutes (limit: {limits.error_ratio:.3g}).",
            "Split ryot_inference_errors_total by error_type: oom and cuda_error are the GPU's, "
            "timeout is load, invalid_prompt is a caller's.",
        ),
        _slow("RyotHighLatency", "warning", limits.latency_seconds),
        _slow("RyotVeryHighLatency", "critical", limits.latency_critical_seconds),
        Alert(
            "RyotHighTTFT",
            "warning",
            "10m",
            f"ryot:ttft_latency:p95:5m > {limits.ttft_seconds:g}",
            f"First tokens of {MODEL} come late",
            f"p95 of TTFT is {SECONDS} (limit: {limits.ttft_seconds:g} s).",
            "Compare with the queue wait: if that is short, prompts are long, the model was "
            "loaded anew, or the GPU's memory is short.",
        ),
    ]


def _slow(name: str, severity: str, seconds: float) -> Alert:
    return Alert(
        name,
        severity,
        "10m",
        f"ryot:inference_latency:p95:5m > {seconds:g}",
        f"Requests to {MODEL} are slow",
        f"p95 of the latency is {SECONDS} (limit: {seconds:g} s).",
        "Compare queue wait, TTFT and inter-token latency: the one that grew says whether load, "
        "prompts or decoding is the cause.",
    )


def _capacity(limits: Thresholds) -> list[Alert]:
    return [
        _throughput("RyotLowTokenThroughput", "10m", limits.tokens_per_second, limits),
        _throughput("RyotTokenThroughputBelowTarget", "15m", limits.slo_tokens_per_second, limits),
        _backlog("RyotQueueBacklog", "critical", limits.queue_depth),
        _backlog("RyotQueueAboveTarget", "warning", limits.slo_queue_depth),
    ]


def _throughput(name: str, hold: str, tokens: float, limits: Thresholds) -> Alert:
    busy = "sum by (model) (avg_over_time(ryot_active_inference_requests[1m]))"
    return Alert(
        name,
        "warning",
        hold,
        f"{rate(TOKENS, window='1m', where=COMPLETION)} < {tokens:g}\n"
        f"and {busy} >= {limits.busy_requests:g}",
        f"{MODEL} generates few tokens while it is busy",
        f"{VALUE} completion tokens per second (limit: {tokens:g}).",
        "Look at the batch sizes and at the GPU's utilisation: small batches on an idle GPU wait "
        "for input, small batches on a busy one for memory.",
    )


def _backlog(name: str, severity: str, requests: float) -> Alert:
    depth = "sum by (model, instance) (ryot_queue_depth)"
    return Alert(
        name,
        severity,
        "5m",
        f"{depth} > {requests:g}",
        f"Requests to {MODEL} pile up on {{{{ $labels.instance }}}}",
        f"{VALUE} requests wait (limit: {requests:g}).",
        "Add an instance or shed load; check that batches are full, and that no single request "
        "holds the slots.",
    )


def _gpu(limits: Thresholds) -> list[Alert]:
    used = 100 - limits.slo_gpu_headroom_percent
    by = "model, instance, device_id"
    return [
        Alert(
            "RyotGPUMemoryPressure",
            "critical",
            "5m",
            f"max by ({by}) (avg_over_time(ryot_gpu_memory_percentage[5m])) > {used:g}",
            f"{GPU} is short of memory",
            f"{VALUE}% of the memory is used on the mean of 5 minutes (limit: {used:g}%).",
            "Shorten the context or the batch, or move a model away, before a request ends as oom.",
        ),
        Alert(
            "RyotGPUMemoryReservedUnused",
            "warning",
            "5m",
            f"min by ({by}) (ryot_memory_efficiency_ratio) < {limits.memory_efficiency_ratio:g}",
            f"{GPU} has memory reserved that nothing uses",
            f"{PERCENT} of the reserved memory is used "
            f"(limit: {limits.memory_efficiency_ratio:.3g}).",
            "Reserve less, or serve more with it: larger batches, longer contexts, another model.",
        ),
    ]


_DROPPED = Alert(
    "RyotSamplesDropped",
    "warning",
    "",
    "sum by (instance, reason) (increase(ryot_metrics_dropped_total[10m])) > 0",
    "{{ $labels.instance }} measures less than it should",
    f"{VALUE} samples were dropped within 10 minutes: {{{{ $labels.reason }}}}.",
    "For cardinality, find the label with unbounded values; otherwise the log names the sample.",
)


def burn_alerts(objectives: list[Objective], limits: Thresholds) -> list[Alert]:
    """The alerts of error budgets that burn too fast."""
    return [_burn(objective, speed, limits) for objective in objectives for speed in SPEEDS]


def _burn(objective: Objective, speed: Speed, limits: Thresholds) -> Alert:
    factors = " or ".join(
        f"{burn.factor:g}x ({burn.long} and {burn.short})" for burn in speed.burns
    )
    return Alert(
        objective.alert + speed.name,
        speed.severity,
        "",
        objective.burning(speed, limits.slo_min_requests),
        f"{MODEL} misses its objective: {objective.says}",
        f"{PERCENT} of the requests miss it, where {100 * objective.budget:g}% may: more than "
        f"{factors} of that, so {speed.means}.",
        "Find the hour in which ryot:slo_bad:ratio_rate5m rose, and what was deployed or which "
        "load came then.",
        objective.name,
    )
