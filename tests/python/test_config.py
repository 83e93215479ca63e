"""Each setting, by its effect on a real page; from code and from the environment."""

import os
import re
import subprocess
import sys

import pytest

from ryot_metrics import InferenceContext, cli, client, configure
from ryot_metrics.client import REGISTRY
from ryot_metrics.config import Settings, settings
from ryot_metrics.gpu import stop_watching_gpus, watch_gpus
from ryot_metrics.testing import isolated


@pytest.fixture(autouse=True)
def defaults():
    """Afterwards, all settings are as they were, but for buckets of written families."""
    yield
    configure(**{name: None for name, *_ in settings().table() if name != "buckets"})


def page(profile=None):
    registry = REGISTRY if profile is None else REGISTRY.with_profile(profile)
    return client.generate_latest(registry).decode()


def request(model, tokens=0):
    with InferenceContext(model) as context:
        context.set_ttft(0.02)
        for _ in range(tokens):
            context.record_inter_token_latency(0.02)


def value(name, **labels):
    return REGISTRY.get_sample_value(name, labels)


def run(code, **environment):
    """The output of a program of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_default_profile():
    """Pages that ask for no profile have the configured one."""
    request("configured")
    configure(profile="vllm")
    assert "vllm:e2e_request_latency_seconds_count" in page()
    assert "ryot_inference_requests_total" in page("ryot")
    configure(profile=None)
    assert "vllm:" not in page()


def test_views():
    """Views leave the page and come back, with what happened meanwhile."""
    request("viewed")
    assert "ryot_inference_ttft_seconds" in page()
    configure(views=False)
    request("viewed")
    assert "ryot_inference_ttft_seconds" not in page()
    configure(views=True)
    assert value("ryot_inference_ttft_seconds_count", model="viewed") == 2


def test_a_family_that_is_off():
    """It is on no page of any profile, and not recorded until it is on again."""
    name = "ryot_ttft_latency_seconds"
    request("off")
    configure(disabled=[name])
    request("off")
    for profile in ("ryot", "vllm", "otel"):
        shown = page(profile)
        for text in (name, "inference_ttft", "time_to_first_token"):
            assert text not in shown
    configure(disabled=None)
    assert value(f"{name}_count", model="off") == 1


def test_families_by_pattern_counters_and_derived_names():
    """A pattern names several; names with the suffix of their type, and of profiles, count too."""
    request("patterned")
    configure(disabled=["ryot_inference_*", "vllm:e2e_request_latency_seconds"])
    assert "ryot_inference_" not in page()
    assert "vllm:e2e_request_latency_seconds" not in page("vllm")
    assert "vllm:time_to_first_token_seconds" in page("vllm")
    configure(disabled=["ryot_inference_requests_total"])
    assert "ryot_inference_requests_total" not in page()


def test_a_gauge_that_is_off_keeps_count():
    """Requests that begin while it is off and end while it is on leave it at 0."""
    labels = {"model": "balanced", "request_type": "standard"}
    configure(disabled=["ryot_active_inference_requests"])
    with InferenceContext("balanced"):
        assert "ryot_active_inference_requests" not in page()
        configure(disabled=None)
        assert value("ryot_active_inference_requests", **labels) == 1
    assert value("ryot_active_inference_requests", **labels) == 0


def test_sampling_records_every_nth_observation():
    """Of 1,000 observations, 100 are in count, buckets and sum alike; the mean stays."""
    name = "ryot_inference_inter_token_latency_seconds"
    configure(sampling={name: 10})
    request("sampled", tokens=1000)
    count = value(f"{name}_count", model="sampled")
    assert count == 100
    assert value(f"{name}_bucket", model="sampled", le="+Inf") == count
    assert value(f"{name}_sum", model="sampled") == pytest.approx(0.02 * count)
    configure(sampling=None)
    request("sampled", tokens=5)
    assert value(f"{name}_count", model="sampled") == 105


def test_windows_of_the_rates():
    """Each window chosen has a gauge of its own, over its own time; the others are gone."""
    configure(windows=["30s", "10m"])
    with isolated() as metrics:
        with InferenceContext("rolling") as context:
            context.set_token_count(600)
        metrics.clock.advance(seconds=20)
        name, labels = "ryot_tokens_per_second", {"model": "rolling"}
        samples = metrics.samples().samples[name]
        assert {dict(key)["time_window"] for key in samples} == {"30s", "10m"}
        metrics.assert_metric(name, {**labels, "time_window": "30s"}, value=30)
        metrics.clock.advance(seconds=100)
        metrics.assert_metric(name, {**labels, "time_window": "30s"}, value=0)
        metrics.assert_metric(name, {**labels, "time_window": "10m"}, value=5)
    with InferenceContext("rolling") as context:
        context.add_tokens(1)
    assert 'time_window="10m"' in page()
    with pytest.raises(ValueError, match=r'windows has "1h", but .* kept for 900s; .* before'):
        configure(windows=["1m", "1h"])


def test_the_operation_of_opentelemetry():
    """`gen_ai_operation_name` is the service's own word, on the page of `otel` alone."""
    request("operating")
    assert 'gen_ai_operation_name="inference"' in page("otel")
    configure(operation_name="chat")
    assert 'gen_ai_operation_name="inference"' not in page("otel")
    labels = 'gen_ai_operation_name="chat",gen_ai_provider_name="ryot",'
    assert f'{labels}gen_ai_request_model="operating"' in page("otel")
    assert "chat" not in page("vllm")


