"""A shadow tagger on real servers: what comes out is byte for byte as without it, and its report is true."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.dead_letter import Failure, read_dead_letter_headers
from tests.fixtures import Stack
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo, worker
from workers.backends.kafka import ensure_topics, lag
from workers.cli.app import run_command
from workers.models.bundle import Bundle
from workers.models.compact import compact_bundle

pytestmark = pytest.mark.timeout(300)

IMAGES = 8
"""As many as may wait for the shadow, so that none is dropped."""
RENAMED = 500
"""Labels from this one on have other names in the shadow's list."""
OF_A_RUN = {"timings_ms", "produced_at", "version"}
"""What of an event no other run repeats."""


@pytest.fixture
def site(stack: Stack, unique: Callable[[str], str]) -> Site:
    return Site(stack, unique("shadow"))


def other_bundle(folder: Path) -> Bundle:
    """The compact tagger with noise in its weights and half of its labels under other names."""
    compact = compact_bundle()
    noise = torch.Generator().manual_seed(5)
    weights = {
        name: values + 0.03 * values.std() * torch.randn(values.shape, generator=noise) if values.ndim > 1 else values
        for name, values in compact.weights().items()
    }
    labels = [f"other {name}" if number >= RENAMED else name for number, name in enumerate(compact.labels)]
    return Bundle.write(folder, compact.manifest.model_copy(update={"name": "other"}), weights=weights, labels=labels)


@dataclass(frozen=True)
class Published:
    """What a worker published of the site's events."""

    events: dict[bytes, dict[str, Any]]
    failures: list[tuple[Failure, ...]]

    def tags(self) -> dict[str, set[str]]:
        """Names by the image's key."""
        return {event["source"]["key"]: {tag["name"] for tag in event["tags"]} for event in self.events.values()}


def published(site: Site, folder: Path, name: str, **settings: str) -> Published:
    """By a worker in a group of its own, with topics of its own and no cache: it reads all from the beginning."""
    topics = {kind: f"{site.name}.{name}.{kind}" for kind in ("output", "dead_letter", "skipped")}
    ensure_topics(site.stack.kafka.servers, {topic: (1, {}) for topic in topics.values()})
    group = f"{site.name}-{name}"
    own = {
        **{f"TAGSTREAM_{kind.upper()}_TOPIC": topic for kind, topic in topics.items()},
        "TAGSTREAM_GROUP": group,
        "TAGSTREAM_REDIS_URL": "",
        "TAGSTREAM_MAX_BATCH": "1",
    }
    with worker(site, name, folder, **own, **settings) as process:

        def done() -> bool:
            behind = lag(site.stack.kafka.servers, group, [site.images])
            compared = process.metric("tagstream_shadow_images_total", result="compared")
            return all(offsets == 0 for offsets in behind.values()) and (
                "TAGSTREAM_SHADOW_TAGGER" not in settings or compared == IMAGES
            )

        eventually(done, 120, process.said)
        assert process.metric("tagstream_shadow_works") == float("TAGSTREAM_SHADOW_TAGGER" in settings)
        assert process.terminate() == 0, process.said()
        assert "switched off" not in process.said()
    events = {seen.key or b"": json.loads(seen.value) for seen in site.read(topics["output"])}
    letters = [read_dead_letter_headers(seen.headers).failures for seen in site.read(topics["dead_letter"])]
    return Published(events, [tuple(failures) for failures in letters])


def lasting(events: Mapping[bytes, dict[str, Any]]) -> dict[bytes, str]:
    """The text of each event without what differs from run to run."""
    return {
        key: json.dumps({name: held for name, held in event.items() if name not in OF_A_RUN})
        for key, event in events.items()
    }


def test_the_output_is_that_without_a_shadow_and_the_report_says_what_differs(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the report says of the shadow is compared with what it publishes as the live tagger."""
    shadow, reports = other_bundle(tmp_path / "other"), tmp_path / "reports"
    profiles = tmp_path / "profiles.json"
    profiles.write_text('{"default": {"all": 0.015}}')
    for number in range(IMAGES):
        site.upload(f"{number}.jpg", photo(number, 128))
    site.upload("broken.jpg", photo(0)[:300])
    site.send([(site.own(f"{number}.jpg"), ()) for number in range(IMAGES)] + [(site.own("broken.jpg"), ())])
    both = {"TAGSTREAM_PROFILES": str(profiles)}
    trial = {
        "TAGSTREAM_SHADOW_TAGGER": str(shadow.folder),
        "TAGSTREAM_SHADOW_SHARE": "1",
        "TAGSTREAM_SHADOW_REPORTS": str(reports),
    }
    without = published(site, tmp_path, "without", **both)
    beside = published(site, tmp_path, "beside", **both, **trial)
    promoted = published(site, tmp_path, "promoted", **both, TAGSTREAM_TAGGER=str(shadow.folder))
    assert len(without.events) == IMAGES
    assert [failure.reason for [failure] in without.failures] == ["broken-image"]
    assert lasting(beside.events) == lasting(without.events)
    assert beside.failures == without.failures

    assert run_command(["shadow", "report", str(reports), "--label-images", "1", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["compared"], told["dropped"], told["switched_off"]) == (IMAGES, 0, [])
    assert (told["live"]["digest"], told["shadow"]["digest"]) == (compact_bundle().digest, shadow.digest)
    assert told["objections"][0]["reason"] == "8 images compared, and 1,000 asked for"

    common = set(compact_bundle().labels) & set(shadow.labels)
    pairs = [(without.tags()[key], tags) for key, tags in promoted.tags().items()]
    assert told["tags"] == {
        "both": sum(len(live & tags & common) for live, tags in pairs),
        "live": sum(len((live - tags) & common) for live, tags in pairs),
        "shadow": sum(len((tags - live) & common) for live, tags in pairs),
    }
    assert all(told["tags"].values()), "the two taggers are too much alike, or too little"
    lost = [name for live, _ in pairs for name in live - common]
    assert told["lost_labels"] == {name: lost.count(name) for name in lost}
    assert lost
