"""Profiles: the same events under the names, labels and buckets of vLLM and of OpenTelemetry."""

import json
import subprocess
import urllib.error
import urllib.request
from collections import defaultdict

import httpx
import prometheus_client
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ryot_metrics import (
    Engine,
    EngineConfig,
    InferenceContext,
    SamplingParams,
    client,
    instrument,
    mount_metrics,
    record_kv_cache_lookup,
    track_inference_request,
    update_kv_cache_usage,
)
from ryot_metrics.client import REGISTRY
from ryot_metrics.scrape import serve_metrics
from ryot_metrics.testing import isolated
from test_prometheus import binary, scraping, wait_for

TTFT = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
INTER_TOKEN = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5]
LATENCY = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920]
LATENCY = [*LATENCY, 7680]
TOKENS = [digit * 10**power for power in range(6) for digit in (1, 2, 5)] + [10**6]
FOUND = 2 * 8
"""Prompt tokens that the engine's prefix cache has for two prompts of 11: whole blocks of 8."""
FINISHED = {"stop": 1, "length": 3, "error": 1, "abort": 0}
VLLM_LABELS = {"model_name", "engine"}
OTEL_LABELS = {"gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"}

VLLM = {
    "vllm:num_requests_running": ("gauge", []),
    "vllm:num_requests_waiting": ("gauge", []),
    "vllm:kv_cache_usage_perc": ("gauge", []),
    "vllm:cache_config_info": ("gauge", []),
    "vllm:num_preemptions": ("counter", []),
    "vllm:prompt_tokens": ("counter", []),
    "vllm:generation_tokens": ("counter", []),
    "vllm:request_success": ("counter", []),
    "vllm:prefix_cache_queries": ("counter", []),
    "vllm:prefix_cache_hits": ("counter", []),
    "vllm:time_to_first_token_seconds": ("histogram", [*TTFT, 20, 40, 80, 160, 640, 2560]),
    "vllm:inter_token_latency_seconds": ("histogram", [*INTER_TOKEN, 5, 7.5, 10, 20, 40, 80]),
    "vllm:e2e_request_latency_seconds": ("histogram", LATENCY),
    "vllm:request_queue_time_seconds": ("histogram", LATENCY),
    "vllm:request_prefill_time_seconds": ("histogram", LATENCY),
    "vllm:request_decode_time_seconds": ("histogram", LATENCY),
    "vllm:request_inference_time_seconds": ("histogram", LATENCY),
    "vllm:iteration_tokens_total": ("histogram", [1, *(2**power for power in range(3, 15))]),
    "vllm:request_prompt_tokens": ("histogram", TOKENS),
    "vllm:request_generation_tokens": ("histogram", TOKENS),
}
OTEL = {
    "gen_ai_server_request_duration_seconds": (
        "histogram",
        [0.01 * 2**power for power in range(14)],
    ),
    "gen_ai_server_time_to_first_token_seconds": ("histogram", TTFT),
    "gen_ai_server_time_per_output_token_seconds": ("histogram", INTER_TOKEN),
    "gen_ai_client_token_usage": ("histogram", [4**power for power in range(14)]),
}
SAME = {
    "vllm:time_to_first_token_seconds": "ryot_ttft_latency_seconds",
    "vllm:inter_token_latency_seconds": "ryot_inference_inter_token_latency_seconds",
    "vllm:e2e_request_latency_seconds": "ryot_inference_latency_seconds",
    "vllm:request_queue_time_seconds": "ryot_inference_queue_wait_seconds",
    "vllm:request_prefill_time_seconds": "ryot_request_prefill_seconds",
    "vllm:request_decode_time_seconds": "ryot_request_decode_seconds",
    "vllm:request_inference_time_seconds": "ryot_request_inference_seconds",
    "vllm:iteration_tokens_total": "ryot_engine_batch_tokens",
    "vllm:request_prompt_tokens": "ryot_prompt_tokens_per_request",
    "vllm:request_generation_tokens": "ryot_tokens_per_request",
    "gen_ai_server_request_duration_seconds": "ryot_inference_latency_seconds",
    "gen_ai_server_time_to_first_token_seconds": "ryot_ttft_latency_seconds",
    "gen_ai_server_time_per_output_token_seconds": "ryot_inference_inter_token_latency_seconds",
}


