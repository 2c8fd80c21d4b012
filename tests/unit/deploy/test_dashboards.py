"""The dashboards' files are what the script writes, Grafana can read them, and what they ask for exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.dashboards.__main__ import ALL, FOLDER, PAGE, files, page
from workers import metrics

NOT_SHOWN = {
    "tagstream_committed_offset": "a number without meaning for a reader; alerts ask whether it moves",
}
"""Metrics that no panel asks for, each with the reason."""
OTHERS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
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


SERIES = {series: metric for metric in metrics.ALL for series in shown(metric)} | dict.fromkeys(OTHERS)


def test_the_files_are_what_the_script_writes() -> None:
    """`python -m scripts.dashboards` repairs this."""
    assert {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")} == files()


def test_the_documentation_lists_every_panel() -> None:
    """`python -m scripts.dashboards` repairs this too."""
    assert PAGE.read_text(encoding="utf-8") == page()


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
