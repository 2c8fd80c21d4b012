"""Alerts and dashboards name only what workers export, and are what their scripts write."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.dashboards.__main__ import ALL, FOLDER, files
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
OF_THE_PROCESS = ("process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total")
OTHERS = {name: set[str]() for name in OF_THE_PROCESS}
"""Metrics of the client library in every process."""
TARGET = {"namespace", "job", "instance", "worker"}
"""Labels that the scraper gives, and that of a process among several."""


_METRIC = re.compile(r"\b((?:tagstream|messaging|process)_\w+)\b(?!\s*(?:!~|=~|!=|=[^=]))\s*(?:\{([^}]*)\})?")
"""A metric that no operator of a label's matcher follows, and the text in the braces behind it."""
_RECORDED = re.compile(r"\b(job:[\w:]+)(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring) \(([^)]*)\)")
_MATCHED = re.compile(r"(\w+)\s*(?:!~|=~|!=|=)")


def unknown(expression: str) -> list[str]:
    """Names in an expression that no worker exports and no rule records."""
    missing, labels = [], set(TARGET)
    for name, inside in _RECORDED.findall(expression):
        if name not in RECORDED:
            missing.append(name)
            continue
        missing += sorted(set(_MATCHED.findall(inside)) - RECORDED[name] - TARGET)
        labels |= RECORDED[name]
    known = SHOWN | OTHERS
    asked = _GROUPED.sub("", _RECORDED.sub("", expression))
    for name, inside in _METRIC.findall(asked):
        if name not in known:
            missing.append(name)
            continue
        missing += sorted(set(_MATCHED.findall(inside)) - known[name] - TARGET)
        labels |= known[name]
    return missing + sorted(grouped_by(expression) - labels)


def grouped_by(expression: str) -> set[str]:
    return {label for some in _GROUPED.findall(expression) for label in re.split(r",\s*", some)}


def recorded() -> dict[str, set[str]]:
    """Recorded metrics, with their possible labels: the labels of the rule's groups, or inherited ones."""
    labels: dict[str, set[str]] = {}
    for rule in RULES:
        if "record" in rule:
            of = [labels.get(name, set()) for name, _ in _RECORDED.findall(rule["expr"])]
            labels[rule["record"]] = grouped_by(rule["expr"]).union(*of)
    return labels


RECORDED = recorded()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_names_only_existing_metrics_and_labels(rule: dict[str, Any]) -> None:
    assert unknown(rule["expr"]) == []


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("tagstream_redy == 0", ["tagstream_redy"]),
        ("sum by (job, bucket) (tagstream_breakers) > 0", ["bucket"]),
        ('job:tagstream_tags:increase6h{words="00"} > 0', ["words"]),
        ('rate(messaging_process_duration_seconds_bucket{le="30.0", messaging_group!~"x"}[5m])', ["messaging_group"]),
    ],
)
def test_an_unknown_metric_is_found(expression: str, what: list[str]) -> None:
    assert unknown(expression) == what


def test_the_rules_bounds_and_stages_exist_in_the_worker() -> None:
    expressions = " ".join(rule["expr"] for rule in RULES)
    bounds = {float(bound) for bound in re.findall(r'le="([^"]+)"', expressions)}
    assert bounds
    assert bounds <= set(metrics.MESSAGING_SECONDS)
    stages = {stage for found in re.findall(r'stage=~?"([^"]+)"', expressions) for stage in found.split("|")}
    assert stages
    assert stages <= {place.name for stage in STAGES for place in stage.places}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_names_its_urgency_its_fault_with_figures_and_a_page(alert: dict[str, Any]) -> None:
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in {"page", "ticket"}
    said = alert["annotations"]
    assert said.keys() == {"summary", "description", "runbook_url"}
    assert "{{" not in said["summary"]
    assert "{{ $labels.job }}" in said["description"]
    place = f"https://docs.example.com/tagstream/reference/alerts.html#{section_of(alert['alert']).lower()}"
    assert said["runbook_url"] == place


PAGE = (ROOT / "docs" / "reference" / "alerts.md").read_text(encoding="utf-8")
SECTIONS: dict[str, str] = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def section_of(name: str) -> str:
    (found,) = [title for title, text in SECTIONS.items() if title == name or f"\n| {name} |" in text]
    return found


