"""Random programs of metric operations give the same pages in both packages."""

import prometheus_client
from hypothesis import given, settings
from hypothesis import strategies as st

from ryot_metrics import client
from test_client import undated

TEXT = st.text(max_size=8)
NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**53) - 1, 2**53 + 1)
NAMES = st.sampled_from(["a", "b", "c_total", "d_seconds", "né.x"])
KINDS = st.sampled_from(["Counter", "Gauge", "Summary", "Histogram", "Info", "Enum"])


@st.composite
def operations(draw):
    """A kind of metric, its labels, and what is done with it."""
    kind = draw(KINDS)
    labels = draw(st.lists(st.sampled_from(["x", "y", "zz"]), unique=True, max_size=2))
    values = st.tuples(*[TEXT for _ in labels])
    value = {
        "Counter": st.tuples(st.just("inc"), NUMBERS),
        "Gauge": st.tuples(st.sampled_from(["inc", "dec", "set"]), NUMBERS),
        "Summary": st.tuples(st.just("observe"), NUMBERS),
        "Histogram": st.tuples(st.just("observe"), NUMBERS),
        "Info": st.tuples(st.just("info"), st.dictionaries(st.sampled_from("pq"), TEXT)),
        "Enum": st.tuples(st.just("state"), st.sampled_from(["on", "off", "lost"])),
    }[kind]
    calls = draw(st.lists(st.tuples(values, value), max_size=6))
    return kind, draw(NAMES), draw(TEXT), labels, calls


def run(module, program):
    """The page in both formats, and the errors on the way."""
    registry = module.CollectorRegistry()
    errors = []
    for kind, name, help_text, labels, calls in program:
        extra = {"states": ["on", "off"]} if kind == "Enum" else {}
        try:
            metric = getattr(module, kind)(name, help_text, labels, registry=registry, **extra)
        except ValueError:
            errors.append((name, "ValueError"))
            continue
        for values, (method, argument) in calls:
            try:
                child = metric.labels(*values) if labels else metric
                getattr(child, method)(argument)
            except ValueError:
                errors.append((name, method))
    pages = [module.generate_latest(registry).decode()]
    encoder, _ = module.exposition.choose_encoder("application/openmetrics-text;version=1.0.0")
    pages.append(encoder(registry).decode())
    return [sorted(undated(page).splitlines()) for page in pages], errors


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(operations(), max_size=4))
def test_random_programs_have_the_same_pages(program):
    """Same errors, same lines, in text and OpenMetrics."""
    assert run(client, program) == run(prometheus_client, program)
