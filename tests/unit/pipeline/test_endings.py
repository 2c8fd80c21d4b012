"""The end of a task: it releases its resources; a dead letter holds as much of its record as the topic allows."""

import itertools
from dataclasses import replace

import pytest

from schemas.dead_letter import Failure, read_dead_letter_headers, strip_own_headers
from tests.support.harness import BUCKET, POISON, png
from tests.support.manual_pipeline import ManualPipeline
from workers.errors import Gone, Rejected, Superseded, Unavailable
from workers.pipeline.dead_letters import dead_letter, dead_letters
from workers.pipeline.task import Task
from workers.types import Assignment, Headers, Message, Partition, Record, Unreadable


def task() -> Task:
    manual = ManualPipeline()
    manual.give("a")
    manual.pipeline.parse.work()
    (found,) = manual.pipeline.lookup.events.take(9)
    return found


def test_resources_are_released_in_reverse_order() -> None:
    given: list[str] = []
    held = task()
    for what in ("a", "b", "c"):
        held.hold(what, lambda what=what: given.append(what))  # type: ignore[misc]
    held.close("done")
    assert given == ["c", "b", "a"]


def test_nothing_is_held_twice_at_once_and_an_early_release_is_not_repeated_at_the_end() -> None:
    given: list[str] = []
    held = task()
    held.hold("a", lambda: given.append("a"))
    held.hold("b", lambda: given.append("b"))
    with pytest.raises(AssertionError, match="a is held already"):
        held.hold("a", lambda: None)
    held.release("a", "never held")
    held.release("a")
    held.hold("a", lambda: given.append("a, the second"))
    held.close("dropped")
    held.close("dropped")
    assert given == ["a", "a, the second", "b"]


def test_one_that_can_not_be_given_back_keeps_no_other_from_it() -> None:
    given: list[str] = []

    def fails() -> None:
        raise OSError("no")

    held = task()
    held.hold("a", lambda: given.append("a"))
    held.hold("b", fails)
    with pytest.raises(OSError, match="no"):
        held.close("done")
    assert given == ["a"]


def held(manual: ManualPipeline) -> dict[str, int]:
    line = manual.pipeline
    return {
        "encoded": line.fetch.encoded.used,
        "slots": line.fetch.slots.used,
        "decoded": line.decode.budget.used,
        "gate": line.decode._gate._inside,
        "journal": len(manual.worker._journal._in_progress),
        "flights": len(line.lookup._equal),
        "places": sum(manual.in_flight.values()),
    }


NOTHING = {"encoded": 0, "slots": 0, "decoded": 0, "gate": 0, "journal": 0, "flights": 0, "places": 0}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (png((1, 2, 3)), None),
        (png(POISON), None),
        (b"not an image", None),
        (png((1, 2, 3))[:-30], None),
        (png((1, 2, 3)), Gone("no such object")),
        (png((1, 2, 3)), Superseded("another etag")),
        (png((1, 2, 3)), Rejected("fetch", "forbidden", "not yours")),
    ],
    ids=["done", "the model fails", "header", "pixels", "gone", "superseded", "refused"],
)
def test_a_task_that_is_done_holds_nothing_any_more(body: bytes, error: Exception | None) -> None:
    manual = ManualPipeline()
    for key in ("a", "b"):
        manual.store.put(BUCKET, key, body)
        if error is not None:
            manual.store.fail(BUCKET, key, error)  # type: ignore[arg-type]
    manual.handle("a", "b")
    assert len(manual.done) == 2
    assert held(manual) == NOTHING


def test_a_task_holds_nothing_any_more_wherever_its_assignment_ends() -> None:
    """Ends a task before each turn of its stages, one turn after the other, with an equal image in flight."""
    ended_in: set[str] = set()
    for turns in itertools.count():
        manual = ManualPipeline()
        manual.put("a")
        manual.store.put(BUCKET, "b", png((0, 1, 9)))
        manual.events("a", "b")
        threads = (manual.pipeline.parse, manual.pipeline.lookup, manual.pipeline.annotate, manual.pipeline.finish)
        for turn in range(turns):
            threads[turn % len(threads)].work()
        ended_in.update(manual.in_flight)
        over = len(manual.pipeline.parse) == 0 and not manual.in_flight
        manual.assignments[0].end()
        manual.pipeline.ledger.close_ended()
        for stage in manual.pipeline.stages:
            stage.drop_ended()
        for _ in range(10):
            for stage in threads:
                stage.work()
        assert held(manual) == NOTHING, turns
        if over:
            break
    assert ended_in == {"lookup", "wait-equal", "wait-device", "finish"}


def test_a_task_that_waits_for_the_store_holds_only_its_place(manual: ManualPipeline) -> None:
    manual.put("a")
    manual.store.fail(BUCKET, None, Unavailable("s3", "away"))
    manual.handle("a")
    assert held(manual) == {**NOTHING, "places": 1}
    manual.assignments[0].end()
    manual.pipeline.fetch.drop_ended()
    assert held(manual) == NOTHING


