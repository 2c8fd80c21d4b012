"""Events that come after a newer one of their object: the cache may doubt them, and the store decides."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.enriched_image import EnrichedImage
from tests.support.harness import BUCKET, Harness
from tests.support.waiting import eventually
from workers.errors import Unavailable

RED, BLUE = (250, 20, 20), (20, 20, 250)
KNOWN = "2:sequencer:/photos/a.png"


class Told(Harness):
    """A harness whose cache knows a sequencer of photos/a.png, whatever wrote it there."""

    def __init__(self, sequencer: bytes = b"00FF") -> None:
        super().__init__()
        self.cache.remember({KNOWN: sequencer}, {})

    def outcomes(self, event: dict[str, Any]) -> list[str]:
        """What comes of one event: reasons of skips, and colours."""
        with self.running():
            self.send(event)
            self.settled()
        assert not self.dead()
        tags = [tag.name for image in self.outputs() if isinstance(image, EnrichedImage) for tag in image.tags]
        return [skip.reason for skip in self.skips()] + tags


def test_an_older_event_of_a_replaced_object_is_stale_and_its_bytes_are_not_read() -> None:
    harness = Told()
    older = harness.put("a.png", RED)
    harness.put("a.png", BLUE)
    assert harness.outcomes(harness.event("a.png", etag=older, sequencer="00FE")) == ["stale"]
    assert harness.store.reads == [(BUCKET, "a.png")]


def test_an_older_version_is_stale_although_it_could_still_be_read() -> None:
    harness = Told()
    harness.put("a.png", RED)
    version = harness.store.head(BUCKET, "a.png", deadline_s=1).version_id
    harness.put("a.png", BLUE)
    assert harness.outcomes(harness.event("a.png", version_id=version, sequencer="00FE")) == ["stale"]


@pytest.mark.slow
@pytest.mark.parametrize("sequencer", [b"f" * 18, b"F" * 16, b"f" * 128])
def test_no_sequencer_silences_an_object_that_the_store_has_as_the_event_names_it(sequencer: bytes) -> None:
    for named in ("etag", "version_id"):
        harness = Told(sequencer)
        harness.put("a.png", RED)
        now = harness.store.head(BUCKET, "a.png", deadline_s=1)
        event = harness.event("a.png", **{named: getattr(now, named)}, sequencer="1" * len(sequencer))
        assert harness.outcomes(event) == ["red"]
        eventually(lambda harness=harness: harness.cache.lookup([KNOWN]) == [b"1" * len(sequencer)])  # type: ignore[misc]


def test_sequencers_of_two_lengths_are_not_compared() -> None:
    """A bucket that moved from a store with 18 digits to one with 16."""
    harness = Told(b"0" * 2 + b"F" * 16)
    etag = harness.put("a.png", RED)
    assert harness.outcomes(harness.event("a.png", etag=etag, sequencer="1" * 16)) == ["red"]
    assert harness.store.reads == [(BUCKET, "a.png")]


def test_an_event_that_names_no_content_is_worked_on() -> None:
    harness = Told()
    harness.put("a.png", RED)
    assert harness.outcomes(harness.event("a.png", sequencer="00FE")) == ["red"]


def test_an_older_event_of_an_object_that_is_gone_is_told_so() -> None:
    harness = Told()
    etag = harness.put("a.png", RED)
    harness.store.remove(BUCKET, "a.png")
    assert harness.outcomes(harness.event("a.png", etag=etag, sequencer="00FE")) == ["gone"]


def test_nothing_is_skipped_while_the_store_can_not_be_asked() -> None:
    harness = Told()
    older = harness.put("a.png", RED)
    harness.put("a.png", BLUE)
    harness.store.fail(BUCKET, "a.png", Unavailable("s3", "away"), times=3)
    assert harness.outcomes(harness.event("a.png", etag=older, sequencer="00FE")) == ["stale"]
    assert len(harness.store.reads) == 4


def test_what_is_known_of_another_content_under_one_name_is_no_hit() -> None:
    harness = Harness()
    with harness.running():
        for colour in (RED, BLUE):
            etag = harness.put("a.png", colour)
            harness.send(harness.event("a.png", version_id="null", etag=etag))
            harness.settled()
    images = [image for image in harness.outputs() if isinstance(image, EnrichedImage)]
    assert [tag.name for image in images for tag in image.tags] == ["red", "blue"]


def test_a_hit_whose_etag_differs_from_the_events_is_a_miss() -> None:
    harness = Harness()
    stored = harness.store.put(BUCKET, "a.png", b"")
    with harness.running():
        for colour in (RED, BLUE):
            etag = harness.put("a.png", colour)
            version = harness.store.head(BUCKET, "a.png", deadline_s=1).version_id
            harness.send(harness.event("a.png", version_id=version, etag=etag))
            harness.settled()
            place = ("2:source:/photos/a.png", f"v:{version}")
            eventually(lambda place=place: harness.cache.lookup_fields([place]) != [None])  # type: ignore[misc]
            [known] = harness.cache.lookup_fields([place])
        assert known is not None
        assert stored.etag.encode() not in known
        wrong = known.replace(etag.encode(), stored.etag.encode())
        harness.cache.remember({}, {place: wrong})
        harness.send(harness.event("a.png", version_id=version, etag=etag))
        harness.settled()
    images = [image for image in harness.outputs() if isinstance(image, EnrichedImage)]
    assert images[-1].cache.source == "miss"
    assert images[-1].source.etag == etag
