from __future__ import annotations

import pytest

from schemas.dead_letter import dead_letter_headers
from tagstream_testing.local import demo_watch
from tagstream_testing.local.demo_watch import Row, Watch
from testing.tests.local.answers import dead_letter, enriched, retraction
from workers.backends.kafka import ReadRecord


class Canned:
    """A tail that gives what it was given."""

    def __init__(self) -> None:
        self.records: list[ReadRecord] = []

    def poll(self, timeout_s: float) -> list[ReadRecord]:
        records, self.records = self.records, []
        return records

    def close(self) -> None: ...

    def bring(self, topic: str, key: bytes, value: bytes, headers: tuple[tuple[str, bytes | None], ...] = ()) -> None:
        self.records.append(ReadRecord(topic, 0, len(self.records), 0, key, value, headers))


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> Canned:
    source = Canned()
    monkeypatch.setattr(demo_watch, "tail", lambda *_, **__: source)
    return source


@pytest.fixture
def watch(canned: Canned) -> Watch:
    return Watch("127.0.0.1:1", "out", "dead", "skipped")


def test_an_answer_goes_to_the_event_of_its_subject(watch: Watch, canned: Canned) -> None:
    cat, dog = Row("photos/cat.png", None), Row("photos/dog.png", None)
    watch.expect(cat)
    watch.expect(dog)
    canned.bring("out", b"photos/dog.png", enriched("dog.png").to_bytes())
    assert list(watch.poll(0)) == [dog]
    assert dog.outcome == "enriched"
    assert dog.work_ms == 40.0
    assert (cat.outcome, watch.waiting) == ("open", 1)


def test_two_events_of_one_object_are_answered_in_order(watch: Watch, canned: Canned) -> None:
    upload, removal = Row("photos/cat.png", None), Row("photos/cat.png", None)
    watch.expect(upload)
    watch.expect(removal)
    canned.bring("out", b"photos/cat.png", enriched().to_bytes())
    canned.bring("out", b"photos/cat.png", retraction().to_bytes())
    assert list(watch.poll(0)) == [upload, removal]
    assert (upload.outcome, removal.outcome, watch.waiting) == ("enriched", "retraction", 0)


def test_a_dead_letter_is_known_by_its_record_key(watch: Watch, canned: Canned) -> None:
    broken = Row("photos/cut short.jpg", None)
    watch.expect(broken)
    failures = dead_letter().failures
    headers = dead_letter_headers(
        topic="images", partition=2, offset=9, timestamp_ms=0, failures=failures, attempts=1, worker="0", models={}
    )
    canned.bring("dead", b"photos/cut short.jpg", b"{}", headers)
    assert list(watch.poll(0)) == [broken]
    assert broken.outcome == "dead-letter"
    assert watch.coordinates == [("images", 2, 9)]


def test_an_answer_that_comes_twice_is_counted_twice(watch: Watch, canned: Canned) -> None:
    watch.expect(Row("photos/cat.png", None))
    canned.bring("out", b"photos/cat.png", enriched().to_bytes())
    canned.bring("out", b"photos/cat.png", enriched().to_bytes())
    assert len(list(watch.poll(0))) == 1
    assert watch.coordinates == [("images", 0, 7)] * 2


@pytest.mark.parametrize(
    ("source", "tags", "saved"),
    [("hit", "hit", "fetch and model"), ("miss", "hit", "model"), ("hit", "miss", None), ("miss", "miss", None)],
)
def test_what_the_cache_saved_is_read_from_the_event(source: str, tags: str, saved: str | None) -> None:
    answered = Row("photos/cat.png", None, answer=enriched(cache={"source": source, "tags": tags, "caption": None}))
    assert answered.remembered == saved
