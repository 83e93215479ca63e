"""The recording rules of the Ryot metric design, corrected.

Here stand the rates and quantiles that people ask for again and again; those behind the service
level objectives are in `slo`. This module must not know thresholds or YAML.
"""

from __future__ import annotations

from typing import NamedTuple

from ryot_metrics.observability.promql import (
    COMPLETION,
    INTER_TOKEN,
    LATENCY,
    TOKENS,
    TTFT,
    failed_ratio,
    mean,
    quantile,
    rate,
)


class Recording(NamedTuple):
    """A recording rule.

    Attributes:
        record: The name of the series that it writes.
        expr: What is evaluated.
        slo: The objective that it measures, as a label.
    """

    record: str
    expr: str
    slo: str = ""

    def as_rule(self) -> dict[str, object]:
        """The rule as Prometheus reads it."""
        labels = {"labels": {"slo": self.slo}} if self.slo else {}
        return {"record": self.record, "expr": self.expr, **labels}


# Per GPU and per model: the mean over the devices of one instance, which share its work.
GPU_SHARE = "avg by (model, instance) (ryot_gpu_memory_percentage) / 100"

RECORDINGS = (
    Recording("ryot:tokens_per_second:rate1m", rate(TOKENS, "model, token_type", "1m")),
    Recording("ryot:error_rate:rate5m", failed_ratio()),
    Recording("ryot:inference_latency:p95:5m", quantile(0.95, LATENCY)),
    Recording("ryot:ttft_latency:p95:5m", quantile(0.95, TTFT)),
    Recording("ryot:inter_token_latency:p95:5m", quantile(0.95, INTER_TOKEN)),
    Recording("ryot:batch_size:avg:5m", mean("ryot_batch_size_distribution")),
    Recording(
        "ryot:gpu_efficiency:ratio",
        f"{rate(TOKENS, 'model, instance', '1m', COMPLETION)} / ({GPU_SHARE})",
    ),
    # Prompt and completion together; as a stored series, it would count twice in every sum.
    Recording("ryot:tokens_total", f"sum without (token_type) ({TOKENS})"),
    # The design's spelling of a counter, which lacks `_total`.
    Recording("ryot_token_cost_estimate_usd", "ryot_token_cost_estimate_usd_total"),
)
