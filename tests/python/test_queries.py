"""Queries, recording rules and dashboards run on a real Prometheus with a day of history."""

import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from history import END, write_history
from ryot_metrics import (
    Engine,
    InferenceContext,
    SamplingParams,
    catalogue,
    cli,
    client,
    record_model_load_time,
)
from ryot_metrics.observability import QUERIES, dashboard, promql
from ryot_metrics.observability.dashboard import DASHBOARDS
from ryot_metrics.observability.queries import COLD
from ryot_metrics.observability.recording import RECORDINGS
from test_prometheus import binary, scraping

DAY = 86_400
FAST, SLOW = (0.01, 0.025), (10, 30)

# What each query must give: how many results, and between which values they lie.
EXPECTED = {
    "p95 latency (target: < 500 ms)": (2, 0.01, 30),
    "p99 latency (target: < 2.5 s)": (2, 0.01, 30),
    "Success rate in percent (target: > 99.9)": (2, 90, 100),
    "Errors per second by model and type": (4, 0, 0.05),
    "Tokens per second by model": (4, 20, 80),
    "GPU memory in percent": (4, 40, 62.5),
    "Batch sizes in use": (6, 0, 2),
    "Growth of the queue per second": (2, 0.03, 0.03),
    "p95 TTFT": (2, 0.005, 2.5),
    "p95 time from token to token": (2, 0.001, 0.5),
    "Cold model loads in an hour, by time": (18, 0, 3600),
    "KV cache hit ratio": (2, 0.125, 0.75),
    "Dollars in 24 hours by type of token": (2, 5.184, 82.944),
    "Dollars in 24 hours by model": (2, 44.064, 44.064),
    "Dollars per request": (2, 0.00017, 0.00034),
    "Models with more than 1% errors": (1, 1 / 15, 1 / 15),
    "Models with a p95 latency above 2.5 s": (1, 10, 30),
    "The fullest GPUs": (4, 40, 62.5),
    "Mean batch size": (2, 4, 32),
    "Slowest models": (2, 0.01, 30),
    "Tokens per second": (2, 100, 100),
    "Median TTFT": (2, 0.005, 2.5),
    "Used share of reserved GPU memory": (4, 0.75, 0.75),
}


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """A function that gives the result of PromQL at the end of the history."""
    binary("promtool")
    folder = tmp_path_factory.mktemp("history")
    write_history(folder / "history.om", folder / "data")
    keep = "--storage.tsdb.retention.time=100y"
    with scraping(folder, "127.0.0.1:1", keep) as address:

        def ask(expression):
            asked = urllib.parse.urlencode({"query": expression, "time": END})
            try:
                with urllib.request.urlopen(f"{address}/api/v1/query?{asked}") as response:
                    return json.load(response)["data"]["result"]
            except urllib.error.HTTPError as refused:
                pytest.fail(f"{expression}: {json.load(refused)['error']}")

        _wait(f"{address}/-/ready")
        yield ask


def _wait(url):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("Prometheus is not ready after a minute")


def values(result):
    return [float(each["value"][1]) for each in result]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.title)
def test_each_query_gives_a_sane_result(ask, query):
    """The number of results and their values are those that the history holds."""
    count, low, high = EXPECTED[query.title]
    found = values(ask(query.expr))
    assert len(found) == count
    assert low == pytest.approx(min(found), rel=0.02) or low < min(found)
    assert high == pytest.approx(max(found), rel=0.02) or high > max(found)


def test_every_query_has_an_expectation():
    """The table above is complete, and titles are unique."""
    assert sorted(EXPECTED) == sorted(query.title for query in QUERIES)


def test_queries_tell_the_models_apart(ask):
    """Quantiles and success are each model's own, and the cancelled are nobody's failure."""
    by_title = {query.title: query.expr for query in QUERIES}

    def by_model(title):
        return {each["metric"]["model"]: float(each["value"][1]) for each in ask(by_title[title])}

    p95 = by_model("p95 latency (target: < 500 ms)")
    assert FAST[0] < p95["fast"] <= FAST[1]
    assert SLOW[0] < p95["slow"] <= SLOW[1]
    success = by_model("Success rate in percent (target: > 99.9)")
    assert success == {"fast": pytest.approx(100), "slow": pytest.approx(90)}


@pytest.mark.parametrize("rule", RECORDINGS, ids=lambda rule: rule.record)
def test_each_recording_rule_has_a_result(ask, rule):
    """No recorded expression is empty where its families have samples."""
    found = values(ask(rule.expr))
    assert found
    assert all(value == value and value >= 0 for value in found)


def targets(which):
    return [
        (panel, target["expr"])
        for panel in dashboard(which)["panels"]
        for target in panel.get("targets", [])
    ]


@pytest.mark.parametrize("which", DASHBOARDS)
def test_each_panel_has_data(ask, which):
    """With Grafana's variables filled in, every expression has a result."""
    empty = []
    for panel, expression in targets(which):
        filled = re.sub(r"\$(model|instance|component|worker_id)\b", ".*", expression)
        filled = filled.replace("$__rate_interval", "1m")
        assert "$" not in filled
        if not ask(filled):
            empty.append((panel["title"], filled))
    assert empty == []