@pytest.fixture(scope="module", autouse=True)
def requests():
    """An engine's requests, a queued one of a context, and one that failed."""
    with Engine("toy", name="profiled") as engine:
        for tokens in (1, 3, 70):
            list(engine.stream("hello world", SamplingParams(max_tokens=tokens)))
    with pytest.raises(ZeroDivisionError), InferenceContext("profiled") as context:
        context.queued()
        context.scheduled()
        raise ZeroDivisionError
    with InferenceContext("profiled") as context:
        context.set_ttft(1234.5)
    record_kv_cache_lookup("profiled", queries=100, hits=87)
    record_kv_cache_lookup("profiled", queries=20, hits=3, context_type="batch")


def families(profile, parse=parse_text, encode=client.generate_latest):
    page = encode(REGISTRY.with_profile(profile)).decode()
    return {family.name: family for family in parse(page)}


def bounds(family):
    found = [s.labels["le"] for s in family.samples if s.name.endswith("_bucket")]
    return [float(bound) for bound in dict.fromkeys(found)][:-1]


@pytest.mark.parametrize(("profile", "expected"), [("vllm", VLLM), ("otel", OTEL)])
def test_names_types_and_buckets_are_theirs(profile, expected):
    """The page has each family of the golden table, with its type and its buckets."""
    found = families(profile)
    for name, (kind, buckets) in expected.items():
        assert found[name].type == kind, name
        assert bounds(found[name]) == pytest.approx(buckets), name


@pytest.mark.parametrize(
    ("profile", "expected", "labels"), [("vllm", VLLM, VLLM_LABELS), ("otel", OTEL, OTEL_LABELS)]
)
def test_strict_parsers_read_the_pages(profile, expected, labels):
    """`prometheus_client`'s OpenMetrics parser takes the page, and all labels are theirs."""
    found = families(profile, parse_openmetrics, client.generate_openmetrics)
    for name in expected:
        added = {"le", "finished_reason", "gen_ai_token_type", "block_size", "num_gpu_blocks"}
        added |= {"error_type"}
        for sample in found[name].samples:
            assert set(sample.labels) - added == labels


@pytest.mark.parametrize("profile", ["ryot", "vllm", "otel"])
def test_a_histogram_s_count_is_that_of_its_last_bucket(profile):
    """In every profile, buckets ascend and the last is the count."""
    checked = 0
    for family in families(profile).values():
        if family.type != "histogram":
            continue
        buckets, counts = defaultdict(list), {}
        for sample in family.samples:
            key = frozenset((k, v) for k, v in sample.labels.items() if k != "le")
            if sample.name.endswith("_bucket"):
                buckets[key].append(sample.value)
            elif sample.name.endswith("_count"):
                counts[key] = sample.value
        for key, values in buckets.items():
            assert values == sorted(values)
            assert values[-1] == counts[key]
            checked += 1
    assert checked > 3


@pytest.mark.parametrize("name", SAME)
def test_sums_are_those_of_the_ryot_page(name):
    """Count and sum agree with the catalogue's family, and so does each bound both have."""
    profile = "vllm" if name.startswith("vllm") else "otel"
    theirs, ours = families(profile)[name], families("ryot")[SAME[name]]

    def total(family, suffix, le=None):
        return sum(
            sample.value
            for sample in family.samples
            if sample.name == family.name + suffix
            and (le is None or float(sample.labels["le"]) == le)
        )

    assert total(theirs, "_count") == total(ours, "_count") > 0
    assert total(theirs, "_sum") == pytest.approx(total(ours, "_sum"))
    for bound in set(bounds(theirs)) & set(bounds(ours)):
        assert total(theirs, "_bucket", bound) == total(ours, "_bucket", bound)


def test_the_ryot_page_has_the_catalogue_s_buckets_alone():
    """What is stored for other profiles does not show."""
    found = bounds(families("ryot")["ryot_ttft_latency_seconds"])
    assert found == [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]


def test_tokens_and_outcomes():
    """Prompt and completion tokens, and how requests ended, in vLLM's words."""
    found = families("vllm")

    def value(name, **labels):
        labels = {"model_name": "profiled", "engine": "0", **labels}
        return sum(s.value for s in found[name].samples if labels.items() <= s.labels.items())

    assert value("vllm:generation_tokens") == 74
    assert value("vllm:prompt_tokens") == 3 * 11
    for reason, count in FINISHED.items():
        assert value("vllm:request_success", finished_reason=reason) == count, reason
    # What was reported, and the engine's own lookups: two prompts began as the first did.
    assert value("vllm:prefix_cache_queries") == 120 + 3 * 11
    assert value("vllm:prefix_cache_hits") == 90 + FOUND


