"""The rules: promtool reads them, and each alert fires when it should and only then."""

import re
import subprocess

import pytest
import yaml

from ryot_metrics import catalogue, cli
from ryot_metrics.observability import Thresholds, promql, rules
from ryot_metrics.observability.recording import RECORDINGS
from scenarios import BURNS, THRESHOLDS, burns, histogram, requests, unit_test
from test_prometheus import binary

ALL = [rule for group in rules()["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in ALL if "alert" in rule]


@pytest.fixture
def rule_file(tmp_path):
    """The file that `ryot-metrics rules` writes."""
    path = tmp_path / "rules.yml"
    assert cli.main(["rules", "-o", str(path)]) == 0
    return path


def promtool(*arguments):
    done = subprocess.run(
        [binary("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def run_tests(rule_file, test):
    path = rule_file.with_name("test.yml")
    path.write_text(yaml.safe_dump(test, sort_keys=False))
    return promtool("test", "rules", path)


def test_promtool_accepts_the_rules(rule_file):
    """`promtool check rules` finds every rule and nothing to say; the file is the data."""
    code, output = promtool("check", "rules", rule_file)
    assert code == 0, output
    assert f"SUCCESS: {len(ALL)} rules found" in output
    assert yaml.safe_load(rule_file.read_text()) == rules()


def test_every_alert_has_scenarios_of_both_kinds():
    """No alert is shipped without one scenario that fires and one that must not."""
    scenarios = [*THRESHOLDS, *(scenario for end in BURNS for scenario in burns(end))]
    for rule in ALERTS:
        found = [each for each in scenarios if re.fullmatch(each.alert, rule["alert"])]
        assert {each.fires for each in found} == {True, False}, rule["alert"]
    assert sum(bool(re.search("(Fast|Slow)Burn$", rule["alert"])) for rule in ALERTS) == 2 * 4


def test_alerts_on_thresholds_fire_and_stay_quiet(rule_file):
    """`promtool test rules` agrees with every scenario of half an hour."""
    code, output = run_tests(rule_file, unit_test(rule_file.name, THRESHOLDS))
    assert code == 0, output


@pytest.mark.parametrize("end", BURNS)
def test_burning_budgets_fire_and_stay_quiet(rule_file, end):
    """`promtool test rules` agrees with the scenarios of hours and days, for each objective."""
    groups = yaml.safe_load(rule_file.read_text())["groups"]
    for group in groups:  # the others only cost time
        group["rules"] = [rule for rule in group["rules"] if "slo" in rule.get("labels", {})]
    rule_file.write_text(yaml.safe_dump({"groups": groups}))
    code, output = run_tests(rule_file, unit_test(rule_file.name, burns(end)))
    assert code == 0, output


def test_a_wrong_expectation_is_noticed(rule_file):
    """Every scenario that is turned around is refused, so none of them is void."""
    turned = [scenario._replace(fires=not scenario.fires) for scenario in THRESHOLDS]
    code, output = run_tests(rule_file, unit_test(rule_file.name, turned))
    assert code == 1
    assert output.count("exp:") == len(turned)


def test_an_alert_waits_and_then_says_what_is_wrong(rule_file):
    """It is pending until `for` has passed; then labels and texts are as written."""
    rule = next(rule for rule in ALERTS if rule["alert"] == "RyotHighErrorRate")
    fired = {
        "exp_labels": {"severity": "warning", "component": "ryot", "model": "m"},
        "exp_annotations": {
            "summary": "Requests to m fail",
            "description": "20% of the requests failed in 5 minutes (limit: 0.05).",
            "runbook": rule["annotations"]["runbook"],
        },
    }
    test = unit_test(rule_file.name, THRESHOLDS[:1])
    test["tests"][0] = {
        "interval": "1m",
        "input_series": requests(success=80, error=20),
        "alert_rule_test": [
            {"alertname": rule["alert"], "eval_time": "5m", "exp_alerts": []},
            {"alertname": rule["alert"], "eval_time": "7m", "exp_alerts": [fired]},
        ],
    }
    code, output = run_tests(rule_file, test)
    assert code == 0, output


def test_alerts_say_what_to_do():
    """Each has a severity, a summary, a description and a place to look first."""
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        for text in rule["annotations"].values():
            assert len(text) > 15


def test_every_name_in_the_rules_exists():
    """Families are in the catalogue with the labels used, recorded series are recorded."""
    families = {name: row for row in catalogue.families() for name in row.samples}
    recorded = {rule["record"] for rule in ALL if "record" in rule}
    for rule in ALL:
        assert promql.names(rule["expr"]) <= families.keys()
        assert set(re.findall(r"ryot:[\w:]+", rule["expr"])) <= recorded
        for name, where in re.findall(r"\b(ryot_\w+)\{([^}]*)\}", rule["expr"]):
            used = set(re.findall(r"(\w+)[=!]", where))
            assert used <= {*families[name].labels, "le"}


def test_the_design_s_rules_are_there():
    """Recorded names are the design's, and its alerts and the module's have their successors."""
    assert {
        "ryot:tokens_per_second:rate1m",
        "ryot:error_rate:rate5m",
        "ryot:inference_latency:p95:5m",
        "ryot:batch_size:avg:5m",
        "ryot:gpu_efficiency:ratio",
        "ryot:tokens_total",
        "ryot_token_cost_estimate_usd",
    } <= {rule.record for rule in RECORDINGS}
    assert {
        "RyotHighErrorRate",
        "RyotHighLatency",
        "RyotGPUMemoryPressure",
        "RyotLowTokenThroughput",
        "RyotQueueBacklog",
    } <= {rule["alert"] for rule in ALERTS}


def test_a_threshold_changes_what_fires(tmp_path):
    """With `--set`, 4% errors are too many, and the text says the new limit."""
    path = tmp_path / "rules.yml"
    assert cli.main(["rules", "--set", "error_ratio=0.03", "-o", str(path)]) == 0
    assert "(limit: 0.03)" in " ".join(path.read_text().split())
    loud = [s._replace(fires=True) for s in THRESHOLDS if s.says == "4% fail"]
    code, output = run_tests(path, unit_test(path.name, loud))
    assert (len(loud), code) == (1, 0), output


def test_an_objective_of_a_whole_second_reads_both_spellings(tmp_path):
    """A bound of 1 s is found as `le="1"` and as `le="1.0"`."""
    path = tmp_path / "rules.yml"
    assert cli.main(["rules", "--set", "slo_ttft_p95_seconds=1", "-o", str(path)]) == 0
    for bound in ("1", "1.0"):
        data = histogram("ryot_ttft_latency_seconds", {bound: 60, "+Inf": 100})
        bad = 'round(ryot:slo_bad:ratio_rate5m{slo="ttft_p95"}, 0.001)'
        sample = {"labels": '{model="m", slo="ttft_p95"}', "value": 0.4}
        check = {"expr": bad, "eval_time": "20m", "exp_samples": [sample]}
        test = {"interval": "1m", "input_series": data, "promql_expr_test": [check]}
        code, output = run_tests(path, {"rule_files": [path.name], "tests": [test]})
        assert code == 0, output


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("nonsense=1", "no threshold 'nonsense'"),
        ("error_ratio", "'error_ratio' is not NAME=NUMBER"),
        ("error_ratio=many", "'error_ratio=many' is not NAME=NUMBER"),
        ("error_ratio=5", "error_ratio must be between 0 and 1, not 5"),
        ("queue_depth=-1", "queue_depth must be positive and finite, not -1"),
        ("ttft_seconds=nan", "ttft_seconds must be positive and finite, not nan"),
        ("slo_latency_p95_seconds=0.6", "must be a bound of ryot_inference_latency_seconds's"),
    ],
)
def test_a_bad_threshold_is_one_line(setting, message, capsys):
    """The command names the threshold, the limit and the value."""
    assert cli.main(["rules", "--set", setting]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_defaults_are_the_design_s():
    """The objectives' numbers are those of the design's table."""
    limits = Thresholds()
    assert (limits.slo_latency_p95_seconds, limits.slo_latency_p99_seconds) == (0.5, 2.5)
    assert (limits.slo_ttft_p95_seconds, limits.slo_success_ratio) == (0.05, 0.999)
    assert (limits.slo_tokens_per_second, limits.slo_queue_depth) == (100, 50)
    assert limits.slo_gpu_headroom_percent == 15
