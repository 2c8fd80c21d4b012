"""The alerts name only what workers export, and each is tried both ways; `make rules` has Prometheus' tool try them."""

from __future__ import annotations

import re
import runpy
from typing import Any

import pytest
import yaml

from tests.unit.deploy.tools import ROOT
from workers import metrics
from workers.pipeline.pipeline import STAGES

MONITORING = ROOT / "deploy" / "monitoring"
GROUPS = yaml.safe_load((MONITORING / "rules" / "tagstream.yaml").read_text(encoding="utf-8"))["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]

EXPORTED = {metric.exposed: set(metric.exposed_labels) for metric in metrics.ALL}
SHOWN = EXPORTED | {
    f"{metric.exposed}_{part}": set(metric.exposed_labels) | ({"le"} if part == "bucket" else set())
    for metric in metrics.ALL
    if metric.kind == "histogram"
    for part in ("bucket", "count", "sum")
}
OTHERS = {name: set[str]() for name in ("process_start_time_seconds", "process_resident_memory_bytes")}
"""What the client library exports of every process."""
TARGET = {"namespace", "job", "instance"}
"""Labels that the scraper gives."""


_METRIC = re.compile(r"\b((?:tagstream|messaging|process)_\w+)\b(?!\s*(?:!~|=~|!=|=[^=]))\s*(?:\{([^}]*)\})?")
"""A metric, which no operator of a label's matcher follows, and what stands in the braces behind it."""
_RECORDED = re.compile(r"\b(job:[\w:]+)(?:\{([^}]*)\})?")
_MATCHED = re.compile(r"(\w+)\s*(?:!~|=~|!=|=)")


def unknown(expression: str) -> list[str]:
    """What an expression names that no worker exports and no rule records."""
    missing, labels = [], set(TARGET)
    for name, inside in _RECORDED.findall(expression):
        if name not in RECORDED:
            missing.append(name)
            continue
        missing += sorted(set(_MATCHED.findall(inside)) - RECORDED[name] - TARGET)
        labels |= RECORDED[name]
    known = SHOWN | OTHERS
    expression = _RECORDED.sub("", expression)
    for name, inside in _METRIC.findall(expression):
        if name not in known:
            missing.append(name)
            continue
        missing += sorted(set(_MATCHED.findall(inside)) - known[name] - TARGET)
        labels |= known[name]
    return missing + sorted(grouped_by(expression) - labels)


def grouped_by(expression: str) -> set[str]:
    lists = re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", expression)
    return {label for some in lists for label in re.split(r",\s*", some)}


def recorded() -> dict[str, set[str]]:
    """What rules record, with the labels that it may have: those that its rule groups by, or has from another's."""
    labels: dict[str, set[str]] = {}
    for rule in RULES:
        if "record" in rule:
            of = [labels.get(name, set()) for name, _ in _RECORDED.findall(rule["expr"])]
            labels[rule["record"]] = grouped_by(rule["expr"]).union(*of)
    return labels


RECORDED = recorded()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_names_only_metrics_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    assert unknown(rule["expr"]) == []


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("tagstream_redy == 0", ["tagstream_redy"]),
        ('tagstream_breakers{depends="s3"} > 0', ["depends"]),
        ("sum by (job, bucket) (tagstream_breakers) > 0", ["bucket"]),
        ("job:tagstream_nothing:ratio_rate5m > 0", ["job:tagstream_nothing:ratio_rate5m"]),
        ('job:tagstream_tags:increase6h{words="00"} > 0', ["words"]),
        ("sum without (words) (job:tagstream_tags:increase6h) > 0", ["words"]),
        ('rate(messaging_process_duration_seconds_bucket{le="30.0", messaging_group!~"x"}[5m])', ["messaging_group"]),
    ],
)
def test_what_there_is_not_is_found(expression: str, what: list[str]) -> None:
    assert unknown(expression) == what


def test_the_bounds_and_stages_that_rules_name_are_those_of_the_worker() -> None:
    expressions = " ".join(rule["expr"] for rule in RULES)
    bounds = {float(bound) for bound in re.findall(r'le="([^"]+)"', expressions)}
    assert bounds
    assert bounds <= set(metrics.MESSAGING_SECONDS)
    stages = {stage for found in re.findall(r'stage=~?"([^"]+)"', expressions) for stage in found.split("|")}
    assert stages
    assert stages <= {place.name for stage in STAGES for place in stage.places}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_says_how_urgent_it_is_what_is_wrong_with_figures_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in {"page", "ticket"}
    said = alert["annotations"]
    assert said.keys() == {"summary", "description", "runbook_url"}
    assert "{{" not in said["summary"]
    assert "{{ $labels.job }}" in said["description"]
    assert said["runbook_url"] == f"https://docs.example.com/tagstream/runbooks/{alert['alert']}.html"


