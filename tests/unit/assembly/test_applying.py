"""Corrections that are applied in batches, on a store, topics and a worker in memory, with a clock of their own."""

from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from schemas.correction import Corrections, correction
from schemas.enriched_image import CorrectedTags
from tests.unit.schemas import documents
from workers.assembly import corrections
from workers.assembly.corrections import AT_ONCE, Applier, Applying
from workers.backends.s3.store import FoundObject
from workers.settings import InputTopic, Settings
from workers.types import Message, ReadRecord

BEGIN = datetime(2026, 12, 1, tzinfo=UTC).timestamp()


class Place:
    """The store, the topics, and a worker that reads corrections late."""

    silent: Collection[str] = ()
    """Images that the worker rejects."""

    def __init__(self, per_second: float = 100, late_s: float = 0.5, gone: Iterable[str] = ()) -> None:
        self.now = 100.3
        self.late_s, self.per_second, self.gone = late_s, per_second, gone
        self.said: list[tuple[float, Message]] = []
        self.events: list[str] = []
        self.worked = 0.0
        self.known = Corrections()

    @property
    def date(self) -> str:
        """The store's clock, of seconds."""
        return datetime.fromtimestamp(BEGIN + int(self.now), UTC).isoformat().replace("+00:00", "Z")

    def find(self, bucket: str, key: str) -> FoundObject | None:
        return None if key in self.gone else FoundObject(3, "e", "", self.date)

    def emit(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if message.topic == "said":
                self.said.append((self.now + self.late_s, message))
            else:
                self.events.append(orjson.loads(message.value or b"")["key"])

    def poll(self, timeout_s: float) -> list[ReadRecord]:
        self.now += timeout_s
        while self.said and self.said[0][0] <= self.now:
            self.known.take(self.said[0][1].key, self.said.pop(0)[1].value)
        first, self.worked = int(self.worked), min(len(self.events), self.worked + timeout_s * self.per_second)
        return [self.outcome(key) for key in self.events[first : int(self.worked)] if key not in self.silent]

    def outcome(self, key: str) -> ReadRecord:
        word = self.known.on(f"photos/{key}", "a" * 64)
        shown = None if word is None else CorrectedTags(added=word.added, removed=word.removed)
        source = documents.enriched().source.model_copy(update={"key": key})
        version = int(datetime.fromisoformat(self.date).timestamp() * 1_000_000)
        subject = f"photos/{key}"
        made = documents.enriched(subject=subject, source=source, version=version, corrections=shown, tags=())
        return ReadRecord("out", 0, 0, 0, subject.encode(), made.model_dump_json().encode(), ())

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(**how: Any) -> Place:
        place = Place(**how)
        monkeypatch.setattr(corrections, "object_store", lambda _: SimpleNamespace(find=place.find, close=lambda: None))
        monkeypatch.setattr(corrections, "tail", lambda *_, **__: place)
        monkeypatch.setattr(corrections, "KafkaEmitter", lambda *_, **__: nullcontext(place))
        monkeypatch.setattr(corrections, "time", SimpleNamespace(monotonic=lambda: place.now))
        return place

    return made


def batch(*keys: str, sha256: str = "a" * 64) -> list[Applying]:
    return [Applying(correction("photos", key, added=["beach"], sha256=sha256)) for key in keys]


def settings() -> Settings:
    return Settings(
        kafka_servers=("k:9092",), corrections_topic="said", input_topics=(InputTopic("in"),), output_topic="out"
    )


def applied(*batches: list[Applying]) -> None:
    with Applier(settings()) as applier:
        for each in batches:
            applier.add(each)
        while applier.turn():
            pass


def test_a_batch_of_hundreds_sends_one_event_a_picture(at: Any) -> None:
    place, many = at(), batch(*(f"{n}.jpg" for n in range(200)))
    began = place.now
    applied(many)
    assert {each.version > 0 for each in many} == {True}
    assert set(Counter(place.events).values()) == {1}
    assert place.now - began < 5, "200 outcomes of 100 a second, and a second in which workers read the corrections"


def test_a_batch_does_not_hold_another_ones_correction(at: Any) -> None:
    place, many = at(per_second=20), batch(*(f"{n}.jpg" for n in range(200)))
    with Applier(settings()) as applier:
        applier.add(many)
        while place.now < 103:
            applier.turn()
        (other,) = mine = batch("other.jpg")
        applier.add(mine)
        while not other.ended:
            applier.turn()
        assert other.version
        assert place.now < 103 + 1 + AT_ONCE / 20 + 0.5, "a second of pause, and what was on its way"
        assert sum(each.ended for each in many) < 100
        while applier.turn():
            pass
    assert all(each.version for each in many)


def test_pictures_that_workers_reject_hold_no_others(at: Any) -> None:
    bad = [f"bad {n}.jpg" for n in range(2 * AT_ONCE)]
    place, many = at(), batch(*bad, *(f"{n}.jpg" for n in range(100)))
    place.silent, began = bad, place.now
    applied(many)
    assert [each.version > 0 for each in many] == [False] * len(bad) + [True] * 100
    assert place.now - began < 30


def test_an_outcome_without_the_correction_leads_to_another_event(at: Any) -> None:
    place, (late,) = at(late_s=2.5), (one := batch("a.jpg"))
    applied(one)
    assert late.version > 0
    assert 1 < len(place.events) < 5


def test_after_ten_events_without_the_correction_it_fails(at: Any) -> None:
    place, (other,) = at(), (one := batch("a.jpg", sha256="b" * 64))
    applied(one)
    assert (len(place.events), other.version) == (10, 0)
    assert "other content" in other.failure


def test_an_outcome_of_the_second_in_which_the_correction_was_sent_does_not_count(
    at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corrections, "_PAUSE_S", 0.2)
    place, one = at(late_s=0.1), batch("a.jpg")
    applied(one)
    assert place.now >= 101
    assert len(place.events) > 1


def test_what_the_store_lacks_fails_alone_and_is_not_sent(at: Any) -> None:
    place, many = at(gone={"1.jpg"}), batch("0.jpg", "1.jpg", "2.jpg")
    applied(many)
    assert [bool(each.version) for each in many] == [True, False, True]
    assert many[1].failure == "the store has no photos/1.jpg"
    assert sorted(place.events) == ["0.jpg", "2.jpg"]
    assert len(place.known) == 2


def test_without_a_worker_a_batch_ends(at: Any) -> None:
    place, many = at(per_second=0), batch(*(f"{n}.jpg" for n in range(300)))
    began = place.now
    applied(many)
    assert place.now - began < 20
    assert all("is a worker running?" in each.failure for each in many)
    assert len(place.events) <= 6 * AT_ONCE
