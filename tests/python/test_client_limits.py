"""What must hold where it is crowded: many children, many threads, other interpreters."""

import subprocess
import sys
import threading
from itertools import count

import prometheus_client
import pytest

from ryot_metrics import client
from ryot_metrics.client.registry import DuplicateTimeseries, RestrictedRegistry


def lines(registry):
    """The samples of a page, without comments."""
    page = client.generate_latest(registry).decode()
    return [line for line in page.splitlines() if not line.startswith("#")]


def test_a_million_children():
    """Each is on the page with its own value, and can be found and removed again."""
    registry = client.CollectorRegistry()
    gauge = client.Gauge("g", "", ["user", "zone"], registry=registry)
    for index in range(1_000_000):
        gauge.labels(str(index), "a").set(index)
    page = client.generate_latest(registry)
    assert page.count(b"\n") == 1_000_002
    assert b'\ng{user="765432",zone="a"} 765432.0\n' in page
    gauge.remove("765432", "a")
    assert registry.get_sample_value("g", {"user": "765432", "zone": "a"}) is None
    gauge.clear()
    assert lines(registry) == []


def test_children_come_and_go_while_pages_are_written():
    """Nothing is torn: each page can be parsed, and what stays has its exact count."""
    registry = client.CollectorRegistry()
    counter = client.Counter("c", "", ["kind", "id"], registry=registry)
    histogram = client.Histogram("h", "", ["id"], registry=registry)
    done = threading.Event()

    def churn(thread):
        for index in range(3_000):
            counter.labels("kept", str(thread)).inc()
            counter.labels("churned", str(index % 50)).inc()
            histogram.labels(str(index % 7)).observe(0.1)
            if index % 3 == 0:
                counter.remove("churned", str(index % 50))
                histogram.remove(str(index % 7))

    def scrape():
        while not done.is_set():
            page = client.generate_latest(registry).decode()
            families = prometheus_client.parser.text_string_to_metric_families(page)
            for family in families:
                for sample in family.samples:
                    counted[sample.name] = counted.get(sample.name, 0) + 1

    counted: dict[str, int] = {}
    writers = [threading.Thread(target=churn, args=(thread,)) for thread in range(4)]
    scraper = threading.Thread(target=scrape)
    for thread in (scraper, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    scraper.join()
    assert counted["c_total"] > 0
    for thread in range(4):
        labels = {"kind": "kept", "id": str(thread)}
        assert registry.get_sample_value("c_total", labels) == 3_000


def test_callbacks_may_use_the_registry_they_are_called_for():
    """No lock is held while Python is called: a callback can make children and families."""
    registry = client.CollectorRegistry()
    gauge = client.Gauge("g", "", ["x"], registry=registry)
    numbers = count()

    def function():
        number = str(next(numbers))
        gauge.labels(number).set(1)
        client.Gauge("made_" + number, "", registry=registry).set(2)
        client.generate_latest(registry)
        return 5.0

    class Collector:
        def collect(self):
            gauge.labels("collector").inc()
            gauge.remove("collector")
            return []

    registry.register(Collector())
    calls = threading.local()

    def once():
        """A page within the page would call for ever."""
        if getattr(calls, "inside", False):
            return 0.0
        calls.inside = True
        try:
            return function()
        finally:
            calls.inside = False

    gauge.labels("f").set_function(once)
    assert 'g{x="f"} 5.0' in lines(registry)
    assert registry.get_sample_value("made_0") == 2


def test_an_idle_child_leaves_the_page_and_is_forgotten():
    """One that is held comes back with its value; one that nobody holds begins anew."""
    registry = client.CollectorRegistry()
    client.disable_created_metrics()
    try:
        counter = client.Counter("c", "", ["x"], registry=registry, idle_ttl=1e-9)
        held = counter.labels("held")
        for index in range(200):
            counter.labels(str(index)).inc()
        held.inc()
        assert len(lines(registry)) == 201
        assert lines(registry) == []
        for index in range(200):  # when there are twice as many, the idle ones are looked for
            counter.labels(f"new {index}").inc()
        assert len(lines(registry)) == 200
        assert lines(registry) == []
        counter.labels("7").inc()
        held.inc()
        assert lines(registry) == ['c_total{x="held"} 2.0', 'c_total{x="7"} 1.0']
    finally:
        client.enable_created_metrics()


def test_the_created_series_can_be_switched_off_by_the_environment():
    """By the variable that prometheus_client reads."""
    script = (
        "from ryot_metrics import client\n"
        "registry = client.CollectorRegistry()\n"
        "client.Counter('c', '', registry=registry)\n"
        "print('created' in client.generate_latest(registry).decode())\n"
    )
    for value, expected in (("True", "False\n"), ("", "True\n")):
        environment = {"PROMETHEUS_DISABLE_CREATED_SERIES": value, "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-c", script]
        output = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert output.stdout == expected, output.stderr


def test_a_taken_name_says_which():
    """The exception is prometheus_client's."""
    registry = client.CollectorRegistry()
    client.Counter("c", "", registry=registry)
    with pytest.raises(DuplicateTimeseries, match="Duplicated timeseries") as caught:
        client.Gauge("c_total", "", registry=registry)
    assert isinstance(caught.value, ValueError)
    assert caught.value.duplicates == {"c_total"}


def test_a_restricted_registry_by_its_class_name():
    """As prometheus_client makes one."""
    registry = client.CollectorRegistry()
    client.Gauge("a", "", registry=registry)
    client.Gauge("b", "", registry=registry)
    assert lines(RestrictedRegistry(["b"], registry)) == ["b 0.0"]


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import sys

import ryot_metrics

path = f"import sys; sys.path[:] = {sys.path!r}; import ryot_metrics"
interpreter = interpreters.create()
try:
    failure = interpreters.run_string(interpreter, path)
    print(failure.formatted if failure else "imported")
except interpreters.RunFailedError as error:
    print(error)
"""


def test_a_subinterpreter_is_refused_in_one_sentence():
    """Metrics are the process's: a second interpreter would share cells it does not own."""
    command = [sys.executable, "-c", SUBINTERPRETER]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    output = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "subinterpreter" in output.stdout, output
    assert "ImportError" in output.stdout, output
    assert output.returncode == 0, output


def test_a_child_that_was_removed_is_not_given_again():
    """However often the same strings have found it before."""
    registry = client.CollectorRegistry()
    counter = client.Counter("c", "", ["x", "y"], registry=registry)
    client.disable_created_metrics()
    try:
        forget = [
            lambda: counter.remove("a", "b"),
            lambda: counter.remove_by_labels({"x": "a"}),
            counter.clear,
        ]
        for removal in forget:
            for _ in range(3):
                counter.labels("a", "b").inc()
                counter.labels(x="a", y="b").inc()
                counter.labels(y="b", x="a").inc()
            assert lines(registry) == ['c_total{x="a",y="b"} 9.0']
            removal()
            assert lines(registry) == []
    finally:
        client.enable_created_metrics()


def test_equal_texts_find_one_child_whatever_objects_they_are():
    """Strings made anew, and other objects with the same text."""
    gauge = client.Gauge("g", "", ["x"], registry=None)
    first = gauge.labels("12")
    assert all(gauge.labels("".join(["1", "2"])) is first for _ in range(20))
    assert all(gauge.labels(12) is first for _ in range(20))
    mutable = ["a"]
    before = gauge.labels(mutable)
    mutable.append("b")
    assert gauge.labels(mutable) is not before
    many = [gauge.labels(str(number)) for number in range(1000)]
    assert all(gauge.labels(str(number)) is child for number, child in enumerate(many))
