"""Prometheus, which asks the pods of a node for their metrics."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.kube.control_plane import NAMESPACE
from tests.kube.node import Pod
from tests.support.prometheus import Prometheus
from tests.support.waiting import meanwhile


class PodsPrometheus(Prometheus):
    """Its targets are in a file that may change at any time."""

    @property
    def _pods(self) -> Path:
        return self.folder / "targets.json"

    def prepare(self) -> None:
        self._pods.write_text("[]")
        job = {
            "job_name": "pods",
            "scrape_interval": "2s",
            "file_sd_configs": [{"files": [str(self._pods)], "refresh_interval": "5s"}],
        }
        rules = [str(self._rules)] if self._rules else []
        settings = {"global": {"evaluation_interval": "1s"}, "rule_files": rules, "scrape_configs": [job]}
        self.config.write_text(yaml.safe_dump(settings))

    def _aim(self, pods: Sequence[Pod]) -> None:
        targets = [
            {
                "targets": [pod.url.removeprefix("http://")],
                # A pod's address stays when its program restarts, while its port here does not.
                "labels": {"pod": pod.name, "namespace": NAMESPACE, "job": pod.app, "instance": pod.name},
            }
            for pod in pods
        ]
        new = self._pods.with_suffix(".new")
        new.write_text(json.dumps(targets))
        os.replace(new, self._pods)

    @contextmanager
    def scraping(self, ready: Callable[[], Sequence[Pod]]) -> Iterator[None]:
        with meanwhile(lambda: self._aim(ready()), 1.0):
            yield
