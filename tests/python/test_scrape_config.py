"""Scrape configurations: Prometheus's own linter and a YAML parser read them."""

import subprocess
import sys

import pytest
import yaml

from ryot_metrics import cli
from ryot_metrics.observability import Target, scrape_config
from test_prometheus import binary


@pytest.fixture
def printed(capsys):
    """A function that gives the data that `ryot-metrics scrape-config` prints."""

    def run(*arguments):
        assert cli.main(["scrape-config", *arguments]) == 0
        return yaml.safe_load(capsys.readouterr().out)

    return run


def test_promtool_accepts_the_configuration(tmp_path):
    """`promtool check config` finds nothing, and the section says what was asked."""
    path = tmp_path / "prometheus.yml"
    options = ["--target", "[::1]:9000", "--path", "/m", "--interval", "1m30s"]
    command = ["scrape-config", "prometheus", *options, "--profile", "vllm", "-o", str(path)]
    assert cli.main(command) == 0
    done = subprocess.run(
        [binary("promtool"), "check", "config", path], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = yaml.safe_load(path.read_text())["scrape_configs"]
    assert job == {
        "job_name": "ryot",
        "scrape_interval": "1m30s",
        "metrics_path": "/m",
        "params": {"profile": ["vllm"]},
        "static_configs": [{"targets": ["[::1]:9000"]}],
    }


def test_native_histograms_are_hinted_at(capsys):
    """The configuration says how to have native histograms, in comments."""
    assert cli.main(["scrape-config", "prometheus"]) == 0
    assert "# " in (shown := capsys.readouterr().out)
    assert "scrape_native_histograms" in shown


def test_annotations_are_strings(printed):
    """Kubernetes takes strings alone; the default profile is not named."""
    annotations = printed("kubernetes", "--target", "x:8000")["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8000",
        "prometheus.io/path": "/metrics",
    }
    annotations = printed("kubernetes", "--profile", "otel")["metadata"]["annotations"]
    assert annotations["prometheus.io/param_profile"] == "otel"


def test_a_pod_monitor_selects_the_service_s_pods(printed):
    """The resource has the operator's fields, the port as a number and the profile as a list."""
    monitor = printed("podmonitor", "--name", "chat", "--target", "x:8001")
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["metadata"]["name"] == "chat"
    assert monitor["spec"]["selector"] == {"matchLabels": {"app": "chat"}}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint == {"portNumber": 8001, "path": "/metrics", "interval": "15s"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target", "localhost"),
        ("target", "localhost:0"),
        ("target", "localhost:65536"),
        ("target", "http://localhost:8000"),
        ("path", "metrics"),
        ("path", "/metrics?profile=vllm"),
        ("interval", "15"),
        ("interval", ""),
        ("interval", "0s"),
        ("profile", "statsd"),
        ("name", "My Service"),
    ],
)
def test_bad_values_are_named(field, value):
    """The error names the field and the value."""
    with pytest.raises(ValueError, match=field) as error:
        Target(**{field: value})
    assert repr(value) in str(error.value)


def test_annotations_carry_no_interval(capsys):
    """An interval that would be lost is an error."""
    assert cli.main(["scrape-config", "kubernetes", "--interval", "5s"]) == 2
    assert "annotations carry no interval (5s)" in capsys.readouterr().err


def test_an_unknown_kind_is_refused():
    """The error names what there is."""
    with pytest.raises(ValueError, match="one of prometheus, kubernetes, podmonitor, not 'helm'"):
        scrape_config("helm")


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch, capsys):
    """Without PyYAML, the commands that write YAML name the extra; the others work."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert cli.main(["rules"]) == 2
    assert 'YAML needs yaml: pip install "ryot-metrics[ops]"' in capsys.readouterr().err
    assert cli.main(["dashboard", "fleet"]) == 0