def value(profile, name, **labels):
    return REGISTRY.with_profile(profile).get_sample_value(name, labels)


def test_durations_have_the_type_of_their_error():
    """OpenTelemetry's `error.type` is on the failed ones alone, and the sums are those of all."""
    name, labels = (
        "gen_ai_server_request_duration_seconds_count",
        {
            "gen_ai_operation_name": "inference",
            "gen_ai_provider_name": "ryot",
            "gen_ai_request_model": "profiled",
        },
    )
    assert value("otel", name, **labels) == 4
    assert value("otel", name, **labels, error_type="inference_error") == 1
    page = client.generate_latest(REGISTRY).decode()
    lines = [line for line in page.splitlines() if line.startswith("ryot_inference_latency")]
    assert lines
    assert not [line for line in lines if "error_type" in line]


CUT_OFF = {"finish_reason": "length", "message": {"content": "x"}}
WHOLE = {"finish_reason": "stop", "message": {"content": "x"}}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"choices": [WHOLE]}, "stop"),
        ({"choices": [WHOLE, CUT_OFF]}, "length"),
        ({"stop_reason": "max_tokens"}, "length"),
        ({"stop_reason": "end_turn"}, "stop"),
        ({"incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"incomplete_details": {"reason": "content_filter"}}, "stop"),
        ("plain text", "stop"),
        (iter([{"choices": [{"delta": {"content": "x"}}]}, {"choices": [CUT_OFF]}]), "length"),
        (iter([{"choices": [CUT_OFF]}, {"choices": [], "usage": {"prompt_tokens": 1}}]), "length"),
    ],
)
def test_an_answer_tells_why_it_ended(answer, reason):
    """A decorated function's result, or a stream's chunk, in the words of the vendors' APIs."""
    with isolated() as metrics:
        result = track_inference_request(model="m")(lambda: answer)()
        if hasattr(result, "__next__"):
            list(result)
        page = metrics.registry.with_profile("vllm")
        labels = {"model_name": "m", "engine": "0"}
        name = "vllm:request_success_total"
        ended = {"stop": 0, "length": 0} | {reason: 1}
        for each, count in ended.items():
            assert page.get_sample_value(name, labels | {"finished_reason": each}) == count
        labels = {"model": "m", "status": "success"}
        assert metrics.registry.get_sample_value("ryot_inference_requests_total", labels) == 1


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_an_instrumented_client_reads_why_an_answer_ended(reason, streamed):
    """The reason is found in the bytes that pass, of a whole answer and of events."""
    text = {"content": "x"}
    answer = json.dumps({"choices": [{"finish_reason": reason, "message": text, "delta": text}]})
    kind = "text/event-stream" if streamed else "application/json"
    body = f"data: {answer}\n\ndata: [DONE]\n\n" if streamed else answer
    transport = httpx.MockTransport(
        lambda request: httpx.Response(200, text=body, headers={"content-type": kind})
    )
    with isolated() as metrics:
        with instrument.httpx(httpx.Client(transport=transport)) as service:
            service.post("http://llm/v1/chat/completions", json={"model": "m", "stream": streamed})
        page = metrics.registry.with_profile("vllm")
        labels = {"model_name": "m", "engine": "0"}
        for each, count in ({"stop": 0, "length": 0} | {reason: 1}).items():
            found = labels | {"finished_reason": each}
            assert page.get_sample_value("vllm:request_success_total", found) == count


def test_a_block_says_why_it_ended():
    """`set_finish_reason` takes what a catalogue knows; the last word counts."""
    with isolated() as metrics:
        for reasons in (["length"], ["length", "stop"], []):
            with InferenceContext(model="m") as context:
                for reason in reasons:
                    context.set_finish_reason(reason)
        with pytest.raises(ValueError, match='reason is "eos"; it must be one of stop, length'):
            context.set_finish_reason("eos")
        page = metrics.registry.with_profile("vllm")
        labels = {"model_name": "m", "engine": "0", "finished_reason": "length"}
        assert page.get_sample_value("vllm:request_success_total", labels) == 1