def test_gpu_functions_change_the_settings():
    """Whoever looks at the settings sees what `watch_gpus` and `stop_watching_gpus` chose."""
    assert (settings().gpu, settings().gpu_interval) == (True, 5.0)
    stop_watching_gpus()
    assert settings().gpu is False
    configure(gpu_interval=60)
    watch_gpus()
    assert (settings().gpu, settings().gpu_interval) == (True, 60)
    watch_gpus(interval=7.5)
    assert settings().gpu_interval == 7.5
    assert settings().sources["gpu"] == "configure"


def test_constant_labels():
    """They are on every sample of the registry, the user's own included, from now on."""
    mine = client.Gauge("config_test_depth", "Mine.")
    try:
        configure(labels={"zone": "a", "env": "prod"})
        assert 'config_test_depth{env="prod",zone="a"} 0.0' in page()
        samples = [line for line in page().splitlines() if line.startswith("ryot_")]
        assert samples
        assert all('zone="a"' in line for line in samples)
        with pytest.raises(ValueError, match=r"Label model of .* is a label of the registry"):
            configure(labels={"model": "a"})
        assert settings().labels == {"zone": "a", "env": "prod"}
        configure(labels=None)
        assert "config_test_depth 0.0" in page()
    finally:
        REGISTRY.unregister(mine)


def test_the_limit_of_series():
    """New label sets past the limit share one child, which the count of drops tells."""
    code = """
from ryot_metrics import InferenceContext, configure
from ryot_metrics.client import REGISTRY
configure(series_limit=2)
for model in "abcd":
    with InferenceContext(model):
        pass
name = "ryot_inference_latency_seconds_count"
print(REGISTRY.get_sample_value(name, {
    "model": "__overflow__", "batch_size": "other", "generation_mode": "other"}))
print(REGISTRY.get_sample_value("ryot_metrics_dropped_total", {"reason": "cardinality"}) > 0)
"""
    shown, logged = run(code)
    assert shown.split() == ["2.0", "True"]
    assert "ryot_inference_latency_seconds: 2 dropped (cardinality), the first because" in logged
    assert "series_limit is 2 and it has as many" in logged


BUCKETS = """
from ryot_metrics import InferenceContext, configure, client
from ryot_metrics.client import REGISTRY
name = "ryot_ttft_latency_seconds"
configure(buckets={name: BUCKETS})
for seconds in (0.05, 0.3, 7):
    with InferenceContext("m") as context:
        context.set_ttft(seconds)
for registry, name in ((REGISTRY, name), (REGISTRY, "ryot_inference_ttft_seconds"),
                       (REGISTRY.with_profile("vllm"), "vllm:time_to_first_token_seconds")):
    page = client.generate_latest(registry).decode()
    lines = [line for line in page.splitlines() if line.startswith(f"{name}_bucket")]
    print(len(lines), lines[-1].split()[-1])
try:
    configure(buckets={"ryot_ttft_latency_seconds": [1, 2]})
except ValueError as error:
    print(error)
print(b"ryot_ttft_latency_seconds" in client.encoding.generate_protobuf(REGISTRY))
"""


