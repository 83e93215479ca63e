"""The scheduler's scorecard: the names and types of the UMA Serve metrics document."""

import math

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ryot_metrics import Engine, EngineConfig, SamplingParams, client

COUNTS = {
    "tokens_generated_total",
    "batch_calls_total",
    "last_batch_size",
    "decode_calls",
    "decode_ns_total",
    "decode_tokens_total",
    "decode_phase_tokens_total",
    "prefill_tokens_total",
    "decode_ns_total_gen",
    "prefill_ns_total",
    "active_sessions",
    "slo_violations_ttft_total",
    "slo_violations_tbt_total",
    "skipped_prefill_due_to_latency_total",
    "budget_target",
    "budget_used",
    "queued_interactive",
    "queued_background",
    "kv_cache_evictions_total",
    "kv_cache_resident_bytes",
}
NUMBERS = {
    "decode_ms_last",
    "decode_ms_ewma",
    "gen_ms_per_token_mean",
    "prefill_ms_per_token_mean",
    "decode_ms_min",
    "decode_ms_max",
    "decode_ms_mean",
    "decode_tokens_per_call_mean",
    "kv_cache_hit_ratio",
    "sum_bmt_mb_per_token",
    "copy_free_ratio",
    "gpu_idle_pct",
}
HISTOGRAMS = {"ttft_ms", "inter_token_ms", "decode_ms", "batch_size"}


@pytest.fixture(scope="module")
def engine():
    """An engine that has answered a batch and a stream."""
    with Engine("toy", EngineConfig(parallel=4), name="carded") as engine:
        engine.generate(["one two", "three"], SamplingParams(max_tokens=9))
        list(engine.stream("four", SamplingParams(max_tokens=5)))
        yield engine


def test_it_has_every_name_of_the_document_with_its_type_and_no_other(engine):
    """Counts are integers, times and ratios floats, histograms cumulative counts by bound."""
    card = engine.scorecard()
    assert set(card) == COUNTS | NUMBERS | HISTOGRAMS
    assert all(type(card[name]) is int and card[name] >= 0 for name in COUNTS)
    assert all(type(card[name]) is float and card[name] >= 0 for name in NUMBERS)
    for name in HISTOGRAMS:
        histogram = card[name]
        assert set(histogram) == {"count", "sum", "buckets"}
        bounds = [float(bound) for bound in histogram["buckets"]]
        assert bounds == sorted(bounds)
        assert bounds[-1] == math.inf
        counts = list(histogram["buckets"].values())
        assert counts == sorted(counts)
        assert counts[-1] == histogram["count"] > 0


def test_its_figures_agree_with_each_other_and_with_what_was_asked_for(engine):
    """Sums, means, extremes and aliases are those of the same tokens and steps."""
    card = engine.scorecard()
    assert card["tokens_generated_total"] == 23
    assert card["decode_tokens_total"] == 20  # three first tokens follow their prompts
    assert card["decode_tokens_total"] == card["decode_phase_tokens_total"]
    assert card["decode_ns_total"] == card["decode_ns_total_gen"]
    assert card["decode_calls"] == card["decode_ms"]["count"] <= card["batch_calls_total"]
    assert card["batch_calls_total"] == card["batch_size"]["count"]
    assert card["decode_ms_min"] <= card["decode_ms_mean"] <= card["decode_ms_max"]
    assert card["decode_ms_min"] <= card["decode_ms_ewma"] <= card["decode_ms_max"]
    mean = card["decode_ns_total"] / 1e6 / card["decode_calls"]
    assert card["decode_ms_mean"] == pytest.approx(mean, abs=5e-4)
    assert card["decode_ms"]["sum"] == pytest.approx(card["decode_ns_total"] / 1e6, abs=1e-3)
    tokens = card["prefill_tokens_total"] + card["decode_tokens_total"]
    assert card["batch_size"]["sum"] == tokens
    assert card["ttft_ms"]["count"] == 3
    assert card["inter_token_ms"]["count"] == card["decode_tokens_total"]
    assert card["budget_used"] == card["last_batch_size"] <= card["budget_target"]
    assert card["active_sessions"] == card["queued_interactive"] == card["queued_background"] == 0
    assert 0 <= card["gpu_idle_pct"] <= 100
    assert 0 <= card["kv_cache_hit_ratio"] <= 1
    assert card["copy_free_ratio"] == 1


def test_before_the_first_decode_the_least_time_is_none():
    """No number of milliseconds stands for a decode that was not."""
    with Engine("toy", name="unused") as engine:
        card = engine.scorecard()
    assert card["decode_ms_min"] is None
    assert all(card[name] == 0 for name in COUNTS | NUMBERS - {"decode_ms_min"})
    assert all(card[name]["count"] == 0 for name in HISTOGRAMS)


def test_it_counts_who_holds_a_place_and_who_waits():
    """A request that runs is active, one behind it is queued in its class too."""
    with Engine("toy", EngineConfig(parallel=1), name="waiting") as engine:
        params = SamplingParams(max_tokens=2_000)
        streams = [engine.stream("hello", params)]
        next(streams[0])
        streams.append(engine.stream("hello", params, priority="background"))
        for _ in streams[0]:  # the engine takes note of the second request before a step
            card = engine.scorecard()
            if card["active_sessions"] == 2:
                break
        assert (card["queued_interactive"], card["queued_background"]) == (0, 1)
        for stream in streams:
            stream.cancel()
            list(stream)
        assert engine.scorecard()["active_sessions"] == 0


@pytest.mark.parametrize(
    ("encode", "parse"),
    [
        (client.generate_latest, parse_text),
        (client.generate_openmetrics, parse_openmetrics),
    ],
)
def test_the_same_facts_are_on_the_page_in_base_units(engine, encode, parse):
    """`prometheus_client`'s parsers read what the scorecard says, in seconds."""
    card = engine.scorecard()
    page = encode(client.REGISTRY).decode()
    samples = {
        sample.name: sample.value
        for family in parse(page)
        for sample in family.samples
        if sample.labels == {"model": "carded"}
    }
    for name, value in {
        "decode_seconds_total": card["decode_ns_total"] / 1e9,
        "decode_seconds_sum": card["decode_ns_total"] / 1e9,
        "prefill_seconds_total": card["prefill_ns_total"] / 1e9,
        "decode_tokens_total": card["decode_tokens_total"],
        "prefill_tokens_total": card["prefill_tokens_total"],
        "decode_calls_total": card["decode_calls"],
        "generated_tokens_total": card["tokens_generated_total"],
        "batch_tokens_last": card["last_batch_size"],
        "active_sessions": card["active_sessions"],
    }.items():
        assert samples[f"ryot_engine_{name}"] == pytest.approx(value), name
    least = samples["ryot_engine_decode_seconds_min"] * 1000
    assert card["decode_ms_min"] == pytest.approx(least, abs=5e-4)