def test_the_parts_of_a_request_and_the_steps():
    """Prefill and decode add up to inference; a step has its tokens of prompts and of answers."""
    labels = {"model_name": "profiled", "engine": "0"}

    def total(part, suffix="sum"):
        return value("vllm", f"vllm:request_{part}_{suffix}", **labels)

    assert total("inference_time_seconds", "count") == 3
    parts = total("prefill_time_seconds") + total("decode_time_seconds")
    assert total("inference_time_seconds") == pytest.approx(parts)
    assert total("prompt_tokens") == 3 * 11
    steps = value("vllm", "vllm:iteration_tokens_total_sum", **labels)
    assert steps == 3 * 11 - FOUND + 0 + 2 + 69


def test_token_usage_has_both_types():
    """OpenTelemetry's histogram of tokens, by `gen_ai_token_type`."""
    labels = {
        "gen_ai_operation_name": "inference",
        "gen_ai_provider_name": "ryot",
        "gen_ai_request_model": "profiled",
    }
    name = "gen_ai_client_token_usage"
    for token_type, count, tokens in (("input", 3, 33), ("output", 3, 74)):
        labels["gen_ai_token_type"] = token_type
        assert value("otel", f"{name}_count", **labels) == count
        assert value("otel", f"{name}_sum", **labels) == tokens


def test_the_kv_cache_of_an_engine():
    """How full it is, while a request runs and after it; how large, and in which blocks."""
    labels = {"model_name": "celled", "engine": "0"}
    usage = "vllm:kv_cache_usage_perc"
    with Engine("toy", EngineConfig(ctx_size=1000), name="celled") as engine:
        assert value("vllm", usage, **labels) == 0
        blocks = {"block_size": "1", "num_gpu_blocks": "1000"}
        assert value("vllm", "vllm:cache_config_info", **labels, **blocks) == 1
        assert value("vllm", "vllm:num_preemptions_total", **labels) == 0
        for count, _ in enumerate(engine.stream("hello", SamplingParams(max_tokens=8)), 1):
            if count == 4:
                assert 0.008 <= value("vllm", usage, **labels) <= 0.02
    assert value("vllm", usage, **labels) == 0


def test_the_kv_cache_of_another_engine():
    """A service reports it; a ratio above 1 is none."""
    update_kv_cache_usage("theirs", 0.625)
    update_kv_cache_usage("theirs", 62.5)
    labels = {"model_name": "theirs", "engine": "0"}
    assert value("vllm", "vllm:kv_cache_usage_perc", **labels) == 0.625
    assert value("ryot", "ryot_kv_cache_usage_ratio", model="theirs") == 0.625


def test_running_and_waiting_requests():
    """A queued request waits, a scheduled one runs: the gauges that GIE asks for."""

    def gauges():
        page = families("vllm")
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        labels = {"model_name": "gauged", "engine": "0"}
        return [s.value for name in names for s in page[name].samples if s.labels == labels]

    with InferenceContext("gauged") as context:
        assert gauges() in ([1], [1, 0])
        context.queued()
        assert gauges() == [0, 1]
        context.scheduled()
        assert gauges() == [1, 0]
    assert gauges() == [0, 0]


def test_other_families_stay_on_the_page():
    """What is not of language models is on the page of every profile, the catalogue's is not."""
    mine = client.Counter("profile_test_jobs", "Mine.")
    try:
        for profile in ("vllm", "otel"):
            found = families(profile)
            assert "profile_test_jobs" in found
            assert "python_info" in found
            assert not [name for name in found if name.startswith("ryot_inference")]
    finally:
        REGISTRY.unregister(mine)


def test_a_family_of_one_s_own_under_such_a_name_wins():
    """Who exposes `gen_ai_*` already keeps it; the page has the name once."""
    mine = client.Gauge("gen_ai_client_token_usage", "Mine.")
    try:
        page = client.generate_latest(REGISTRY.with_profile("otel")).decode()
        assert page.count("# TYPE gen_ai_client_token_usage") == 1
        assert "# TYPE gen_ai_client_token_usage gauge" in page
    finally:
        REGISTRY.unregister(mine)


