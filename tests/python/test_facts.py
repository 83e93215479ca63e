"""The functions by which a service reports what no request sees."""

import importlib
import math

import pytest

import ryot_metrics
from ryot_metrics import InferenceContext, client
from ryot_metrics._ryot_metrics import Isolated

DROPPED = "ryot_metrics_dropped_total"

# A call, and the samples that it leaves.
CALLS = [
    (
        ("update_gpu_metrics", "m", 0, 6.0, 8.0, 91),
        {
            'ryot_gpu_memory_usage_bytes{device_id="0",memory_type="used",model="m"}': 6,
            'ryot_gpu_memory_usage_bytes{device_id="0",memory_type="peak",model="m"}': 6,
            'ryot_gpu_memory_reserved_bytes{device_id="0",model="m"}': 8,
            'ryot_gpu_utilization_percent{device_id="0",kernel_type="all",model="m"}': 91,
            'ryot_memory_efficiency_ratio{device_id="0",model="m"}': 0.75,
        },
    ),
    (
        ("update_gpu_memory", "m", "GPU-1", "kv_cache", 1024),
        {'ryot_gpu_memory_usage_bytes{device_id="GPU-1",memory_type="kv_cache",model="m"}': 1024},
    ),
    (
        ("update_gpu_memory_percentage", "m", 0, 62.4, 8),
        {'ryot_gpu_memory_percentage{batch_size="5-8",device_id="0",model="m"}': 62.4},
    ),
    (
        ("update_gpu_utilization", "m", 0, 80, "attention"),
        {'ryot_gpu_utilization_percent{device_id="0",kernel_type="attention",model="m"}': 80},
    ),
    (
        ("record_inference_error", "m", "oom"),
        {'ryot_inference_errors_total{error_type="oom",model="m",severity="critical"}': 1},
    ),
    (
        ("record_inference_error", "m", "RuntimeError"),
        {
            'ryot_inference_errors_total{error_type="inference_error",model="m",'
            'severity="critical"}': 1
        },
    ),
    (("record_retry", "m"), {'ryot_inference_retries_total{model="m"}': 1}),
    (
        ("update_queue_metrics", "m", 12),
        {
            'ryot_queue_depth{model="m",priority_level="normal"}': 12,
            'ryot_inference_queue_size{model="m"}': 12,
        },
    ),
    (
        ("record_queue_wait", "m", 0.25),
        {'ryot_inference_queue_wait_seconds_sum{model="m"}': 0.25},
    ),
    (
        ("update_token_throughput", "m", 120),
        {
            'ryot_tokens_per_second{model="m"}': 120,
            'ryot_average_tokens_per_minute{model="m"}': 7200,
        },
    ),
    (
        ("record_batch_processed", "m", 8),
        {
            'ryot_batch_size_distribution_sum{model="m"}': 8,
            'ryot_batches_processed_total{model="m"}': 1,
        },
    ),
    (
        ("record_model_load_time", "m", 12.5),
        {
            'ryot_model_loading_time_seconds_sum{load_type="cold_start",model="m"}': 12.5,
            'ryot_model_loading_duration_seconds{model="m"}': 12.5,
            'ryot_model_load_attempts_total{load_type="cold_start",model="m",result="success"}': 1,
            'ryot_model_load_attempts_total{load_type="cold_start",model="m",result="failed"}': 0,
        },
    ),
    (
        ("record_model_load_attempt", "m", "partial", "warm_start"),
        {'ryot_model_load_attempts_total{load_type="warm_start",model="m",result="partial"}': 1},
    ),
    (
        ("record_startup_phase", "warmup", 3),
        {'ryot_initialization_startup_time_seconds_sum{startup_phase="warmup"}': 3},
    ),
    (
        ("update_cache_metrics", "m", 0.87),
        {
            'ryot_kv_cache_hit_ratio{model="m"}': 0.87,
            'ryot_model_cache_hit_ratio{model="m"}': 0.87,
        },
    ),
    (
        ("record_kv_cache_lookup", "m", 200, 150, "batch"),
        {
            'ryot_kv_cache_queries_total{context_type="batch",model="m"}': 200,
            'ryot_kv_cache_hits_total{context_type="batch",model="m"}': 150,
            'ryot_kv_cache_hit_ratio{context_type="batch",model="m"}': 0.75,
            'ryot_model_cache_hit_ratio{model="m"}': 0.75,
        },
    ),
    (
        ("update_kv_cache_usage", "m", 0.4),
        {'ryot_kv_cache_usage_ratio{model="m"}': 0.4},
    ),
    (
        ("record_inference_error", "m", "model_not_found"),
        {
            'ryot_inference_errors_total{error_type="model_not_found",model="m",'
            'severity="warning"}': 1
        },
    ),
    (
        ("update_kv_cache_size", "m", 1 << 20, 2048, 1),
        {'ryot_kv_cache_size_bytes{batch_size="1",context_length="2048",model="m"}': 1 << 20},
    ),
    (
        ("record_cache_eviction", "m", "memory_pressure"),
        {'ryot_model_cache_evictions_total{eviction_reason="memory_pressure",model="m"}': 1},
    ),
    (
        ("record_prompt_reuse", "m", "text"),
        {'ryot_prompt_cache_effectiveness_count{context_reuse_window="24h",model="m"}': 1},
    ),
    (
        ("record_prompt_reuse", "m", [1, 2, 3]),
        {'ryot_prompt_cache_effectiveness_count{context_reuse_window="7d",model="m"}': 1},
    ),
]
NAMES = sorted({call[0] for call, _ in CALLS} | {"set_model_dtype"})