@pytest.mark.parametrize(
    ("buckets", "shown"), [("[0.1, 0.2, 0.4]", "4 3.0"), ("'native'", "1 3.0"), ("1.5", "1 3.0")]
)
def test_buckets_of_a_family(buckets, shown):
    """Its own page has them; views and profiles keep theirs; a later change is refused."""
    own, view, vllm, error, _ = run(BUCKETS.replace("BUCKETS", buckets))[0].splitlines()
    assert (own, view, vllm) == (shown, "10 3.0", "23 3.0")
    assert error == (
        "buckets of ryot_ttft_latency_seconds cannot change after its first observation; "
        "configure them before it"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile": "tgi"}, 'profile is "tgi"; it must be one of ryot, vllm, otel'),
        ({"disabled": ["ryot_typo"]}, 'disabled names "ryot_typo"; no family'),
        ({"disabled": ["typo_*"]}, "disabled names 'typo_\\*'; no family"),
        ({"sampling": {"ryot_queue_depth": 2}}, "a gauge; only histograms"),
        ({"sampling": {"ryot_typo": 2}}, 'sampling names "ryot_typo"'),
        ({"sampling": {"ryot_tokens_per_request": 0}}, "is 0; it must be 1 to 1000000"),
        ({"buckets": {"ryot_tokens_per_request": [2, 1]}}, "Buckets not in sorted order"),
        ({"buckets": {"ryot_tokens_per_request": range(201)}}, "the limit is 200"),
        ({"buckets": {"ryot_tokens_per_request": 1.0}}, "must be above 1, not 1"),
        ({"buckets": {"ryot_tokens_per_request": "big"}}, "'big'; they must be bounds"),
        ({"labels": {"le": "a"}}, "le"),
        ({"sampling": {"ryot_tokens_per_request": -1}}, "is -1; it must be 1 to 1000000"),
        ({"series_limit": -1}, "series_limit is -1; it must be 1 to 10000000"),
        ({"series_limit": 0}, "series_limit is 0; it must be 1 to 10000000"),
        ({"windows": []}, "windows has 0 of them; it must have 1 to 8"),
        ({"windows": ["7s"]}, 'windows has "7s"; each must be a multiple of 5s, .* 3600s at most'),
        ({"windows": ["-5m"]}, 'windows has "-5m"; each'),
        ({"windows": ["2h"]}, 'windows has "2h"; each'),
        ({"windows": ["1m", "60s"]}, 'windows has "1m" and "60s": one length'),
        ({"operation_name": ""}, 'operation_name is "", of 0 characters; it must have 1 to 64'),
        ({"gpu_interval": 0}, "gpu_interval is 0 s; it must be above 0, 3600 at most"),
        ({"gpu_interval": float("nan")}, "gpu_interval is NaN s"),
    ],
)
def test_a_bad_value_changes_nothing(changes, message):
    """The error names setting, value and limit; the settings are as before."""
    before = settings()
    with pytest.raises(ValueError, match=message):
        configure(views=False, **changes)
    assert settings() == before
    request("unchanged")
    assert "ryot_inference_ttft_seconds" in page()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("profile", 3, "the name of a profile"),
        ("views", 1, "True or False"),
        ("disabled", "ryot_gpu_*", "a list of names"),
        ("disabled", [3], "a list of names"),
        ("sampling", 3, "a mapping from histograms to whole numbers"),
        ("sampling", {"ryot_tokens_per_request": 2.5}, "a mapping from histograms to whole"),
        ("buckets", [1, 2], "a mapping from histograms to bounds or 'native'"),
        ("buckets", {"ryot_tokens_per_request": ["1"]}, "a mapping from histograms to bounds"),
        ("windows", "1m", "a list of windows such as '5m'"),
        ("operation_name", b"chat", "a text"),
        ("labels", ["zone"], "a mapping from labels to values"),
        ("series_limit", 1.5, "a whole number"),
        ("series_limit", True, "a whole number"),
        ("gpu", "yes", "True or False"),
        ("gpu_interval", "1", "a number of seconds"),
    ],
)
def test_a_wrong_type_changes_nothing(name, value, expected):
    """The error names setting, value and type."""
    before = settings()
    with pytest.raises(TypeError, match=re.escape(f"{name} is {value!r}; it must be {expected}")):
        configure(**{name: value})
    assert settings() == before


