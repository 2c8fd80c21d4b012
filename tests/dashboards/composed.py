"""The services of deploy/compose/observability.yml, run here."""

import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import yaml

from tagstream_testing.local.server import Server
from tests.integration.deploy.composed import here
from tests.support.go_programs import path as go_program
from tests.unit.deploy.tools import ROOT, Manifest, compose


class ComposedEye(Server):
    """A service of deploy/compose/observability.yml: a program with a configuration, at other `addresses`."""

    service: ClassVar[str]
    config: ClassVar[str]
    """The path of the file in the container, and the name of its mount in deploy/compose."""

    def __init__(self, folder: Path, addresses: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._addresses = addresses

    def prepare(self) -> None:
        [source] = [Path(volume["source"]) for volume in self._composed()["volumes"] if volume["target"] == self.config]
        config = self.changed(yaml.safe_load(source.read_text()))
        self._file.write_text(here(yaml.safe_dump(config), self.addresses()))

    def command(self) -> Sequence[str]:
        program = str(go_program(self.service))
        return [program, *(here(word, self.addresses()) for word in self._composed()["command"]), *self.more()]

    def changed(self, config: Any) -> Any:
        return config

    def more(self) -> Iterable[str]:
        return ()

    def addresses(self) -> Mapping[str, str]:
        return {**self._addresses, self.config: str(self._file)}

    @property
    def _file(self) -> Path:
        return self.folder / "config.yaml"

    def _composed(self) -> Manifest:
        found: Manifest = compose(observed=True)["services"][self.service]
        return found


def _answers_well(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False


class ComposedCollector(ComposedEye):
    name: ClassVar[str] = "collector"
    service: ClassVar[str] = "collector"
    config: ClassVar[str] = "/etc/otelcol/config.yaml"
    port_count: ClassVar[int] = 2

    def changed(self, config: Any) -> Any:
        [reader] = config["service"]["telemetry"]["metrics"]["readers"]
        reader["pull"]["exporter"]["prometheus"].update(host="127.0.0.1", port=self.ports[1])
        return config

    def addresses(self) -> Mapping[str, str]:
        return {**super().addresses(), "0.0.0.0:4318": f"127.0.0.1:{self.ports[0]}"}

    def is_ready(self) -> bool:
        return _answers_well(f"http://127.0.0.1:{self.ports[1]}/metrics")


class ComposedPrometheus(ComposedEye):
    """Prometheus. Built without a resolver: the name that all workers have becomes a list of one."""

    name: ClassVar[str] = "Prometheus"
    service: ClassVar[str] = "prometheus"
    config: ClassVar[str] = "/etc/prometheus/prometheus.yml"

    def __init__(self, folder: Path, addresses: Mapping[str, str], worker: str) -> None:
        rules = str(ROOT / "deploy" / "monitoring" / "rules")
        super().__init__(folder, {**addresses, "/etc/prometheus/rules": rules, "/prometheus": str(folder / "data")})
        self._worker = worker

    def changed(self, config: Any) -> Any:
        for job in config["scrape_configs"]:
            if job.pop("dns_sd_configs", None):
                job["static_configs"] = [{"targets": [self._worker] if job["job_name"] == "tagstream" else []}]
        return config

    def more(self) -> Iterable[str]:
        return [f"--web.listen-address=127.0.0.1:{self.ports[0]}"]

    def is_ready(self) -> bool:
        return _answers_well(f"http://127.0.0.1:{self.ports[0]}/-/ready")

    def ask(self, what: str, **query: str) -> Any:
        """The answer of its API to `query`, `query_exemplars`, `rules`, …"""
        parameters = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        url = f"http://127.0.0.1:{self.ports[0]}/api/v1/{what}?{parameters}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return yaml.safe_load(answer.read())["data"]
