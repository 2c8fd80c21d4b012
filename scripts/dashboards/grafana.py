"""Grafana's JSON of a dashboard, from short descriptions of rows of panels.

It has only fields that differ from Grafana's defaults (schema version 41, Grafana 12). Panels flow from left to right
in their row, and a row's panels have one height.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from string import ascii_uppercase
from typing import Any

Json = dict[str, Any]

WIDTH = 24
"""Columns of Grafana's grid."""
WORKERS = 'job=~"$job"'
"""Which workers a query is about; every selector of a metric of ours has it."""
_JOBS = 'label_values({__name__=~"tagstream_ready|tagstream_index_lag"}, job)'
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Query:
    """One query of a panel, in PromQL.

    Args:
        expression: `WORKERS` in it stands for the selection of the dashboard's workers.
        legend: what its series are called, with their labels as `{{label}}`.
    """

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        meaning: what it shows, and what to do about it; Grafana shows it beside the title.
        unit: Grafana's name of it; one that Grafana doesn't know is written behind the number.
        needs: which fault must have happened for it to show anything; empty: it shows something of any worker at work.
    """

    title: str
    meaning: str
    unit: str
    queries: Sequence[Query]
    kind: str = "timeseries"
    width: int = 8
    needs: str = ""
    options: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)

    @property
    def told(self) -> str:
        """The panel's description for readers."""
        return f"{self.meaning} Shows something once {self.needs}." if self.needs else self.meaning


def graph(title: str, meaning: str, unit: str, *queries: tuple[str, str], width: int = 8, needs: str = "") -> Panel:
    """Lines over time, one for each series."""
    return _lines(title, meaning, unit, queries, width, needs, {"fillOpacity": 8, "showPoints": "never"}, {"min": 0})


def stacked(title: str, meaning: str, unit: str, *queries: tuple[str, str], width: int = 8) -> Panel:
    """Areas over time, one on another."""
    custom = {"fillOpacity": 40, "showPoints": "never", "stacking": {"mode": "normal", "group": "A"}}
    return _lines(title, meaning, unit, queries, width, "", custom, {"min": 0})


def shares(title: str, meaning: str, *queries: tuple[str, str], width: int = 8) -> Panel:
    """Areas over time that add up to the whole."""
    custom = {"fillOpacity": 40, "showPoints": "never", "stacking": {"mode": "normal", "group": "A"}}
    return _lines(title, meaning, "percentunit", queries, width, "", custom, {"min": 0, "max": 1})


def number(title: str, meaning: str, unit: str, query: str, *, decimals: int | None = None) -> Panel:
    """One number: the latest value."""
    options = {"colorMode": "none", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}}
    defaults = {} if decimals is None else {"decimals": decimals}
    return Panel(title, meaning, unit, [Query(query)], "stat", 4, options=options, defaults=defaults)


def warned(panel: Panel, *bounds: tuple[float, str]) -> Panel:
    """The same, with lines from which on a value has another colour."""
    steps = [{"color": "green", "value": None}, *({"color": colour, "value": value} for value, colour in bounds)]
    custom = {**panel.defaults.get("custom", {}), "thresholdsStyle": {"mode": "dashed"}}
    defaults = {**panel.defaults, "thresholds": {"mode": "absolute", "steps": steps}, "custom": custom}
    return Panel(**{**vars(panel), "defaults": defaults})


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]

    @property
    def height(self) -> int:
        return 4 if self.panels[0].kind == "stat" else 8


@dataclass(frozen=True)
class Choice:
    """What a reader chooses above the panels.

    Args:
        values: to choose from, the first unless another is chosen; one alone can be typed over.
    """

    name: str
    label: str
    values: Sequence[str]

    def written(self) -> Json:
        own: Json = {"name": self.name, "label": self.label, "query": ",".join(self.values)}
        options = [{"text": value, "value": value, "selected": not place} for place, value in enumerate(self.values)]
        kind = "custom" if len(self.values) > 1 else "textbox"
        return own | {"type": kind, "options": options, "current": options[0]}


@dataclass(frozen=True)
class Dashboard:
    """A page of panels.

    Args:
        uid: what links name it by; the same in every Grafana.
    """

    uid: str
    title: str
    meaning: str
    rows: Sequence[Row]
    choices: Sequence[Choice] = ()

    def written(self) -> Json:
        """As Grafana reads it from a file."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.meaning,
            "tags": ["tagstream"],
            "schemaVersion": 41,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,  # the time that is pointed at is shown in all panels
            "time": {"from": "now-6h", "to": "now"},
            "refresh": "30s",
            "links": [{"type": "dashboards", "title": "tagstream", "tags": ["tagstream"], "keepTime": True}],
            "templating": {"list": [*_workers(), *(choice.written() for choice in self.choices)]},
            "annotations": {"list": []},
            "panels": list(_placed(self.rows)),
        }


def _lines(
    title: str,
    meaning: str,
    unit: str,
    queries: Sequence[tuple[str, str]],
    width: int,
    needs: str,
    custom: Json,
    defaults: Json,
) -> Panel:
    options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    asked = [Query(expression, legend) for expression, legend in queries]
    return Panel(title, meaning, unit, asked, "timeseries", width, needs, options, defaults | {"custom": custom})


def _workers() -> Iterator[Json]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}}
    yield {
        "name": "job",
        "label": "Workers",
        "type": "query",
        "datasource": DATASOURCE,
        "definition": _JOBS,
        "query": {"query": _JOBS, "refId": "job"},
        "refresh": 2,  # whenever the time range changes
        "includeAll": True,
        "multi": True,
        "allValue": ".+",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _placed(rows: Sequence[Row]) -> Iterator[Json]:
    ids, top = count(1), 0
    for row in rows:
        yield {
            "id": next(ids),
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
        }
        top, left = top + 1, 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                top, left = top + row.height, 0
            at = {"x": left, "y": top, "w": panel.width, "h": row.height}
            yield {"id": next(ids), "gridPos": at} | _panel(panel)
            left += panel.width
        top += row.height


def _panel(panel: Panel) -> Json:
    # Where there is nothing to show there was no fault, which is no error of the panel.
    nothing: Mapping[str, str] = {"noValue": "none so far"} if panel.needs else {}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.told,
        "datasource": DATASOURCE,
        "targets": [_target(name, query) for name, query in zip(ascii_uppercase, panel.queries, strict=False)],
        "fieldConfig": {"defaults": {"unit": panel.unit, **panel.defaults, **nothing}, "overrides": []},
        "options": panel.options,
    }


def _target(reference: str, query: Query) -> Json:
    return {
        "refId": reference,
        "datasource": DATASOURCE,
        "expr": query.expression.replace("WORKERS", WORKERS),
        "legendFormat": query.legend or "__auto",
        "range": True,
    }
