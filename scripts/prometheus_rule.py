"""Makes the PrometheusRule of deploy/helm/tagstream of the rules in deploy/monitoring, their one source.

    scripts/prometheus_rule.py

Helm and kustomize read no file from outside their folder, so the rules stand there a second time; a test compares.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "deploy" / "monitoring" / "rules" / "tagstream.yaml"
MADE = ROOT / "deploy" / "helm" / "tagstream" / "alerts" / "prometheus-rule.yaml"

_HEAD = """\
# Made by scripts/prometheus_rule.py of deploy/monitoring/rules/tagstream.yaml: change that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tagstream
  namespace: tagstream
  labels:
    app.kubernetes.io/name: tagstream
spec:
"""


def manifest() -> str:
    """The rules as an object of the Prometheus operator, with their comments."""
    return _HEAD + textwrap.indent(RULES.read_text(encoding="utf-8"), "  ")


if __name__ == "__main__":
    MADE.write_text(manifest(), encoding="utf-8")
