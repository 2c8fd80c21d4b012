"""Helm, and what it makes of the chart."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support import go_programs
from workers.errors import TagstreamError

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "tagstream"
NAME = "tagstream"
"""Of the release and its namespace."""


class HelmFailed(TagstreamError):
    """Helm ended with an error; the text has its output."""


def helm(*arguments: str, values: Mapping[str, Any] | None = None) -> str:
    """The output of helm.

    Args:
        values: for a command that takes them, as a file of the user's would have them.

    Raises:
        HelmFailed: it ended with an error.
    """
    given = [] if values is None else ["--values", "-"]
    answer = subprocess.run(
        [str(go_programs.path("helm")), *arguments, "--namespace", NAME, *given],
        input=None if values is None else yaml.safe_dump(dict(values)),
        capture_output=True,
        text=True,
        timeout=900,
    )
    if answer.returncode != 0:
        raise HelmFailed(f"helm {' '.join(arguments)}: {answer.stderr}{answer.stdout}")
    return answer.stdout


def rendered(values: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """The chart's objects with these values."""
    text = helm("template", NAME, str(CHART), values=values)
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]
