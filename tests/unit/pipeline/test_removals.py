"""Before an image is retracted the store is asked whether it is gone: an event may be late, sent twice, or forged."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from schemas.dead_letter import Failure
from schemas.enriched_image import EnrichedImage, Retraction, Skip
from tests.support.harness import BUCKET
from tests.support.histories import moment, value
from tests.support.manual_pipeline import ManualPipeline
from tests.support.outcomes import read
from workers.errors import Fault, Rejected, TagstreamError, Unavailable
from workers.intake.inline import InlineIntake
from workers.types import Fetched, Job

KEY = "a.png"
START = 1_800_000_000_000
"""Where a manual clock begins, in milliseconds."""


def removal(*keys: str, at: int | None = START - 400, bucket: str = BUCKET, **more: Any) -> dict[str, Any]:
    time = {} if at is None else {"eventTime": moment(at)}
    return {
        "Records": [
            {
                "eventName": "ObjectRemoved:Delete",
                "s3": {"bucket": {"name": bucket}, "object": {"key": key, **more}},
                **time,
            }
            for key in keys
        ]
    }


def told(manual: ManualPipeline) -> list[Any]:
    """What came of all events, in their order."""
    return [read(outcome) for _, outcomes in sorted(manual.done.items()) for outcome in outcomes]


def came(manual: ManualPipeline) -> list[Any]:
    """The same in a word each: the version of a retraction, the reason of a skip or a dead letter."""
    return [item.version if isinstance(item, Retraction) else item.reason for item in told(manual)]


def asked(manual: ManualPipeline, *keys: str, **event: Any) -> list[Any]:
    """What comes of the removal of these objects in one message."""
    manual.send(value(removal(*(keys or (KEY,)), **event)))
    manual.turn()
    return came(manual)


def failing(error: TagstreamError) -> ManualPipeline:
    manual = ManualPipeline()
    manual.store.fail(BUCKET, KEY, error)
    return manual


BY_EVENT, BY_DATE = (START - 400) * 1000, START * 1000


def test_an_object_that_is_gone_is_retracted_as_of_the_stores_answer() -> None:
    manual = ManualPipeline()
    manual.clock.advance(0.9)
    assert asked(manual) == [BY_DATE]
    assert manual.reads == [KEY]
    assert asked(manual, at=START + 500) == [BY_DATE, (START + 500) * 1000]


def test_without_a_time_of_its_own_a_removal_is_of_the_answers() -> None:
    assert asked(ManualPipeline(), at=None) == [BY_DATE]


def test_an_object_that_is_there_is_not_retracted_whatever_the_event_says() -> None:
    manual = ManualPipeline()
    manual.put(KEY)
    assert asked(manual, sequencer="F" * 128) == ["stale"]
    assert manual.reads == [KEY]


def test_a_stale_removal_leaves_the_cache_as_it_is() -> None:
    manual = ManualPipeline()
    etag = manual.store.put(BUCKET, KEY, b"").etag
    manual.put(KEY)
    etag = manual.store.head(BUCKET, KEY, deadline_s=1).etag
    for _ in range(2):
        manual.events(KEY, etag=etag, sequencer="0A")
        manual.turn()
        manual.commit_all()
        asked(manual, sequencer="0B")
        manual.commit_all()
    first, _, second, _ = told(manual)
    assert isinstance(second, EnrichedImage)
    assert (first.cache.source, second.cache.source) == ("miss", "hit")


@pytest.mark.parametrize("fault", ["forbidden", "refused", "object"])
def test_where_we_may_not_look_the_event_is_believed_as_of_its_own_time(fault: Fault) -> None:
    manual = failing(Unavailable("s3", "HTTP 403 AccessDenied", fault=fault))
    assert asked(manual) == [BY_EVENT]
    assert manual.reads == [KEY]
    assert manual.pipeline.fetch.unready() == []


def test_under_a_name_that_no_client_can_ask_for_the_event_is_believed() -> None:
    assert asked(failing(Rejected("fetch", "unreadable", "no client can ask for this name"))) == [BY_EVENT]


def test_in_a_bucket_that_is_gone_the_event_is_believed() -> None:
    manual = ManualPipeline()
    assert asked(manual, bucket="no-such-bucket") == [BY_EVENT]
    assert manual.pipeline.fetch.unready() == []


def test_wrong_credentials_retract_nothing() -> None:
    manual = ManualPipeline()
    manual.put(KEY)
    error = Unavailable("s3", "HTTP 403 InvalidAccessKeyId", fault="access", advice="correct the key")
    manual.store.fail(BUCKET, KEY, error)
    asked(manual)
    manual.turns(60)
    assert came(manual) == []
    manual.store.heal()
    manual.turns(10)
    assert came(manual) == ["stale"]


def test_a_store_that_is_away_is_waited_for() -> None:
    manual = failing(Unavailable("s3", "no connection"))
    manual.store.fail(BUCKET, None, Unavailable("s3", "no connection"))
    asked(manual)
    manual.turns(600, every_s=1.0)
    assert came(manual) == []
    assert manual.in_flight == {"wait-store": 1}
    manual.store.heal()
    manual.turns(10)
    [version] = came(manual)
    assert version > BY_DATE + 600_000_000


def test_a_look_that_fails_while_others_are_given_ends_with_the_events_word_and_no_dead_letter() -> None:
    manual = failing(Unavailable("s3", "HTTP 500 InternalError"))
    asked(manual)
    for number in range(200):
        manual.put(f"{number}.png")
        manual.events(f"{number}.png")
        manual.turns(1.0, every_s=0.2)
    results = told(manual)
    assert not any(isinstance(item, Failure | Skip) for item in results)
    assert [item.version for item in results if isinstance(item, Retraction)] == [BY_EVENT]


def test_an_object_from_before_its_removal_is_asked_for_twice_more() -> None:
    """A store may show what was removed for a moment; and copies may have old dates."""
    manual = ManualPipeline()
    manual.put(KEY)
    assert asked(manual, at=START + 700) == []
    manual.turns(2)
    assert came(manual) == ["stale"]
    assert manual.reads == [KEY] * 3
    asked(manual, at=START + 2_900)
    manual.store.remove(BUCKET, KEY)
    manual.turns(2)
    assert came(manual)[1:] == [(START + 2_900) * 1000]
    assert manual.reads == [KEY] * 5


def test_the_removal_of_one_version_is_not_asked_about() -> None:
    manual = ManualPipeline()
    manual.put(KEY)
    assert asked(manual, versionId="v1") == [BY_EVENT]
    assert manual.reads == []


def test_each_object_of_a_message_is_looked_for_once() -> None:
    """Guard: a message of 1,000 events of one object would cost the store 1,000 requests."""
    manual = ManualPipeline()
    manual.put("there.png")
    asked(manual, *["gone.png", "there.png"] * 500)
    assert came(manual) == [BY_DATE, "stale"] * 500
    assert sorted(manual.reads) == ["gone.png", "there.png"]
    asked(manual, "gone.png")
    assert len(manual.reads) == 3
    assert [item.event.index for item in told(manual)] == [*range(1_000), 0]


class _Hanging(InlineIntake):
    """Never answers, and counts."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.began: list[int] = []

    def fetch(self, job: Job, max_bytes: int) -> Future[Fetched]:
        self.began.append(max_bytes)
        return Future()


def test_looks_have_their_places_among_the_reads_and_next_to_no_memory() -> None:
    made: list[_Hanging] = []

    def make(store: Any) -> _Hanging:
        made.append(_Hanging(store, []))
        return made[0]

    manual = ManualPipeline(make_intake=make, fetch_threads=2)
    asked(manual, *(f"{number}.png" for number in range(50)))
    assert made[0].began == [1, 1]
    assert manual.pipeline.fetch.slots.used == 2
    assert manual.pipeline.fetch.encoded.used <= 50
