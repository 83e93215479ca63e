"""The examples in the native module's docstrings run; pytest finds those of the Python modules."""

import doctest

import pytest

from ryot_metrics import _ryot_metrics

EXAMPLES = {
    name: _ryot_metrics.__dict__[name].__doc__
    for name in _ryot_metrics.__all__
    if ">>>" in (getattr(_ryot_metrics.__dict__[name], "__doc__", None) or "")
}


def test_public_classes_have_examples():
    """Each class that a user constructs shows how."""
    public = {"CollectorRegistry", "Counter", "Gauge", "Histogram", "Info"}
    assert public | {"EngineConfig", "SamplingParams"} <= EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name):
    """What the example prints is what it says."""
    example = doctest.DocTestParser().get_doctest(EXAMPLES[name], {}, name, None, None)
    failures, tried = doctest.DocTestRunner().run(example)
    assert (failures, tried > 0) == (0, True)