def test_promtool_has_nothing_against_the_otel_page():
    """The linter accepts the names; vLLM's have colons, which it refuses in anybody's page."""
    page = client.generate_latest(REGISTRY.with_profile("otel"))
    command = [binary("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=page, capture_output=True, check=False)
    complaints = [line for line in done.stdout.splitlines() if line.startswith(b"gen_ai")]
    assert (complaints, done.stderr) == ([], b"")
    page = client.generate_latest(REGISTRY.with_profile("vllm"))
    done = subprocess.run(command, input=page, capture_output=True, check=False)
    found = done.stdout.splitlines() + done.stderr.splitlines()
    complaints = [line for line in found if line.startswith(b"vllm")]
    assert complaints
    assert all(b"':'" in line or b"_total" in line for line in complaints), complaints


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def wsgi(query):
    answers = []
    environ = {"REQUEST_METHOD": "GET", "QUERY_STRING": query}
    app = client.make_wsgi_app(REGISTRY)
    body = b"".join(app(environ, lambda status, _: answers.append(int(status.split()[0]))))
    return answers[0], body.decode()


def asgi(query):
    app = FastAPI()
    mount_metrics(app)
    answer = TestClient(app).get(f"/metrics?{query}")
    return answer.status_code, answer.text


def native(query):
    with serve_metrics(0) as server:
        return get(f"{server.url}?{query}")


@pytest.mark.parametrize("ask", [wsgi, asgi, native])
def test_the_query_chooses_the_profile(ask):
    """`?profile=` of every server; with `name[]`, a part of it; an unknown one is a 400."""
    status, page = ask("profile=vllm")
    assert (status, "vllm:generation_tokens_total{" in page) == (200, True)
    assert "ryot_inference_requests" not in page
    status, page = ask("profile=vllm&name[]=vllm:generation_tokens_total")
    assert {line.split("{")[0] for line in page.splitlines() if line[0] != "#"} == {
        "vllm:generation_tokens_total"
    }
    status, page = ask("profile=tgi")
    assert status == 400
    for part in ("tgi", "ryot, vllm, otel"):
        assert part in page


def test_mounted_and_served_pages_have_a_profile_of_their_own():
    """`profile=` of a page is its default, and its query still chooses."""
    app = FastAPI()
    mount_metrics(app, "/vllm", profile="vllm")
    test = TestClient(app)
    assert "vllm:generation_tokens_total" in test.get("/vllm").text
    assert "ryot_tokens_generated_total" in test.get("/vllm?profile=ryot").text
    with serve_metrics(0, profile="otel") as server:
        assert "gen_ai_server_request_duration_seconds" in get(server.url)[1]
        assert "ryot_tokens_generated_total" in get(f"{server.url}?profile=ryot")[1]
    with pytest.raises(ValueError, match="profile is 'tgi'; it must be one of ryot, vllm, otel"):
        mount_metrics(app, profile="tgi")
    with pytest.raises(ValueError, match="profile is 'tgi'"):
        serve_metrics(0, profile="tgi")


@pytest.mark.parametrize(
    "registry", [client.CollectorRegistry(), prometheus_client.CollectorRegistry()]
)
def test_a_registry_without_the_catalogue_has_no_profiles(registry):
    """Asking for one is an error that says so."""
    with pytest.raises(ValueError, match="this registry has none"):
        mount_metrics(FastAPI(), registry=registry, profile="vllm")


def test_prometheus_scrapes_a_profile(tmp_path, live_server):
    """With `params: {profile: [vllm]}`, a real Prometheus answers a vLLM dashboard's query."""
    body = b'{"prompt": "hello", "max_tokens": 3}'
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{live_server}/v1/completions", body, headers)
    urllib.request.urlopen(request, timeout=10).close()
    target = live_server.removeprefix("http://")
    with scraping(tmp_path, target, params={"profile": ["vllm"]}) as prometheus:
        assert wait_for(prometheus, 'vllm:generation_tokens_total{model_name="toy"}') >= 3
        assert wait_for(prometheus, 'vllm:num_requests_waiting{model_name="toy"}') == 0
        assert wait_for(prometheus, 'vllm:kv_cache_usage_perc{model_name="toy"}') == 0
        assert wait_for(prometheus, 'vllm:cache_config_info{block_size="1"}') == 1
        assert wait_for(prometheus, "vllm:time_to_first_token_seconds_count") >= 1
