"""The choice of dead letters, and the records that a replay sends."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from schemas.dead_letter import Failure, dead_letter_headers, only_indexes, read_dead_letter_headers, without_nulls
from tests.support.command import Tagstream
from tests.support.kinds import BrightnessKind, given_kinds
from workers.assembly.replay import Choice, DeadLetterRecord, originals, up_to
from workers.assembly.skipping import Skipping
from workers.cli.dead_letters import print_table
from workers.cli.terminal import moment_ms
from workers.errors import Misconfigured
from workers.settings import InputTopic, Settings
from workers.types import Assignment, Headers, Message, Partition, ReadRecord


def dead_letter(
    key: bytes | None = b"photos/a.jpg",
    value: bytes | None = b"{}",
    headers: Headers = (),
    *,
    at_ms: int = 1000,
    reason: str = "unreadable",
    want: str | None = None,
    keys: Sequence[bytes | None] = (),
) -> DeadLetterRecord:
    bare = without_nulls(key, value, headers)
    kind: Any = {"stage": "annotate" if want else "fetch", "reason": reason, "want": want}
    failures = [Failure(index=index, detail="d", **kind) for index in (3, 1)]
    added = dead_letter_headers(
        topic="images", partition=2, offset=7, timestamp_ms=5, failures=failures, attempts=1, worker="0", models={},
        nulls=bare.nulls, keys=keys, last_offset=7 + max(0, len(keys) - 1),
    )  # fmt: skip
    record = ReadRecord("dead", 0, 0, at_ms, bare.key, bare.value, bare.headers + added)
    return DeadLetterRecord(record, read_dead_letter_headers(record.headers))


def only_original(of: DeadLetterRecord) -> Message:
    [message] = originals(of)
    return message


def test_a_dead_letter_of_many_records_replays_all_or_chosen_keys() -> None:
    keys = [b"photos/a.jpg", None, b"\xff", b"photos/b.jpg"]
    several = dead_letter(value=None, keys=keys)
    assert several.told.place == "images:2:7-10"
    every = Choice().of(several)
    assert every is not None
    assert [(message.key, message.value) for message in originals(every)] == [
        (b"photos/a.jpg", None), (b"", None), (b"\xff", None), (b"photos/b.jpg", None),
    ]  # fmt: skip
    assert {message.headers for message in originals(every)} == {(("tagstream-only", b"1,3"),)}
    some = Choice(key="photos/*").of(several)
    assert some is not None
    assert [message.key for message in originals(some)] == [b"photos/a.jpg", b"photos/b.jpg"]
    assert Choice(key="other/*").of(several) is None
    first, second = up_to(3, iter([some, every, every]))
    assert [len(originals(each)) for each in (first, second)] == [2, 1]


def test_a_replay_sends_the_original_and_the_failed_indexes() -> None:
    message = only_original(dead_letter(headers=(("traceparent", b"t"),)))
    assert (message.topic, message.key, message.value) == ("images", b"photos/a.jpg", b"{}")
    assert message.headers == (("traceparent", b"t"), ("tagstream-only", b"1,3"))
    assert only_indexes(message.headers) == frozenset({1, 3})


def test_nulls_come_back_as_far_as_they_can_be_sent() -> None:
    assert only_original(dead_letter(key=None)).key is None
    assert only_original(dead_letter(value=None)).value is None
    both = only_original(dead_letter(key=None, value=None, headers=(("h", None),)))
    assert (both.key, both.value) == (b"", None)
    assert both.headers[0] == ("h", b"")


@pytest.mark.parametrize(
    ("choice", "holds"),
    [
        (Choice(), True),
        (Choice(reasons=frozenset({"unreadable", "schema"})), True),
        (Choice(reasons=frozenset({"schema"})), False),
        (Choice(since_ms=1000), True),
        (Choice(since_ms=1001), False),
        (Choice(until_ms=1000), False),
        (Choice(until_ms=1001), True),
        (Choice(key="photos/*"), True),
        (Choice(key="other/*"), False),
        (Choice(key="photos/*", reasons=frozenset({"schema"})), False),
    ],
)
def test_a_dead_letter_is_chosen_if_all_conditions_hold(choice: Choice, holds: bool) -> None:
    assert (choice.of(dead_letter()) is not None) is holds


def test_failures_of_one_reason_are_chosen_by_their_missing_result() -> None:
    tags, embedding = (dead_letter(reason="annotate-failed", want=want) for want in ("tags", "embedding"))
    chosen = Choice(reasons=frozenset({"annotate-failed"}), wants=frozenset({"embedding"}))
    assert [chosen.of(each) for each in (embedding, tags, dead_letter())] == [embedding, None, None]
    assert Choice(reasons=frozenset({"caption-failed"}), wants=frozenset({"embedding"})).of(embedding) is None
    assert embedding.causes == ("annotate-failed (embedding)",)
    assert dead_letter().causes == ("unreadable",)


def test_times_are_dates_moments_or_how_long_ago() -> None:
    assert moment_ms("1970-01-02") == 86_400_000
    assert moment_ms("1970-01-01T01:00+01:00") == 0
    assert moment_ms("1970-01-01T00:00:01Z") == 1000
    assert moment_ms("2h") == pytest.approx((time.time() - 7200) * 1000, abs=5000)
    for text in ("yesterday", "9" * 30 + "d", "9" * 9 + "d"):
        with pytest.raises(Misconfigured, match="is no time"):
            moment_ms(text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("list --reason unreadble", "unreadable"),
        ("replay --want captions", "known are tags, caption, embedding"),
        ("list --want Faces", "known are tags, caption, embedding"),
        *(
            (f"{command} {place}", "TOPIC:PARTITION:OFFSET")
            for command in ("skip", "show")
            for place in ("images", "images:1", "images:a:1", "images:1:2:3", ":1:2")
        ),
        ("skip images.enriched:0:1", "TAGSTREAM_INPUT_TOPICS=images"),
    ],
)
def test_a_wrong_choice_is_reported(tagstream: Tagstream, arguments: str, says: str) -> None:
    assert says in tagstream("dead-letters", *arguments.split(), KAFKA_SERVERS="127.0.0.1:1").fails()


def test_results_to_choose_by_are_of_any_kind_unless_misspelt(tagstream: Tagstream) -> None:
    wanted = [word for name in ("tags", "faces", "brightness", "bright") for word in ("--want", name)]
    with given_kinds(BrightnessKind):
        ran = tagstream("dead-letters", "list", *wanted, KAFKA_SERVERS="127.0.0.1:1")
    assert "--want bright: known are tags, caption, embedding, brightness" in ran.err


@pytest.mark.slow
def test_any_number_is_listed_a_few_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    taken = 0

    def many() -> Iterator[DeadLetterRecord]:
        nonlocal taken
        for _ in range(1_200):
            taken += 1
            yield dead_letter()
        assert capsys.readouterr().out.count("dead:0:0") == 1_000, "shown before the last are read"

    print_table(many())
    assert taken == 1_200
    assert capsys.readouterr().out.splitlines()[-1].split() == ["1200", "dead", "letters"]


def test_one_is_counted_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(iter([dead_letter()]))
    assert capsys.readouterr().out.splitlines()[-1].split() == ["1", "dead", "letter"]


def test_a_replay_of_more_than_memory_should_hold_is_refused_before_anything_is_sent() -> None:
    letters = [dead_letter(value=bytes(20_000)) for _ in range(5)]
    assert up_to(None, iter(letters), 200_000) == letters
    assert up_to(1, iter(letters), 30_000) == letters[:1]
    with pytest.raises(Misconfigured, match=r"first 2 of these dead letters .* nothing was sent"):
        up_to(None, iter(letters), 30_000)


def test_a_skipped_record_is_null_truncated_and_named_by_its_coordinates() -> None:
    skipping = Skipping(Settings(input_topics=(InputTopic("images"),)), "images", 3, 41, print)
    message = skipping._dead_letter(Assignment(Partition("images", 3), "me"), limit=1 << 20)
    dead_letter = read_dead_letter_headers(message.headers)
    assert dead_letter is not None
    assert (dead_letter.topic, dead_letter.partition, dead_letter.offset, dead_letter.last_offset) == (
        "images",
        3,
        41,
        41,
    )
    assert (message.key, message.value, dead_letter.nulls, dead_letter.truncated) == (b"", b"", ("key", "value"), True)
    assert [failure.reason for failure in dead_letter.failures] == ["skipped-by-operator"]
