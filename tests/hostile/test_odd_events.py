"""Own events that are odd: the honest ones are worked on, and no guide brings a terminal's escapes into a caption."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hostile.scene import Batch, Scene
from tests.support.raw_kafka import batch, record
from tests.support.worker_process import photo

pytestmark = pytest.mark.timeout(300)

ODD: list[dict[str, Any]] = [
    {"event_time": "2026-06-30T23:59:60Z"},
    {"event_time": "2026-06-30T23:59:59z"},
    {"event_time": "2026-06-30 23:59:59+00:00"},
    {"event_time": "2026-06-30T23:59:59"},
    {"event_time": "yesterday"},
    {"options": None},
    {"options": {"want": None, "guide_tags": None}},
    {"etag": ""},
    {"size": "many"},
    {"sequencer": "7th"},
    {"version_id": ""},
]
UNFIT = ["dog\0", "\x1b]0;owned\x07", "\x1b[2J", "two\nlines", "\u202eright to left"]


def sent(scene: Scene, kind: str, fields: list[dict[str, Any]]) -> list[Batch]:
    scene.site.upload("odd.jpg", photo(1, 48))
    return [Batch(kind, batch([record(scene.site.own("odd.jpg", **each))])) for each in fields]


def test_odd_but_honest_events_are_worked_on(scene: Scene) -> None:
    verdict = scene.attack("odd events", sent(scene, "an odd but honest event", ODD))
    assert verdict.outcomes == {"enriched": len(ODD)}


def test_a_guide_with_control_characters_is_refused(scene: Scene) -> None:
    guides = [{"options": {"want": ["caption"], "guide_tags": ["snow", tag]}} for tag in UNFIT]
    verdict = scene.attack("guides", sent(scene, "an unfit guide", guides))
    assert verdict.outcomes == {"schema": len(UNFIT)}
