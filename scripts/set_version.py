"""Set the project's version in workers/__init__.py, where the wheels read it, and in the files that repeat it.

    python scripts/set_version.py 0.2.0

The files that repeat it name images or the release: the Dockerfile, compose, the chart, the Kubernetes overlays, docs.
A test (tests/unit/test_version.py) fails for a version anywhere in the repository that is not this one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
FILES = (
    "workers/__init__.py",
    "pyproject.toml",
    "index/pyproject.toml",
    "ocr/pyproject.toml",
    "remote/pyproject.toml",
    "testing/pyproject.toml",
    "training/pyproject.toml",
    "Dockerfile",
    "docker-compose.yml",
    "deploy/k8s/overlays/cpu/kustomization.yaml",
    "deploy/k8s/overlays/gpu/kustomization.yaml",
    "deploy/helm/tagstream/Chart.yaml",
    "docs/guide/deploying.md",
    ".github/ISSUE_TEMPLATE/bug.yml",
)
FORM = r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?"
MENTION = re.compile(
    rf"""(__version__\ =\ "|tagstream(?:-schemas==|:|-|==)|newTag:\ |appVersion:\ "|image\.version="|placeholder:\ )
    (?P<version>{FORM})""",
    re.VERBOSE,
)
"""The version after the mark that it is ours; the group `version` is the number."""
CHART_VERSION = re.compile(r"(?<=^version: )\S+$", re.MULTILINE)
"""Of the chart itself, in Semantic Versioning's form: 1.2.3-rc1."""


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not re.fullmatch(FORM, arguments[0]):
        print("usage: scripts/set_version.py 1.2.3 (or 1.2.3rc1)", file=sys.stderr)  # noqa: T201
        return 2
    for name in FILES:
        path = CHECKOUT / name
        text = MENTION.sub(rf"\g<1>{arguments[0]}", path.read_text())
        path.write_text(CHART_VERSION.sub(semantic(arguments[0]), text) if path.name == "Chart.yaml" else text)
    return 0


def semantic(version: str) -> str:
    return re.sub(r"(?<=\d)(?=[a-z])", "-", version, count=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
