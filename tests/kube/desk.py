"""An operator's desk: the commands and queries of an alert's runbook, run as its page has them."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.kube.control_plane import ControlPlane
from tests.kube.node import Pod
from tests.support.prometheus import Prometheus

_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "alerts.md"
_KUBECTL = """#!/bin/sh
# Pods have no kubelet here: their logs are files, and what runs in them runs beside them.
case "$3" in
  logs) case "$*" in *--previous*) exec cat "$DESK/previous";; *) exec cat "$DESK/log";; esac ;;
  exec) shift 5; exec "$@" ;;
  port-forward) ;;
  *) exec {kubectl} --kubeconfig {config} "$@" ;;
esac
"""
_LOOK_S = 20
"""How long one looks at what never ends, such as `--watch`."""


def steps(alert: str) -> list[tuple[str, str]]:
    """Of the alert's section: commands (sh) and queries (promql), in order."""
    (section,) = re.findall(rf"^## {alert}$(.*?)(?=^## |\\Z)", _PAGE.read_text(encoding="utf-8"), re.M | re.S)
    blocks = re.findall(r"^```(sh|promql)\n(.*?)^```", section, re.M | re.S)
    return [(kind, line) for kind, text in blocks for line in text.splitlines()]


class Desk:
    """Runs steps.

    Args:
        folder: made here.
        log: what the alert's program has written, and how many bytes of it are of earlier starts.
        environment: of the program, with its settings.
        names: placeholders of the page, and what stands for them.
    """

    def __init__(
        self,
        folder: Path,
        prometheus: Prometheus,
        log: Callable[[], tuple[bytes, int]],
        environment: Mapping[str, str],
        names: Mapping[str, str] = MappingProxyType({}),
        kubeconfig: Path = Path("no-cluster"),
    ) -> None:
        self._folder, self._prometheus, self._log, self._names = folder, prometheus, log, names
        folder.mkdir()
        kubectl = folder / "kubectl"
        real = Path(sys.executable).with_name("kubectl")
        kubectl.write_text(_KUBECTL.format(kubectl=shlex.quote(str(real)), config=kubeconfig))
        kubectl.chmod(0o755)
        path = os.pathsep.join([str(folder), str(real.parent), os.environ["PATH"]])
        self._environment = {**environment, "PATH": path, "DESK": str(folder), "COLUMNS": "200"}

    @classmethod
    def of_pod(cls, folder: Path, plane: ControlPlane, prometheus: Prometheus, pod: Pod, **names: str) -> "Desk":
        named = {"POD": pod.name, "localhost:8080": pod.url.removeprefix("http://"), **names}
        log = lambda: (pod.log.read_bytes(), pod.previous)  # noqa: E731
        return cls(folder, prometheus, log, dict(pod.environment), named, plane.server.kubeconfig)

    def take(self, kind: str, step: str) -> str:
        """What the step shows."""
        for name, value in self._names.items():
            step = step.replace(name, value)
        if kind == "promql":
            return "\n".join(f"{each['metric']} {each['value'][1]}" for each in self._prometheus.now(step))
        log, previous = self._log()
        (self._folder / "log").write_bytes(log)
        (self._folder / "previous").write_bytes(log[:previous])
        command = ["timeout", str(_LOOK_S), "sh", "-c", step] if "--watch" in step else ["sh", "-c", step]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=900, check=False)
        return done.stdout + done.stderr
