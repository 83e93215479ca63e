"""The demo, and the quantiles it shows."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ryot_metrics._load import percentile, plan
from ryot_metrics._report import INTER_TOKEN, TTFT, Report, histogram_quantile
from ryot_metrics.cli import main

INF = math.inf


@pytest.mark.parametrize(
    ("q", "bounds", "counts", "value"),
    [
        (0.5, [1, 2, 4, INF], [10, 20, 40, 40], 2.0),  # rank 20 ends the second bucket
        (0.9, [1, 2, 4, INF], [10, 20, 40, 40], 3.6),  # rank 36: 16 of the 20 between 2 and 4
        (0.1, [1, 2, 4, INF], [10, 20, 40, 40], 0.4),  # the first bucket starts at 0
        (0.99, [1, 2, 4, INF], [10, 20, 40, 50], 4),  # beyond the finite bounds: the highest
        (0.5, [1, 2, 4, INF], [0, 0, 6, 6], 3.0),  # empty buckets are passed over
        (0.5, [-1, 0, INF], [4, 4, 4], -1),  # a first bound that is not positive stands for itself
        (1.0, [1, INF], [3, 3], 1.0),
    ],
)
def test_quantile(q: float, bounds: list[float], counts: list[float], value: float) -> None:
    """Quantiles computed by hand by PromQL's rules."""
    assert histogram_quantile(q, bounds, counts) == pytest.approx(value)


@pytest.mark.parametrize(
    ("bounds", "counts"), [([], []), ([INF], [3]), ([1, 2], [1, 2]), ([1, INF], [0, 0])]
)
def test_quantile_of_nothing(bounds: list[float], counts: list[float]) -> None:
    """Without samples, or without a finite and an infinite bound, there is no quantile."""
    assert math.isnan(histogram_quantile(0.5, bounds, counts))


def test_quantile_out_of_range() -> None:
    """A quantile beyond 1 is refused by its value."""
    with pytest.raises(ValueError, match="q is 95"):
        histogram_quantile(95, [1, INF], [1, 1])


PAGE = """\
# TYPE ryot_inference_requests_total counter
ryot_inference_requests_total{model="a",status="success"} 5
ryot_inference_requests_total{model="b",status="success"} 2
ryot_inference_requests_total{model="a",status="error"} 0
# TYPE ryot_tokens_generated_total counter
ryot_tokens_generated_total{model="a",token_type="completion"} 30
ryot_tokens_generated_total{model="a",token_type="prompt"} 99
# TYPE ryot_ttft_latency_seconds histogram
ryot_ttft_latency_seconds_bucket{model="a",prompt_size="tiny",le="0.1"} 1
ryot_ttft_latency_seconds_bucket{model="a",prompt_size="tiny",le="+Inf"} 1
ryot_ttft_latency_seconds_bucket{model="a",prompt_size="small",le="0.1"} 3
ryot_ttft_latency_seconds_bucket{model="a",prompt_size="small",le="+Inf"} 4
"""


def test_report_sums_over_labels() -> None:
    """A page's samples are summed over models and sizes; zero statuses are left out."""
    report = Report.read(text_string_to_metric_families(PAGE))
    assert report.requests == {"success": 7}
    assert report.completion_tokens == 30
    assert report.quantile(TTFT, 0.5) == pytest.approx(0.1 * 2.5 / 4)
    assert math.isnan(report.quantile(INTER_TOKEN, 0.5))


def test_plan_is_mixed() -> None:
    """Eight chats hold one long prompt and one client that hangs up."""
    chats = plan(8)
    assert [len(chat.prompt) > 1500 for chat in chats].count(True) == 1
    assert [chat.cancel_after is not None for chat in chats].count(True) == 1


def test_percentile() -> None:
    """Percentiles are interpolated between measured values."""
    assert percentile([4.0, 1.0, 3.0, 2.0, 5.0], 50) == 3.0
    assert percentile([0.0, 100.0], 95) == pytest.approx(95.0)
    assert percentile([7.0], 99) == 7.0
    assert math.isnan(percentile([], 50))


def test_demo_on_the_toy() -> None:
    """Without a terminal the demo prints a line per chat, the table, and where the metrics are."""
    program = "import sys; from ryot_metrics.cli import main; sys.exit(main())"
    line = [sys.executable, "-c", program, "demo", "--backend", "toy", "--port", "0"]
    out = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    lines = out.splitlines()
    assert sum(line.startswith("chat ") for line in lines) == 8
    assert sum(": done, " in line for line in lines) == 7
    assert sum(": hung up, 8 tokens" in line for line in lines) == 1
    assert "1 cancelled, 7 success" in out
    assert sum("/metrics  " in line for line in lines) == 3
    assert lines[-1].startswith("metrics: http://127.0.0.1:")
    assert "\x1b" not in out


def test_demo_needs_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    """A load without requests is refused before anything is started."""
    assert main(["demo", "--backend", "toy", "--requests", "0"]) == 2
    assert capsys.readouterr().err == "ryot-metrics: error: --requests is 0; at least 1\n"
