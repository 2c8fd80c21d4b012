"""Alerts and dashboards name only what workers export, and are what their scripts write."""

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.dashboards.__main__ import ALL, FOLDER, files
from tests.support.prometheus import shortened_expression
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


NOT_SHOWN = {
    "tagstream_committed_offset": "a number without meaning for a reader; alerts ask whether it moves",
}
"""Metrics that no panel asks for, each with the reason."""
OF_THE_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
"""Metrics of Prometheus' own client."""

Json = dict[str, Any]


def name(path: Path) -> str:
    return path.stem


@pytest.fixture(params=sorted(files()), ids=name)
def dashboard(request: pytest.FixtureRequest) -> Json:
    found: Json = json.loads(request.param.read_text(encoding="utf-8"))
    return found


def panels(dashboard: Json) -> list[Json]:
    """Those that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    for dashboard in ALL:
        for panel in panels(dashboard.written()):
            yield from (target["expr"] for target in panel["targets"])


def shown(metric: metrics.Metric) -> set[str]:
    """The names of a metric's series on the page for Prometheus."""
    if metric.kind == "histogram":
        return {f"{metric.exposed}_{part}" for part in ("bucket", "sum", "count")}
    return {metric.exposed}


SERIES = {series: metric for metric in metrics.ALL for series in shown(metric)} | dict.fromkeys(OF_THE_PROCESS)


def test_the_files_are_what_the_script_writes() -> None:
    """`python -m scripts.dashboards` repairs this."""
    assert {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")} == files()


def test_no_two_panels_have_one_id_or_one_title(dashboard: Json) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(titles) == len(set(titles))


def test_panels_lie_in_the_grid_and_on_no_other(dashboard: Json) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] >= 0
        assert at["x"] + at["w"] <= 24
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]


def test_every_panel_says_what_it_shows_and_in_which_unit(dashboard: Json) -> None:
    for panel in panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["type"] in {"timeseries", "stat"}
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(references) == len(set(references))


def test_every_query_asks_the_chosen_source_about_the_chosen_workers(dashboard: Json) -> None:
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"] | {"type": "datasource", "query": "prometheus"} == variables["datasource"]
    for panel in panels(dashboard):
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            series = re.findall(rf"\b(?:{'|'.join(SERIES)})\b", target["expr"])
            assert 0 < len(series) == target["expr"].count('job=~"$job"}'), target["expr"]
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables.keys()


def test_every_metric_and_label_that_a_query_asks_for_exists() -> None:
    for expression in expressions():
        found = re.findall(r"((?:tagstream|messaging|process)_\w+)\{([^}]*)\}", expression)
        assert {series for series, _ in found} <= SERIES.keys(), expression
        of = {label for series, _ in found if (metric := SERIES[series]) for label in metric.exposed_labels}
        asked = {label for _, matching in found for label in re.findall(r"(\w+)=~?\"", matching)}
        for some in re.findall(r"\b(?:by|ignoring|on) \(([^)]*)\)", expression):
            asked |= set(re.split(r",\s*", some))
        assert asked - {"job", "instance", "le"} <= of, expression


def test_every_metric_is_on_a_dashboard_or_there_is_a_reason() -> None:
    asked = set(re.findall(r"(?:tagstream|messaging)_\w+", " ".join(expressions())))
    assert {metric.exposed for metric in metrics.ALL if not shown(metric) & asked} == NOT_SHOWN.keys()


def test_a_dashboard_is_named_for_ever_and_found_by_its_tag(dashboard: Json) -> None:
    assert re.fullmatch("tagstream-[a-z]+", dashboard["uid"])
    assert dashboard["tags"] == ["tagstream"]
    assert dashboard["links"][0]["tags"] == ["tagstream"]


@pytest.mark.parametrize(
    ("whole", "part"),
    [
        ("rate(a_total[5m]) > 0.1", "rate(a_total[5s]) > 0.1"),
        ("increase(a_total[1h]) > 10", "increase(a_total[60s]) > 0.166667"),
        ('sum by (job) (increase(a_total{b="c"}[1h])) > 60', 'sum by (job) (increase(a_total{b="c"}[60s])) > 1'),
        ("sum without (a) (job:b:increase6h) > 600", "sum without (a) (job:b:increase6h) > 10"),
        ("a > 0.1 and job:b:increase1h > 120", "a > 0.1 and job:b:increase1h > 2"),
        ("b offset 1h > c", "b offset 60s > c"),
        ("avg_over_time((a / b)[15m:1m]) > 0.9", "avg_over_time((a / b)[15s:1s]) > 0.9"),
        ("max by (job) (tagstream_lag_seconds) > 120", "max by (job) (tagstream_lag_seconds) > 2"),
        ('max(tagstream_lag_seconds{job!~"b"}) > 3600', 'max(tagstream_lag_seconds{job!~"b"}) > 60'),
        ("job:a:ratio_rate1h > 14.4 * 0.01", "job:a:ratio_rate1h > 14.4 * 0.01"),
        ("changes(a[1m]) == 0", "changes(a[5s]) == 0"),
    ],
)
def test_times_and_what_increases_in_them_are_divided_and_nothing_else(whole: str, part: str) -> None:
    assert shortened_expression(whole, 60) == part