@pytest.fixture
def own():
    """A registry with the catalogue, and its clock, in the place of the process's."""
    registry = client.CollectorRegistry()
    isolated = Isolated(registry)
    isolated.enter()
    yield registry, isolated
    isolated.leave()


def page(registry):
    """The samples of the page by their text."""
    lines = client.generate_latest(registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


@pytest.mark.parametrize(("call", "samples"), CALLS)
def test_a_call_leaves_its_samples(own, call, samples):
    """Each function writes the families that it names, with their labels, and drops nothing."""
    name, *arguments = call
    assert getattr(ryot_metrics, name)(*arguments) is None
    found = page(own[0])
    assert {key: found.get(key) for key in samples} == samples
    assert DROPPED not in "".join(found)


@pytest.mark.parametrize("name", NAMES)
def test_every_import_path_has_the_same_function(name):
    """`ryot_metrics`, `ryot.monitoring` and `ryot.monitoring.metrics` give one object."""
    function = getattr(ryot_metrics, name)
    for module in ("ryot.monitoring", "ryot.monitoring.metrics"):
        assert getattr(importlib.import_module(module), name) is function
        assert name in importlib.import_module(module).__all__
    assert "Args:\n    model: The label" in function.__doc__ or name == "record_startup_phase"


@pytest.mark.parametrize("odd", [math.nan, math.inf, -1, None, "many", object(), 10**400])
@pytest.mark.parametrize(("call", "_"), [case for case in CALLS if len(case[0]) > 2])
def test_an_odd_number_never_raises(own, call, _, odd):
    """Where a number belongs, anything else is dropped and counted, or is a text for a label."""
    name, *arguments = call
    for index, argument in enumerate(arguments):
        if isinstance(argument, (int, float)):
            odd_arguments = [*arguments[:index], odd, *arguments[index + 1 :]]
            getattr(ryot_metrics, name)(*odd_arguments)
    for value in page(own[0]).values():
        assert math.isfinite(value)


def test_dropped_samples_are_counted(own):
    """An odd number and an unknown word count once each, and leave nothing else."""
    ryot_metrics.record_queue_wait("m", -1)
    ryot_metrics.record_queue_wait("m", None)
    ryot_metrics.record_cache_eviction("m", "mood")
    ryot_metrics.record_prompt_reuse("m", object())
    ryot_metrics.set_model_dtype("m", "int3")
    found = page(own[0])
    assert found.pop('ryot_metrics_dropped_total{reason="invalid_value"}') == 5
    assert set(found) <= {"ryot_metrics_series", "ryot_metrics_scrape_seconds"}


def test_counted_tokens_take_the_place_of_a_reported_rate(own):
    """Of one model, a reported and a counted rate are never on the page together."""
    registry, isolated = own
    ryot_metrics.update_token_throughput("m", 999)
    with InferenceContext("m", batch_size=2) as context:
        isolated.advance(10_000_000_000)
        context.add_tokens(50)
    rates = {key: value for key, value in page(registry).items() if "tokens_per_second{" in key}
    windows = ("1m", "5m", "15m")
    keys = [f'{{batch_size="2-4",model="m",time_window="{window}"}}' for window in windows]
    assert rates == {f"ryot_tokens_per_second{key}": 5 for key in keys}
    assert page(registry)['ryot_average_tokens_per_minute{model="m"}'] == 300


def test_efficiency_has_the_model_s_type(own):
    """`set_model_dtype` labels the rate per percent of GPU memory."""
    registry, isolated = own
    ryot_metrics.set_model_dtype("m", "bfloat16")
    ryot_metrics.update_gpu_memory_percentage("m", 0, 50)
    with InferenceContext("m") as context:
        isolated.advance(10_000_000_000)
        context.add_tokens(1000)
    assert page(registry)['ryot_token_efficiency_ratio{dtype="bfloat16",model="m"}'] == 2


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (("record_batch_processed", "m", 2.5), '2.5 of "m" is not a whole number from 1'),
        (("update_queue_metrics", "m", 0.5), '0.5 of "m" is not a whole number from 0'),
        (("record_kv_cache_lookup", "m", 9.5, 1), '9.5 of "m" is not a whole number from 0'),
        (("record_kv_cache_lookup", "m", 2, 3), 'hits of "m" are 3, which is not a whole'),
        (("update_kv_cache_size", "m", 10, 512.5), '512.5 of "m" is not a whole number from 0'),
        (("update_gpu_memory_percentage", "m", 0, 50, -1), '-1 of "m" is not a whole number'),
        (("update_kv_cache_usage", "m", 1.5), '1.5 of "m" is not a number from 0 to 1'),
        (("record_queue_wait", "m", "soon"), 'NaN of "m" is not a number from 0'),
        (("record_cache_eviction", "m", "mood"), 'eviction_reason is "mood"; it must be one of'),
        (("set_model_dtype", "m", "int3"), 'dtype is "int3"; it must be one of float32'),
        (("record_prompt_reuse", "m", [2.5]), 'the prompt of "m" is neither text nor whole'),
    ],
)
def test_the_log_says_what_was_dropped(own, caplog, call, why):
    """The page that counts it logs family, value and limit, once in ten minutes; nothing else."""
    registry, isolated = own
    name, *arguments = call
    for _ in range(3):
        getattr(ryot_metrics, name)(*arguments)
    found = page(registry)
    assert found.pop('ryot_metrics_dropped_total{reason="invalid_value"}') == 3
    assert set(found) <= {"ryot_metrics_series", "ryot_metrics_scrape_seconds"}
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("ryot_")
    assert f": 3 dropped (invalid_value), the first because {why}" in line
    getattr(ryot_metrics, name)(*arguments)
    page(registry)
    assert len(caplog.records) == 1
    isolated.advance(600_000_000_000)
    page(registry)
    assert len(caplog.records) == 2


def test_the_log_names_a_number_of_tokens_that_is_none(own, caplog):
    """What a context was told, and by which method."""
    with InferenceContext("m") as context:
        context.add_tokens(2.5)
    page(own[0])
    assert "ryot_tokens_generated_total: 1 dropped (invalid_value)" in caplog.text
    assert 'add_tokens of "m" is 2.5, which is no number of tokens' in caplog.text