FAILURE = Failure(index=0, stage="parse", reason="not-an-event", detail="no object")
HEADERS: Headers = (("note", b"n" * 100), ("empty", None))


def any_record(
    *, key: bytes | None = b"key", offsets: int = 1, unreadable: Unreadable | None = None, append_time: bool = False
) -> Record:
    partition = Partition("in", 2)
    return Record(
        partition, 7, 1_000, key, b"v" * 500, HEADERS, Assignment(partition, "m"), offsets, unreadable, append_time
    )


def letter(of: Record, limit: int = 1 << 20) -> Message:
    return dead_letter(of, [FAILURE], topic="dead", limit=limit, worker="1.2.3", models={"tagger": "compact 3f2a"})


def test_a_dead_letter_is_the_record_and_its_failures() -> None:
    message = letter(any_record())
    read = read_dead_letter_headers(message.headers)
    assert (message.topic, message.key, message.value) == ("dead", b"key", b"v" * 500)
    assert strip_own_headers(message.headers) == (("note", b"n" * 100), ("empty", b""))
    assert (read.topic, read.partition, read.offset, read.last_offset) == ("in", 2, 7, 7)
    assert (read.timestamp_ms, read.attempts) == (1_000, 1)
    assert (read.worker, dict(read.models), list(read.failures)) == ("1.2.3", {"tagger": "compact 3f2a"}, [FAILURE])
    assert (read.nulls, read.truncated) == (("headers[1]",), False)


@pytest.mark.parametrize(("append_time", "said"), [(False, b"CreateTime"), (True, b"LogAppendTime")])
def test_a_dead_letter_has_the_records_time(append_time: bool, said: bytes) -> None:
    headers = dict(letter(any_record(append_time=append_time)).headers)
    assert headers["kafka_dlt-original-timestamp-type"] == said


def test_of_a_batch_that_was_not_opened_it_names_every_offset_and_counts_as_truncated() -> None:
    read = read_dead_letter_headers(
        letter(any_record(offsets=5, unreadable=Unreadable("batch-unreadable", "x"))).headers
    )
    assert (read.offset, read.last_offset, read.truncated) == (7, 11, True)


@pytest.mark.parametrize(
    ("less", "key", "value", "headers"),
    [(0, b"key", b"v" * 500, 2), (1, b"key", b"", 2), (500, b"key", b"", 2), (640, b"", b"", 0)],
)
def test_it_drops_no_more_than_it_must(less: int, key: bytes, value: bytes, headers: int) -> None:
    """The value is dropped first, then the record's own headers."""
    whole = letter(any_record())
    message = letter(any_record(), whole.size - less)
    assert (message.key, message.value, len(strip_own_headers(message.headers))) == (key, value, headers)
    assert read_dead_letter_headers(message.headers).truncated == (less > 0)
    assert message.size <= whole.size - less


def test_it_drops_nothing_more_where_it_fits_to_the_byte_without_its_value() -> None:
    without_value = letter(any_record(), letter(any_record()).size - 1)
    assert letter(any_record(), without_value.size) == without_value
    assert letter(any_record(), without_value.size - 1).key == b""


def test_of_nulls_it_names_the_key_where_it_has_no_headers_any_more() -> None:
    bare = letter(any_record(key=None), 1)
    assert read_dead_letter_headers(bare.headers).nulls == ("key",)


def letters(records: list[Record], limit: int = 1 << 20, allowed: int = 1 << 20) -> list[Message]:
    return dead_letters(records, [FAILURE], topic="dead", limit=limit, allowed=allowed, worker="1.2.3", models={})


def repeated(count: int) -> list[Record]:
    return [replace(any_record(key=b"%d" % number), offset=7 + number) for number in range(count)]


def test_records_that_differ_in_their_keys_alone_become_one_dead_letter_with_all_keys() -> None:
    [message] = letters(repeated(50))
    read = read_dead_letter_headers(message.headers)
    assert (read.offset, read.last_offset, message.key, message.value) == (7, 56, b"0", b"v" * 500)
    assert read.keys_or(None) == [b"%d" % number for number in range(50)]
    [single] = letters(repeated(1))
    assert "tagstream-keys" not in dict(single.headers)


def test_they_are_one_each_where_one_for_all_would_lose_the_value_that_each_can_have() -> None:
    single = letters(repeated(1))[0].size
    each = letters(repeated(200), limit=single + 20)
    assert [read_dead_letter_headers(message.headers).offset for message in each] == list(range(7, 207))
    assert {message.value for message in each} == {b"v" * 500}


def test_no_dead_letter_is_larger_than_its_record_may_cause() -> None:
    whole = letters(repeated(1))[0].size
    assert [message.value for message in letters(repeated(3), allowed=whole // 3)] == [b""] * 3
    assert len(letters(repeated(3), allowed=whole)) == 1
