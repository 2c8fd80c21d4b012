"""Which outcome is newer: removals and late events ask the store, and the largest `version` is the store's."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import settings

from schemas.dead_letter import Failure
from schemas.enriched_image import EnrichedImage, Retraction, Skip
from tests.support.harness import BUCKET, Harness, png
from tests.support.histories import UNDECIDABLE, Copy, Delivery, History, histories, moment, own, value
from tests.support.inline_intake import HeldIntake
from tests.support.manual_pipeline import ManualPipeline
from tests.support.readers import read, readme_reader
from tests.support.waiting import eventually
from workers.errors import Fault, Rejected, TagstreamError, Unavailable
from workers.types import Document

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
    return [read(outcome) for _, outcomes in sorted(manual.done.items()) for outcome in outcomes]


def outcome_words(manual: ManualPipeline) -> list[Any]:
    return [item.version if isinstance(item, Retraction) else item.reason for item in told(manual)]


def removal_outcomes(manual: ManualPipeline, *keys: str, **event: Any) -> list[Any]:
    manual.send(value(removal(*(keys or (KEY,)), **event)))
    manual.turn()
    return outcome_words(manual)


def failing(error: TagstreamError) -> ManualPipeline:
    manual = ManualPipeline()
    manual.store.fail(BUCKET, KEY, error)
    return manual


BY_EVENT, BY_DATE = (START - 400) * 1000, START * 1000


def test_an_object_that_is_gone_is_retracted_as_of_the_stores_answer(manual: ManualPipeline) -> None:
    manual.clock.advance(0.9)
    assert removal_outcomes(manual) == [BY_DATE]
    assert manual.reads == [KEY]
    assert removal_outcomes(manual, at=START + 500) == [BY_DATE, (START + 500) * 1000]


def test_without_a_time_of_its_own_a_removal_is_of_the_answers() -> None:
    assert removal_outcomes(ManualPipeline(), at=None) == [BY_DATE]


def test_an_object_that_is_there_is_not_retracted_whatever_the_event_says(manual: ManualPipeline) -> None:
    manual.put(KEY)
    assert removal_outcomes(manual, sequencer="F" * 128) == ["stale"]
    assert manual.reads == [KEY]


def test_a_stale_removal_leaves_the_cache_unchanged(manual: ManualPipeline) -> None:
    etag = manual.store.put(BUCKET, KEY, b"").etag
    manual.put(KEY)
    etag = manual.store.head(BUCKET, KEY, deadline_s=1).etag
    for _ in range(2):
        manual.handle(KEY, etag=etag, sequencer="0A")
        manual.commit_all()
        removal_outcomes(manual, sequencer="0B")
        manual.commit_all()
    first, _, second, _ = told(manual)
    assert isinstance(second, EnrichedImage)
    assert (first.cache.source, second.cache.source) == ("miss", "hit")


@pytest.mark.parametrize("fault", ["forbidden", "refused", "object"])
def test_where_we_may_not_look_the_event_is_believed_as_of_its_own_time(fault: Fault) -> None:
    manual = failing(Unavailable("s3", "HTTP 403 AccessDenied", fault=fault))
    assert removal_outcomes(manual) == [BY_EVENT]
    assert manual.reads == [KEY]
    assert manual.pipeline.fetch.unready() == []


def test_under_a_name_that_no_client_can_ask_for_the_event_is_believed() -> None:
    assert removal_outcomes(failing(Rejected("fetch", "unreadable", "no client can ask for this name"))) == [BY_EVENT]


def test_in_a_bucket_that_is_gone_the_event_is_believed(manual: ManualPipeline) -> None:
    assert removal_outcomes(manual, bucket="no-such-bucket") == [BY_EVENT]
    assert manual.pipeline.fetch.unready() == []


def test_wrong_credentials_retract_nothing(manual: ManualPipeline) -> None:
    manual.put(KEY)
    error = Unavailable("s3", "HTTP 403 InvalidAccessKeyId", fault="access", advice="correct the key")
    manual.store.fail(BUCKET, KEY, error)
    removal_outcomes(manual)
    manual.turns(60)
    assert outcome_words(manual) == []
    manual.store.heal()
    manual.turns(10)
    assert outcome_words(manual) == ["stale"]


def test_a_store_that_is_away_is_waited_for() -> None:
    manual = failing(Unavailable("s3", "no connection"))
    manual.store.fail(BUCKET, None, Unavailable("s3", "no connection"))
    removal_outcomes(manual)
    manual.turns(600, every_s=1.0)
    assert outcome_words(manual) == []
    assert manual.in_flight == {"wait-store": 1}
    manual.store.heal()
    manual.turns(10)
    [version] = outcome_words(manual)
    assert version >= BY_DATE + 600_000_000


@pytest.mark.slow
def test_a_look_that_fails_while_others_are_given_ends_with_the_events_word_and_no_dead_letter() -> None:
    manual = failing(Unavailable("s3", "HTTP 500 InternalError"))
    removal_outcomes(manual)
    for number in range(200):
        manual.give(f"{number}.png")
        manual.turns(1.0, every_s=0.2)
    results = told(manual)
    assert not any(isinstance(item, Failure | Skip) for item in results)
    assert [item.version for item in results if isinstance(item, Retraction)] == [BY_EVENT]


def test_an_object_from_before_its_removal_is_asked_for_twice_more(manual: ManualPipeline) -> None:
    """A store may show a removed object for a moment, and copies may have old dates."""
    manual.put(KEY)
    assert removal_outcomes(manual, at=START + 700) == []
    manual.turns(2)
    assert outcome_words(manual) == ["stale"]
    assert manual.reads == [KEY] * 3
    removal_outcomes(manual, at=START + 2_900)
    manual.store.remove(BUCKET, KEY)
    manual.turns(2)
    assert outcome_words(manual)[1:] == [(START + 2_900) * 1000]
    assert manual.reads == [KEY] * 5


def test_the_removal_of_one_version_is_not_asked_about(manual: ManualPipeline) -> None:
    manual.put(KEY)
    assert removal_outcomes(manual, versionId="v1") == [BY_EVENT]
    assert manual.reads == []


def test_each_object_of_a_message_is_looked_for_once(manual: ManualPipeline) -> None:
    """Guard: a message of 1,000 events of one object would cost the store 1,000 requests."""
    manual.put("there.png")
    removal_outcomes(manual, *["gone.png", "there.png"] * 500)
    assert outcome_words(manual) == [BY_DATE, "stale"] * 500
    assert sorted(manual.reads) == ["gone.png", "there.png"]
    removal_outcomes(manual, "gone.png")
    assert len(manual.reads) == 3
    assert [item.event.index for item in told(manual)] == [*range(1_000), 0]


def test_looks_have_their_places_among_the_reads_and_next_to_no_memory() -> None:
    manual = ManualPipeline(make_intake=HeldIntake, fetch_threads=2)
    removal_outcomes(manual, *(f"{number}.png" for number in range(50)))
    assert [max_bytes for _, max_bytes, _ in manual.intake.asked] == [1, 1]
    assert manual.pipeline.fetch.slots.used == 2
    assert manual.pipeline.fetch.encoded.used <= 50


RED, BLUE = (250, 20, 20), (20, 20, 250)
KNOWN = "2:sequencer:/photos/a.png"


class KnownSequencer(Harness):
    def __init__(self, sequencer: bytes = b"00FF") -> None:
        super().__init__()
        self.cache.remember({KNOWN: sequencer}, {})

    def outcomes(self, event: dict[str, Any]) -> list[str]:
        with self.running():
            self.send(event)
            self.settled()
        assert not self.dead()
        tags = [tag.name for image in self.outputs() if isinstance(image, EnrichedImage) for tag in image.tags]
        return [skip.reason for skip in self.skips()] + tags


@pytest.fixture
def known() -> KnownSequencer:
    return KnownSequencer()


def test_an_older_event_of_a_replaced_object_is_stale_and_its_bytes_are_not_read(known: KnownSequencer) -> None:
    older = known.put("a.png", RED)
    known.put("a.png", BLUE)
    assert known.outcomes(known.event("a.png", etag=older, sequencer="00FE")) == ["stale"]
    assert known.store.reads == [(BUCKET, "a.png")]


def test_an_older_version_is_stale_although_it_could_still_be_read(known: KnownSequencer) -> None:
    known.put("a.png", RED)
    version = known.store.head(BUCKET, "a.png", deadline_s=1).version_id
    known.put("a.png", BLUE)
    assert known.outcomes(known.event("a.png", version_id=version, sequencer="00FE")) == ["stale"]


@pytest.mark.slow
@pytest.mark.parametrize("sequencer", [b"f" * 18, b"F" * 16, b"f" * 128])
def test_no_sequencer_silences_an_object_that_the_store_has_as_the_event_names_it(sequencer: bytes) -> None:
    for named in ("etag", "version_id"):
        harness = KnownSequencer(sequencer)
        harness.put("a.png", RED)
        now = harness.store.head(BUCKET, "a.png", deadline_s=1)
        event = harness.event("a.png", **{named: getattr(now, named)}, sequencer="1" * len(sequencer))
        assert harness.outcomes(event) == ["red"]
        eventually(lambda harness=harness: harness.cache.lookup([KNOWN]) == [b"1" * len(sequencer)])  # type: ignore[misc]


def test_sequencers_of_two_lengths_are_not_compared() -> None:
    """A bucket that moved from a store with 18 digits to one with 16."""
    harness = KnownSequencer(b"0" * 2 + b"F" * 16)
    etag = harness.put("a.png", RED)
    assert harness.outcomes(harness.event("a.png", etag=etag, sequencer="1" * 16)) == ["red"]
    assert harness.store.reads == [(BUCKET, "a.png")]


def test_an_event_that_names_no_content_is_worked_on(known: KnownSequencer) -> None:
    known.put("a.png", RED)
    assert known.outcomes(known.event("a.png", sequencer="00FE")) == ["red"]


def test_an_older_event_of_a_removed_object_becomes_the_skip_gone(known: KnownSequencer) -> None:
    etag = known.put("a.png", RED)
    known.store.remove(BUCKET, "a.png")
    assert known.outcomes(known.event("a.png", etag=etag, sequencer="00FE")) == ["gone"]


def test_nothing_is_skipped_while_the_store_can_not_be_asked(known: KnownSequencer) -> None:
    older = known.put("a.png", RED)
    known.put("a.png", BLUE)
    known.store.fail(BUCKET, "a.png", Unavailable("s3", "away"), times=3)
    assert known.outcomes(known.event("a.png", etag=older, sequencer="00FE")) == ["stale"]
    assert len(known.store.reads) == 4


BODIES = [png(colour) for colour in ((250, 20, 20), (20, 250, 20), (20, 20, 250))]
READER = readme_reader()


class Life:
    bodies: ClassVar[Sequence[bytes]] = BODIES

    def __init__(self, lived: Iterable[History], **options: Any) -> None:
        self.manual = ManualPipeline(partitions=1, **options)
        self.lived = list(lived)
        self._of_records: dict[int, History] = {}
        self._events: dict[Delivery, dict[str, object]] = {}

    def run(self) -> None:
        steps: list[tuple[int, int, History, int | Copy | Delivery]] = []
        for history in self.lived:
            steps += [(change.at, 0, history, number) for number, change in enumerate(history.changes)]
            steps += [(copy.at, 0, history, copy) for copy in history.copies]
            steps += [(each.seen, 1, history, each) for each in history.deliveries if each.change is None]
            steps += [(each.at, 2, history, each) for each in history.deliveries]
        steps.sort(key=lambda step: step[:2])
        for (at, kind), together in groupby(steps, key=lambda step: step[:2]):
            self.manual.clock.advance(at / 1000 - self.manual.clock.wall())
            for _, _, history, what in together:
                if not isinstance(what, Delivery):
                    self._change(history, what)
                elif kind == 1:
                    self._list(history, what)
                else:
                    self._deliver(history, what)
            if kind == 2:
                self.manual.turn()
                self.manual.commit_all()
                self._turned()
        self.manual.turns(120, 1.0)

    def _turned(self) -> None:
        """The worker has handled all that it can."""

    def _change(self, history: History, number: int | Copy) -> None:
        assert not isinstance(number, Copy)
        change, store = history.changes[number], self.manual.store
        if change.content is None:
            store.remove(BUCKET, history.key)
            history.names.append("")
            return
        stored = store.put(BUCKET, history.key, self.bodies[change.content])
        history.names.append(stored.version_id or "")
        if history.aged:
            versions = store._buckets[BUCKET][history.key]
            versions[-1] = replace(stored, last_modified=moment((change.at - history.aged) // 1000 * 1000))

    def _list(self, history: History, delivery: Delivery) -> None:
        """As `tagstream emit` does: an event for each listed object, at the time of the listing."""
        stored = self.manual.store._buckets[BUCKET][history.key][-1]
        if stored is not None:
            at = delivery.seen // 1000 * 1000
            self._events[delivery] = own(history.key, etag=stored.etag, event_time=moment(at))

    def _deliver(self, history: History, delivery: Delivery) -> None:
        if delivery.change is None:
            event = self._events.get(delivery)
        else:
            content = history.changes[delivery.change].content
            etag = self.etag_of(content) if content is not None else ""
            event = history.event(delivery.change, etag, history.names[delivery.change])
        if event is not None:
            self._of_records[self.manual.send(value(event))] = history

    def etag_of(self, content: int) -> str:
        return hashlib.md5(self.bodies[content], usedforsecurity=False).hexdigest()

    def outcomes(self) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {history.key: [] for history in self.lived}
        for (_, offset, _), outcomes in self.manual.done.items():
            for outcome in outcomes:
                assert isinstance(outcome, Document), outcome
                found[self._of_records[offset].key].append(outcome.value)
        assert len(self.manual.done) == len(self._of_records), "an event has no outcome"
        return found


def shown_last(history: History, values: list[bytes], random: Random) -> EnrichedImage | None:
    """What a reader shows in the end, whatever the order in which the outcomes come."""
    held: dict[bytes, EnrichedImage | Retraction] = {}
    random.shuffle(values)
    for each in values:
        READER["index"](each, held)
    image: EnrichedImage | None = READER["shown"](f"{BUCKET}/{history.key}", held)
    return image


def ends_right(life: Life, history: History, image: EnrichedImage | None) -> bool:
    content = history.changes[-1].content
    if content is None or image is None:
        return content is None and image is None
    return image.source.etag == life.etag_of(content)


def tried(seed: int, count: int) -> tuple[Counter[str], list[History]]:
    """Numbers of histories: decided, by dialect; undecided, by cause; and wrong ones."""
    life = Life(histories(seed, count, START))
    life.run()
    random, outcomes = Random(seed), life.outcomes()
    counts: Counter[str] = Counter()
    wrong = []
    for history in life.lived:
        counts[history.undecidable or history.dialect] += 1
        last = shown_last(history, outcomes[history.key], random)
        if not history.undecidable and not ends_right(life, history, last):
            wrong.append(history)
    return counts, wrong


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(settings().max_examples // 6))
def test_the_largest_version_shows_the_stores_present_state(seed: int) -> None:
    counts, wrong = tried(seed, 400)
    assert wrong == []
    assert set(counts) <= {"s3", "plain", "bridge", "timeless", *UNDECIDABLE}
    assert sum(counts[each] for each in UNDECIDABLE) < 400 / 5
