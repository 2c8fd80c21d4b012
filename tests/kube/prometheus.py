"""Prometheus, which asks the pods of a node for their metrics."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import urllib3
import yaml

from tests.kube.control_plane import NAMESPACE
from tests.kube.node import Pod
from tests.kube.rollout import meanwhile
from tests.support import go_programs
from workers.local.server import Server


class Prometheus(Server):
    """The real server; what it scrapes stands in a file that may change at any time."""

    name = "prometheus"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def _targets(self) -> Path:
        return self.folder / "targets.json"

    def prepare(self) -> None:
        self._targets.write_text("[]")
        job = {
            "job_name": "tagstream",
            "scrape_interval": "2s",
            "file_sd_configs": [{"files": [str(self._targets)], "refresh_interval": "5s"}],
        }
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))

    def command(self) -> Sequence[str]:
        return [
            str(go_programs.path("prometheus")),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.ports[0]}",
        ]

    def is_ready(self) -> bool:
        try:
            return urllib3.request("GET", f"{self.url}/-/ready", timeout=2, retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _aim(self, pods: Sequence[Pod]) -> None:
        """Scrape these, with the labels that a PodMonitor would give them."""
        targets = [
            {"targets": [pod.url.removeprefix("http://")], "labels": {"pod": pod.name, "namespace": NAMESPACE}}
            for pod in pods
        ]
        new = self._targets.with_suffix(".new")
        new.write_text(json.dumps(targets))
        os.replace(new, self._targets)

    @contextmanager
    def scraping(self, ready: Callable[[], Sequence[Pod]]) -> Iterator[None]:
        """Context in which the pods that are ready are scraped."""
        with meanwhile(lambda: self._aim(ready()), 1.0):
            yield