def test_the_page_of_alerts_has_no_section_without_an_alert_and_only_existing_metrics() -> None:
    assert {section_of(alert["alert"]) for alert in ALERTS} == SECTIONS.keys()
    queries = re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL)
    assert len(queries) > 10
    assert [what for query in queries for what in unknown(query)] == []
    named = {found[0] for found in _METRIC.findall(re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))}
    assert named <= SHOWN.keys() | OTHERS.keys()


def test_the_operators_rules_equal_the_files() -> None:
    """`scripts/prometheus_rule.py` repairs this."""
    script = runpy.run_path(str(ROOT / "scripts" / "prometheus_rule.py"))
    assert script["MADE"].read_text(encoding="utf-8") == script["manifest"]()
    assert yaml.safe_load(script["manifest"]())["spec"]["groups"] == GROUPS


def test_a_deployment_that_scales_to_zero_leaves_out_the_alert_for_missing_workers() -> None:
    page = (ROOT / "docs" / "guide" / "monitoring.md").read_text(encoding="utf-8")
    (number,) = re.findall(r"path: /spec/groups/(\d+)", page)
    assert [rule["alert"] for rule in GROUPS[int(number)]["rules"]] == ["TagstreamWorkersGone"]


def test_every_alert_is_tried_where_it_fires_and_where_it_is_silent() -> None:
    """Without an order, promtool evaluates the groups in any, and an alert may see the shares of a minute ago."""
    fire: set[tuple[str, str]] = set()
    silent: set[str] = set()
    for path in sorted((MONITORING / "tests").glob("*.yaml")):
        tests = yaml.safe_load(path.read_text(encoding="utf-8"))
        cases = [case for test in tests["tests"] for case in test.get("alert_rule_test", ())]
        if cases:
            assert tests["rule_files"] == ["../rules/tagstream.yaml"]
            assert tests["group_eval_order"] == [group["name"] for group in GROUPS]
        fire |= {(case["alertname"], each["exp_labels"]["severity"]) for case in cases for each in case["exp_alerts"]}
        silent |= {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fire == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}
    assert silent == {alert["alert"] for alert in ALERTS}


NOT_SHOWN = {"tagstream_committed_offset": "a number without meaning for a reader; alerts ask whether it moves"}
"""Metrics that no panel asks for, each with the reason."""


def test_the_files_equal_the_scripts_output() -> None:
    """`python -m scripts.dashboards` repairs this."""
    assert {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")} == files()


@pytest.mark.parametrize("path", sorted(files()), ids=lambda path: path.stem)
def test_a_dashboards_panels_ask_the_chosen_source_about_the_chosen_workers_and_lie_on_no_other(path: Path) -> None:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    assert re.fullmatch("tagstream-[a-z]+", dashboard["uid"])
    assert dashboard["tags"] == dashboard["links"][0]["tags"] == ["tagstream"]
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"] | {"type": "datasource", "query": "prometheus"} == variables["datasource"]
    shown = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    for panel in shown:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)) > 0
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            assert unknown(target["expr"].replace("[$__rate_interval]", "[5m]")) == []
            series = [name for name, _ in _METRIC.findall(target["expr"]) if name in SHOWN.keys() | OTHERS.keys()]
            assert 0 < len(series) == target["expr"].count('job=~"$job"}'), target["expr"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"} <= variables.keys()
    for each in ([panel["id"] for panel in dashboard["panels"]], [panel["title"] for panel in shown]):
        assert len(each) == len(set(each))
    cells = [cell for panel in dashboard["panels"] for cell in lies_on(**panel["gridPos"])]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} <= set(range(24))


def lies_on(x: int, y: int, w: int, h: int) -> list[tuple[int, int]]:
    return [(column, row) for column in range(x, x + w) for row in range(y, y + h)]


def test_every_metric_is_on_a_dashboard_or_there_is_a_reason() -> None:
    panels = [panel for dashboard in ALL for panel in dashboard.written()["panels"]]
    asked = " ".join(target["expr"] for panel in panels for target in panel.get("targets", ()))
    series = {re.sub("_(bucket|sum|count)$", "", name) for name, _ in _METRIC.findall(asked)}
    assert EXPORTED.keys() - series == NOT_SHOWN.keys()
