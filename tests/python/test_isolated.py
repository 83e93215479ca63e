"""A recorder and a clock of a test's own, in the place of the process's."""

import pytest

from ryot_metrics import Engine, InferenceContext, SamplingParams, client, configure
from ryot_metrics._ryot_metrics import Isolated

REQUESTS = "ryot_inference_requests_total"
LATENCY = "ryot_inference_latency_seconds_sum"


@pytest.fixture
def own():
    """A registry, and its stand-in for the process's recorder."""
    registry = client.CollectorRegistry()
    isolated = Isolated(registry)
    isolated.enter()
    yield registry, isolated
    isolated.leave()


def total(registry, name, **labels):
    samples = (sample for family in registry.collect() for sample in family.samples)
    fitting = (it for it in samples if it.name == name and labels.items() <= it.labels.items())
    return sum(sample.value for sample in fitting)


def test_time_is_the_manual_clocks(own):
    """A request lasts as long as the clock is moved, to the nanosecond."""
    registry, isolated = own
    with InferenceContext("own"):
        isolated.advance(7)
    assert isolated.now == 7
    assert total(registry, LATENCY, model="own") == 7e-9
    assert total(client.REGISTRY, REQUESTS, model="own") == 0


def test_it_has_the_settings_of_the_process():
    """Families that are off and constant labels; neither sampling nor another profile's names."""
    sampling = {"ryot_inference_latency_seconds": 1000}
    labels = {"zone": "a"}
    off = ["ryot_active_inference_requests"]
    configure(disabled=off, labels=labels, sampling=sampling, profile="vllm", series_limit=1)
    try:
        registry = client.CollectorRegistry()
        isolated = Isolated(registry)
    finally:
        configure(disabled=None, labels=None, sampling=None, profile=None, series_limit=None)
    isolated.enter()
    try:
        for model in ("one", "two"):
            with InferenceContext(model):
                pass
    finally:
        isolated.leave()
    page = client.generate_latest(registry).decode()
    assert "ryot_active_inference_requests" not in page
    assert total(registry, "ryot_inference_latency_seconds_count", zone="a") == 2
    assert total(registry, "ryot_inference_latency_seconds_count", model="__overflow__") == 1


def test_what_has_begun_stays(own):
    """A request that is open when the stand-in goes ends in the registry where it began."""
    registry, isolated = own
    with InferenceContext("stays"):
        isolated.advance(1_000_000_000)
        isolated.leave()
    assert total(registry, LATENCY, model="stays") == 1
    assert total(client.REGISTRY, REQUESTS, model="stays") == 0
    with InferenceContext("usual"):
        pass
    assert total(client.REGISTRY, REQUESTS, model="usual") == 1


def test_engine_made_inside_counts_inside(own):
    """An engine records where it was made, by that clock; inside a context it counts once."""
    registry, _ = own
    with Engine("toy", name="inner") as engine, InferenceContext("outside"):
        engine.generate("hello", SamplingParams(max_tokens=3))
    assert total(registry, REQUESTS, status="success") == 1
    assert total(registry, "ryot_tokens_generated_total", token_type="completion") == 3
    assert total(registry, LATENCY) == 0
    assert total(client.REGISTRY, REQUESTS, model="outside") == 0


def test_stand_ins_nest_in_any_order(own):
    """The last one that came and has not left counts."""
    registry, outer = own
    second = client.CollectorRegistry()
    inner = Isolated(second)
    inner.enter()
    outer.leave()
    with InferenceContext("second"):
        pass
    inner.leave()
    inner.leave()
    assert total(second, REQUESTS, model="second") == 1
    assert total(registry, REQUESTS) == 0


def test_registry_with_the_catalogues_names(own):
    """A registry that has the catalogue is refused."""
    with pytest.raises(ValueError, match="ryot_"):
        Isolated(own[0])