def test_an_unknown_setting_is_a_type_error():
    """As of any function."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        configure(colour="red")


def test_an_unknown_variable_is_a_warning():
    """It is named, with the one that was meant; variables of other parts are known."""
    wrong = {"RYOT_METRICS_SERIES_LIMITS": "5", "RYOT_METRICS_CACHE": "/models"}
    shown, warnings = run("import ryot_metrics; print('imported')", **wrong)
    assert shown == "imported\n"
    assert warnings.splitlines() == [
        "RYOT_METRICS_SERIES_LIMITS is no setting and is ignored; "
        "the nearest is RYOT_METRICS_SERIES_LIMIT"
    ]


ENVIRONMENT = {
    "RYOT_METRICS_PROFILE": "otel",
    "RYOT_METRICS_VIEWS": "off",
    "RYOT_METRICS_DISABLED": "ryot_queue_depth,ryot_gpu_*",
    "RYOT_METRICS_SAMPLING": "ryot_batch_size_distribution=10",
    "RYOT_METRICS_BUCKETS": "ryot_ttft_latency_seconds=0.1 0.5;ryot_tokens_per_request=native",
    "RYOT_METRICS_WINDOWS": "30s,1h",
    "RYOT_METRICS_OPERATION_NAME": "chat",
    "RYOT_METRICS_LABELS": "zone=a,env=prod",
    "RYOT_METRICS_SERIES_LIMIT": "500",
    "RYOT_METRICS_GPU": "off",
    "RYOT_METRICS_GPU_INTERVAL": "0.5",
}


def test_the_environment():
    """Each variable is read when the package is imported, and its table says so."""
    code = "from ryot_metrics.config import *; print(settings()); print(settings().table())"
    shown, warnings = run(code, **ENVIRONMENT)
    expected = Settings(
        profile="otel",
        views=False,
        disabled=["ryot_queue_depth", "ryot_gpu_*"],
        sampling={"ryot_batch_size_distribution": 10},
        buckets={"ryot_ttft_latency_seconds": [0.1, 0.5], "ryot_tokens_per_request": "native"},
        windows=["30s", "1h"],
        operation_name="chat",
        labels={"zone": "a", "env": "prod"},
        series_limit=500,
        gpu=False,
        gpu_interval=0.5,
        sources=dict.fromkeys(
            [name.removeprefix("RYOT_METRICS_").lower() for name in ENVIRONMENT], "environment"
        ),
    )
    assert warnings == ""
    found, table = shown.splitlines()
    assert found == repr(expected)
    for variable, text in ENVIRONMENT.items():
        assert f"{text!r}, " in table
        assert f"{variable!r}, 'environment'" in table


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PROFILE", "tgi"),
        ("VIEWS", "perhaps"),
        ("DISABLED", "ryot_typo"),
        ("SAMPLING", "ryot_batch_size_distribution"),
        ("BUCKETS", "ryot_ttft_latency_seconds=1 x"),
        ("LABELS", "zone"),
        ("SERIES_LIMIT", "many"),
        ("SERIES_LIMIT", "-1"),
        ("WINDOWS", "1m,soon"),
        ("GPU", "perhaps"),
        ("GPU_INTERVAL", "-1"),
    ],
)
def test_a_malformed_variable_is_a_warning(name, text):
    """Import works, even with warnings as errors; the log names variable and value."""
    code = "import warnings; warnings.simplefilter('error')\nimport ryot_metrics.config as c\n"
    code += "print(c.settings() == c.Settings())"
    shown, warnings = run(code, **{f"RYOT_METRICS_{name}": text})
    assert shown == "True\n"
    assert f"RYOT_METRICS_{name} is {text!r} and is ignored" in warnings


def test_the_command_prints_the_settings(capsys):
    """`ryot-metrics config`: value, default, variable and origin of each setting."""
    configure(series_limit=7)
    assert cli.main(["config"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["setting", "value", "default", "variable", "from"]
    assert len(rows) == 16
    assert rows[8].split() == [
        *("series_limit", "7", "10000", "RYOT_METRICS_SERIES_LIMIT", "configure")
    ]
    assert rows[12].split() == ["gpu", "on", "on", "RYOT_METRICS_GPU", "default"]
    assert rows[5].split()[1] == "1m,5m,15m"