HEADINGS = ["What it means", "How to look", "What to do"]
RUNBOOKS = ROOT / "docs" / "runbooks"
NAMES = sorted({alert["alert"] for alert in ALERTS})


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert [page.stem for page in sorted(RUNBOOKS.iterdir())] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_says_how_urgent_it_is_what_users_see_and_what_to_do(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    first = text.split("## ")[0].lower()
    for severity in ("page", "ticket"):
        assert (f"{severity}:" in first) is (severity in severities_of(name))
    assert "**users see**:" in first
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    assert list(sections) == HEADINGS
    assert all(len(section.split()) > 3 for section in sections.values())
    assert "```sh" in sections["How to look"], "a command that shows more than the alert"


def severities_of(name: str) -> set[str]:
    return {alert["labels"]["severity"] for alert in ALERTS if alert["alert"] == name}


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_asks_only_for_metrics_and_labels_that_there_are(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    asked = re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
    assert [what for query in asked for what in unknown(query)] == []
    named = {found[0] for found in _METRIC.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))}
    assert named <= SHOWN.keys() | OTHERS.keys()


def test_the_page_of_alerts_has_a_row_for_each_with_its_severity_and_time() -> None:
    page = (ROOT / "docs" / "guide" / "monitoring.md").read_text(encoding="utf-8")
    row = r"^\| \[(\w+)\]\(\.\./runbooks/(\w+)\.md\) \| ([a-z, ]+) \| [^|]+ \| ([^|]*)\|$"
    said = {
        name: (page, set(severity.split(", ")), time.strip().replace(" min", "m").replace(" h", "h"))
        for name, page, severity, time in re.findall(row, page, re.MULTILINE)
    }
    assert said == {
        alert["alert"]: (alert["alert"], severities_of(alert["alert"]), alert.get("for", "")) for alert in ALERTS
    }


def test_the_rules_for_an_operator_are_those_of_the_file() -> None:
    """`scripts/prometheus_rule.py` repairs this."""
    script = runpy.run_path(str(ROOT / "scripts" / "prometheus_rule.py"))
    assert script["MADE"].read_text(encoding="utf-8") == script["manifest"]()
    assert yaml.safe_load(script["manifest"]())["spec"]["groups"] == GROUPS


def test_what_a_deployment_that_scales_to_zero_leaves_out_is_the_alert_for_no_worker() -> None:
    page = (ROOT / "docs" / "guide" / "monitoring.md").read_text(encoding="utf-8")
    (number,) = re.findall(r"path: /spec/groups/(\d+)", page)
    assert [rule["alert"] for rule in GROUPS[int(number)]["rules"]] == ["TagstreamWorkersGone"]


def tried() -> tuple[set[tuple[str, str]], set[str]]:
    """The alerts that some test lets fire, with their severity, and those that some test expects to be silent."""
    fire: set[tuple[str, str]] = set()
    silent: set[str] = set()
    for path in sorted((MONITORING / "tests").glob("*.yaml")):
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in test.get("alert_rule_test", ()):
                fire |= {(case["alertname"], alert["exp_labels"]["severity"]) for alert in case["exp_alerts"]}
                if not case["exp_alerts"]:
                    silent.add(case["alertname"])
    return fire, silent


def test_every_alert_is_tried_where_it_fires_and_where_it_is_silent() -> None:
    fire, silent = tried()
    assert fire == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}
    assert silent == {alert["alert"] for alert in ALERTS}


def test_every_file_of_tests_is_of_these_rules_and_says_in_which_order_they_are_evaluated() -> None:
    """Without an order, promtool evaluates the groups in any, and an alert may see the shares of a minute ago."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (MONITORING / "tests").glob("*.yaml")]
    of_rules = [tests for tests in files if any("alert_rule_test" in test for test in tests["tests"])]
    assert len(of_rules) >= 4
    for tests in of_rules:
        assert tests["rule_files"] == ["../rules/tagstream.yaml"]
        assert tests["group_eval_order"] == [group["name"] for group in GROUPS]