@pytest.mark.parametrize("which", DASHBOARDS)
def test_a_dashboard_is_well_formed(which, capsys):
    """The command prints JSON; ids are unique, panels lie on the grid and never on each other."""
    assert cli.main(["dashboard", which]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == dashboard(which)
    panels = shown["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    taken = set()
    for panel in panels:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        assert x >= 0
        assert x + w <= 24
        cells = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert not cells & taken, panel["title"]
        taken |= cells
    names = [variable["name"] for variable in shown["templating"]["list"]]
    assert names[0] == "datasource"
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"}
    assert used == set(names)


@pytest.mark.parametrize("which", DASHBOARDS)
def test_a_dashboard_names_families_that_exist(which):
    """Every `ryot_*` name is in the catalogue, with the labels that the legend shows."""
    rows = {name: family for family in catalogue.families() for name in family.samples}
    for panel, expression in targets(which):
        for name in promql.names(expression):
            assert name in rows, panel["title"]
            by = re.findall(r"by \(([^)]*)\)", expression)
            used = {label for labels in by for label in labels.split(", ")} - {"le", "instance"}
            assert used <= set(rows[name].labels), panel["title"]


def test_dashboards_show_what_the_design_measures():
    """The service's dashboard has panels for every part of a request's way."""
    shown = {name for _, expression in targets("service") for name in promql.names(expression)}
    bases = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    assert {
        "ryot_inference_requests_total",
        "ryot_inference_errors_total",
        "ryot_inference_latency_seconds",
        "ryot_ttft_latency_seconds",
        "ryot_inference_inter_token_latency_seconds",
        "ryot_inference_queue_wait_seconds",
        "ryot_tokens_generated_total",
        "ryot_queue_depth",
        "ryot_active_inference_requests",
        "ryot_batch_size_distribution",
        "ryot_kv_cache_size_bytes",
        "ryot_gpu_memory_usage_bytes",
        "ryot_gpu_utilization_percent",
        "ryot_token_cost_estimate_usd_total",
        "ryot_model_loading_time_seconds",
    } <= bases


def test_the_engine_s_dashboard_begins_with_what_it_promises():
    """Sections by hand for queue, promises and prefix cache; the rest has what they leave out."""
    panels = dashboard("engine")["panels"]
    sections = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert sections == ["Scheduling", "Queue", "Promises", "Prefix cache", "Engine"]
    by_title = {panel["title"]: panel for panel in panels if panel["type"] != "row"}
    assert "class" in by_title["Waiting by class"]["targets"][0]["expr"]
    assert "slo, class" in by_title["Late tokens per second"]["targets"][0]["expr"]
    found = by_title["Prompt tokens found"]
    assert found["fieldConfig"]["defaults"]["unit"] == "percentunit"
    assert "hits_total" in found["targets"][0]["expr"].split(" / ")[0]
    assert "Idle ratio" in by_title
    assert not {"Slo violations", "Queued sessions", "Prefix cache hits"} & set(by_title)


def test_label_values_are_those_of_a_real_page():
    """What rules and queries match is what the package writes, not only what the history has."""
    model = "label values"
    with Engine("toy", name=model) as engine:
        engine.generate("x", SamplingParams(max_tokens=2))
    record_model_load_time(model, 1)  # a cold start; another test may have loaded the toy before
    for status, error in (("error", ValueError), ("timeout", TimeoutError)):
        with pytest.raises(error), InferenceContext(model=model):
            raise error(status)
    with pytest.raises(ValueError, match="broken"), InferenceContext(model=model) as context:
        context.token()
        raise ValueError("broken")
    with pytest.raises(KeyboardInterrupt), InferenceContext(model=model):
        raise KeyboardInterrupt
    page = client.generate_latest(client.REGISTRY).decode()
    lines = [line for line in page.splitlines() if f'model="{model}"' in line]
    matchers = re.findall(r'(\w+)!?=~?"([^"]*)"', " ".join([promql.FAILED, promql.NOT_CANCELLED]))
    matchers += re.findall(r'(\w+)="(\w+)"', f"{promql.COMPLETION} {COLD}")
    wanted = {f'{label}="{value}"' for label, both in matchers for value in both.split("|")}
    assert len(wanted) == 6
    assert {each for each in wanted if not any(each in line for line in lines)} == set()


def test_an_absent_family_is_left_out(monkeypatch):
    """A dashboard shows what the catalogue has: without the GPU's rows, it has no such panel."""
    rows = [row for row in catalogue.families() if "gpu" not in row.name]
    before = len(dashboard("service")["panels"])
    monkeypatch.setattr(catalogue, "families", lambda: rows)
    after = dashboard("service")["panels"]
    assert before - len(after) == 3
    assert "gpu" not in json.dumps(after)


def test_the_engine_s_own_families_have_panels(monkeypatch):
    """Each `ryot_engine_*` row becomes a panel, by its type and its labels."""
    rows = [
        catalogue.Family("ryot_engine_steps_total", "counter", ["model"], [], "S.", []),
        catalogue.Family("ryot_engine_decode_seconds", "histogram", ["model"], [1.0], "D.", []),
        catalogue.Family("ryot_engine_idle_ratio", "gauge", ["model"], [], "I.", []),
    ]
    monkeypatch.setattr(catalogue, "families", lambda: rows)
    panels = {panel["title"]: panel for panel in dashboard("engine")["panels"]}
    assert list(panels) == ["Engine", "Steps", "Decode seconds", "Idle ratio"]
    assert "rate(ryot_engine_steps_total{" in panels["Steps"]["targets"][0]["expr"]
    assert len(panels["Decode seconds"]["targets"]) == 3
    assert panels["Idle ratio"]["fieldConfig"]["defaults"]["unit"] == "percentunit"


def test_the_command_prints_every_query(capsys):
    """`ryot-metrics queries` has each with its title."""
    assert cli.main(["queries"]) == 0
    shown = capsys.readouterr().out
    for query in QUERIES:
        assert f"# {query.title}\n{query.expr}\n" in shown


def test_an_unknown_dashboard_is_refused():
    """The error names what there is."""
    with pytest.raises(ValueError, match="one of service, engine, pipeline, fleet, not 'sales'"):
        dashboard("sales")
