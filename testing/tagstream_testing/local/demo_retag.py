"""The demo's last act: a lower threshold, and new tags from stored scores alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from schemas.enriched_image import EnrichedImage
from tagstream_testing.local.server import CannotStart, spawn_tied

PLAN = "plan.jsonl"
THRESHOLD = 0.12
"""The compact tagger's own is 0.15."""
_PATIENCE_S = 120.0


class Change(NamedTuple):
    """An image's newest outcome, and its retagged one."""

    key: str
    before: EnrichedImage
    after: EnrichedImage


@dataclass(frozen=True, slots=True)
class Retagged:
    """What a plan found and a run changed.

    Args:
        counts: of images, as the plan has them.
        audit: the auditor's verdict.
    """

    counts: Mapping[str, int]
    changes: Sequence[Change]
    audit: str


def tagstream(folder: Path, environment: Mapping[str, str], *arguments: str) -> list[str]:
    """The output of a command with the lower threshold; PLAN stands for a file in the folder.

    Raises:
        CannotStart: it failed; with its output.
        TimeoutExpired: it took two minutes.
    """
    profiles, log, plan = folder / "profiles.json", folder / "retag.log", str(folder / PLAN)
    profiles.write_text(json.dumps({"default": {"all": THRESHOLD}}))
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "workers", *(plan if each == PLAN else each for each in arguments)]
    process = spawn_tied(command, log=log, env={**environment, "TAGSTREAM_PROFILES": str(profiles)})
    code, said = process.wait(_PATIENCE_S), log.read_text(errors="replace").replace(plan, PLAN)
    if code != 0:
        raise CannotStart(f"tagstream {' '.join(arguments)} ended with exit code {code}:\n{said}")
    return said.splitlines()
