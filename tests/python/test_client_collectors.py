"""The collectors of process, platform and garbage, beside those of `prometheus_client`."""

import operator
import os
import types

import prometheus_client
import pytest

from ryot_metrics import client
from ryot_metrics.client.collectors import register_default_collectors


@pytest.fixture
def proc(tmp_path):
    """A `/proc` that stands still."""
    (tmp_path / "stat").write_text("cpu 1 2\nbtime 1700000000\n")
    folder = tmp_path / "7"
    (folder / "fd").mkdir(parents=True)
    for name in "012":
        (folder / "fd" / name).touch()
    fields = " ".join(str(number) for number in range(3, 53))
    (folder / "stat").write_text(f"7 (a ) b) S {fields}\n")
    (folder / "limits").write_text(
        "Limit                     Soft Limit           Hard Limit           Units\n"
        "Max open files            1024                 4096                 files\n"
    )
    return tmp_path


def facts(families):
    head = operator.attrgetter("name", "documentation", "type", "unit")
    return sorted((head(family), list(map(tuple, family.samples))) for family in families)


@pytest.mark.parametrize("options", [{}, {"namespace": "job"}])
def test_a_process_is_told_of_as_in_prometheus_client(proc, options):
    """Names, helps and numbers of the same `/proc` are the same."""
    ours, theirs = (
        module.ProcessCollector(pid=lambda: " 7\n", proc=str(proc), registry=None, **options)
        for module in (client, prometheus_client)
    )
    assert facts(ours.collect()) == facts(theirs.collect())
    assert len(facts(ours.collect())) == 6


def test_what_cannot_be_read_is_left_out(proc, tmp_path):
    """No `/proc`, no process, no right to look at its files: the rest is there."""
    assert not list(client.ProcessCollector(proc=str(tmp_path / "nothing")).collect())
    assert not list(client.ProcessCollector(pid=lambda: 8, proc=str(proc)).collect())
    (proc / "7" / "limits").unlink()
    families = client.ProcessCollector(pid=lambda: 7, proc=str(proc)).collect()
    assert "process_cpu_seconds" in {family.name for family in families}


def test_files_without_a_limit_have_an_infinite_one(proc):
    """`unlimited` is a number."""
    limits = proc / "7" / "limits"
    limits.write_text(limits.read_text().replace("1024", "unlimited"))
    families = client.ProcessCollector(pid=lambda: 7, proc=str(proc)).collect()
    values = {family.name: family.samples[0].value for family in families}
    assert values["process_max_fds"] == float("inf")


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux's /proc")
def test_this_process_is_told_of():
    """The default instance reads the true `/proc`."""
    values = {f.name: f.samples[0].value for f in client.PROCESS_COLLECTOR.collect()}
    assert values["process_resident_memory_bytes"] > 1_000_000
    assert values["process_open_fds"] <= values["process_max_fds"]


def platform(system):
    return types.SimpleNamespace(
        python_version_tuple=lambda: ("3", "9", "1rc1"),
        python_version=lambda: "3.9.1rc1",
        python_implementation=lambda: "Jython",
        system=lambda: system,
        java_ver=lambda: ("11", "vendor", ("VM", "11.0", "Someone"), ("Linux", "5", "amd64")),
    )


@pytest.mark.parametrize("given", [None, "Linux", "Java"])
def test_the_platform_is_told_of_as_in_prometheus_client(given):
    """The true platform, another one and a virtual machine of Java."""
    options = {"platform": platform(given)} if given else {}
    ours, theirs = (
        module.PlatformCollector(registry=None, **options) for module in (client, prometheus_client)
    )
    assert facts(ours.collect()) == facts(theirs.collect())


def test_garbage_is_told_of_as_in_prometheus_client(monkeypatch):
    """The same families, with a series for each generation."""
    statistics = [{"collections": n, "collected": 10 * n, "uncollectable": 1} for n in (5, 6, 7)]
    monkeypatch.setattr("gc.get_stats", lambda: statistics)
    ours, theirs = client.GC_COLLECTOR, prometheus_client.GC_COLLECTOR
    assert facts(ours.collect()) == facts(theirs.collect())


def test_the_default_collectors_register_in_any_registry():
    """All three, in one call; their classes take a registry too."""
    registered = []
    registry = types.SimpleNamespace(register=registered.append)
    register_default_collectors(registry)
    assert registered == [client.PROCESS_COLLECTOR, client.PLATFORM_COLLECTOR, client.GC_COLLECTOR]
    made = [
        client.ProcessCollector(registry=registry),
        client.PlatformCollector(registry=registry),
        client.GCCollector(registry=registry),
    ]
    assert registered[3:] == made
