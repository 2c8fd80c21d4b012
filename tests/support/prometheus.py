"""A real Prometheus that scrapes a test's targets, every second or two."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import yaml

from tagstream_testing.local.server import Server
from tests.support import go_programs

Json = dict[str, Any]


class Prometheus(Server):
    """One Prometheus with targets that may change while it runs."""

    name: ClassVar[str] = "Prometheus"

    def __init__(self, folder: Path, rules: Path | None = None, every_s: int = 1) -> None:
        super().__init__(folder)
        self._every = f"{every_s}s"
        self._rules = rules
        self._targets: Mapping[str, Sequence[str]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def config(self) -> Path:
        return self.folder / "prometheus.yml"

    def prepare(self) -> None:
        settings: Json = {
            "global": {"scrape_interval": self._every, "scrape_timeout": self._every, "evaluation_interval": "1s"},
            "rule_files": [str(self._rules)] if self._rules else [],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets)}]}
                for job, targets in self._targets.items()
            ],
        }
        self.config.write_text(yaml.safe_dump(settings))

    def command(self) -> Sequence[str]:
        return [
            str(go_programs.path("prometheus")),
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.ports[0]}",
            "--web.enable-lifecycle",
            "--log.level=warn",
        ]

    def is_ready(self) -> bool:
        try:
            return self._ask("/-/ready") is not None
        except HTTPError as error:
            error.close()
            return False

    def scrape(self, **targets: Sequence[str]) -> None:
        """From now on read these, `host:port` by job, and nothing else."""
        self._targets = targets
        self.prepare()
        self._ask("/-/reload", {})

    def over(self, expression: str, start: float, end: float, step_s: float = 1.0) -> list[Json]:
        """The series of a query over this time, in Unix seconds."""
        found = self._answer("query_range", query=expression, start=str(start), end=str(end), step=str(step_s))
        return list(found["result"])

    def now(self, expression: str) -> list[Json]:
        return list(self._answer("query", query=expression)["result"])

    def states(self, job: str = "") -> dict[str, str]:
        """Of each alert of this job, or of any, that is pending or firing, by name; firing where one of several is."""
        states: dict[str, str] = {}
        alerts = self._answer("alerts")["alerts"]
        for alert in (each for each in alerts if job in ("", each["labels"].get("job"))):
            name = alert["labels"]["alertname"]
            states[name] = "firing" if "firing" in (states.get(name), alert["state"]) else "pending"
        return states

    def _answer(self, what: str, **parameters: str) -> Json:
        try:
            text = self._ask(f"/api/v1/{what}", parameters if parameters else None)
        except HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        found: Json = json.loads(text)["data"]
        return found

    def _ask(self, path: str, form: Mapping[str, str] | None = None) -> str:
        body = None if form is None else urlencode(form).encode()
        with urlopen(Request(f"{self.url}{path}", body), timeout=10) as answer:
            return str(answer.read().decode())


def numbers(series: Sequence[Json]) -> list[float]:
    """Every finite value of a query's series."""
    values = [float(value) for each in series for _, value in each.get("values", [each.get("value")])]
    return [value for value in values if math.isfinite(value)]


_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_WINDOW = re.compile(r"\[(\d+)([smhd])(?::(\d+)([smhd]))?\]")
_OFFSET = re.compile(r"(\boffset )(\d+)([smhd])\b")
_INCREASE = re.compile(r"((?:\bincrease\([^()]*\)|:increase\d+[smhd])\)?\s*>\s*)(\d+)")
"""An increase, or the sum of some, and the number that it is compared with."""
_SECONDS = re.compile(r"(_seconds(?:\{[^}]*\})?\)?\s*>\s*)(\d+)")
"""A number of seconds that a metric is compared with."""


def shortened(rules: Path, by: int, into: Path) -> Path:
    """Write the rules of a file with windows, offsets, `for`, compared seconds and compared increases divided."""
    document: Any = yaml.safe_load(rules.read_text(encoding="utf-8"))
    for group in document["groups"]:
        group.pop("interval", None)  # as often as all others
        for rule in group["rules"]:
            rule["expr"] = shortened_expression(rule["expr"], by)
            if "for" in rule:
                rule["for"] = _divided(*_parts(rule["for"]), by)
    into.write_text(yaml.safe_dump(document), encoding="utf-8")
    return into


def shortened_expression(expression: str, by: int) -> str:
    def window(found: re.Match[str]) -> str:
        step = f":{_divided(found[3], found[4], by)}" if found[3] else ""
        return f"[{_divided(found[1], found[2], by, least=5)}{step}]"

    def offset(found: re.Match[str]) -> str:
        return f"{found[1]}{_divided(found[2], found[3], by)}"

    def number(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) / by:g}"

    for pattern, shorter in ((_INCREASE, number), (_SECONDS, number), (_OFFSET, offset), (_WINDOW, window)):
        expression = pattern.sub(shorter, expression)
    return expression


def _parts(duration: str) -> tuple[str, str]:
    return duration[:-1], duration[-1]


def _divided(number: str, unit: str, by: int, least: int = 1) -> str:
    """A window needs two samples, which are up to two seconds apart."""
    return f"{max(least, int(number) * _UNITS_S[unit] // by)}s"
