"""The judge's knowledge, its limits, and its memory."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from schemas.dead_letter import PARTIAL_ALONE
from schemas.image_event import MAX_RECORDS, parse_message
from tests.fuzz.mutators import headers, nullable
from tests.fuzz.targets.messages import messages
from tests.unit.audit.history import DEAD, IN, OUT, SKIPPED, dead_letter, found, judged, outcome, record, remade
from tests.unit.schemas.documents import EVENT, enriched, notification, own
from workers.audit import judge
from workers.audit.claims import Claim, claim_of, count_events
from workers.audit.judge import CLOCKS_MS, Topics
from workers.audit.report import Fault
from workers.audit.seen import Seen
from workers.errors import Misconfigured
from workers.types import Partition, ReadRecord, Unreadable

HOURS = CLOCKS_MS


def out(offset: int, index: int = 0, *, number: int = 0, key: str = "a.png", at_ms: int = 0) -> ReadRecord:
    return outcome(offset, index, at=(OUT, number, offset), key=f"photos/{key}".encode(), at_ms=at_ms)


def test_a_finding_names_the_record_the_events_and_the_outcome() -> None:
    report = judged([record(0, 3), record(1), record(2)], [out(0, 1), out(2), out(1), out(1)])
    [missing] = report.findings["missing"]
    assert str(missing) == f"{IN}:0:0: events 0, 2 without outcome"
    [late] = report.findings["out-of-order"]
    assert str(late) == f"{IN}:0:1: came after that of offset 2, at {OUT}:0:1"
    [doubled] = report.findings["doubled"]
    assert str(doubled) == f"{IN}:0:1: event 0 came again, at {OUT}:0:1"
    assert not report.proved


def test_outcomes_of_other_ranges_and_strange_records_are_counted_apart() -> None:
    elsewhere = outcome(3, of=7, at=(OUT, 0, 0))
    report = judged([record(5)], [out(4), elsewhere, out(5), out(6), replace(out(5), value=b"?")], ranges={0: (5, 6)})
    assert report.proved
    assert (report.outcomes, report.other, report.strange) == (1, 3, 1)


def test_an_outcome_that_a_compacted_topic_dropped_for_a_newer_one_is_no_fault() -> None:
    compacted = Topics(OUT, output_compacted=True)
    records = [record(0, key="a.png"), record(1, key="b.png"), record(2, key="a.png")]
    report = judged(records, [out(2, key="a.png")], topics=compacted)
    assert report.unverifiable == {"superseded": 1}
    assert found(report, "missing") == [f"{IN}:0:1"], "nothing newer has its key"
    report = judged(records[:1], [out(2, key="a.png")], topics=compacted)
    assert report.unverifiable == {"superseded": 1}, "the newer one is beyond what is judged"
    report = judged([record(0, 2, key="a.png")], [out(0, 1, key="a.png")], topics=compacted)
    assert report.unverifiable == {"superseded": 1}, "the newer one is of the same record"


def tombstone(at: int, key: str = "a.png") -> ReadRecord:
    return ReadRecord(OUT, 0, at, 0, f"photos/{key}".encode(), None, (("tagstream-version", b"8"),))


def test_a_tombstone_answers_nothing_and_is_no_foreign_record() -> None:
    report = judged([record(0)], [out(0), tombstone(1)])
    assert (report.proved, report.tombstones, report.strange) == (True, 1, 0)
    assert found(judged([record(0)], [tombstone(1)]), "missing") == [f"{IN}:0:0"]
    report = judged([record(0)], [out(0), replace(tombstone(1), topic=SKIPPED), replace(tombstone(2), key=None)])
    assert (report.tombstones, report.strange) == (0, 2)


def test_an_outcome_that_compaction_dropped_for_a_tombstone_is_no_fault() -> None:
    compacted = Topics(OUT, output_compacted=True)
    assert judged([record(0)], [tombstone(1)], topics=compacted).unverifiable == {"superseded": 1}
    records = [record(0, at_ms=10), record(1, at_ms=20)]
    report = judged(records, [], topics=replace(compacted, forgets_before_ms=20))
    assert report.unverifiable == {"forgotten": 1}
    assert found(report, "missing") == [f"{IN}:0:1"], "too new to be forgotten"


def test_without_a_skipped_topic_a_record_without_outcome_may_have_been_skipped() -> None:
    report = judged([record(0), record(1)], [out(0)], topics=Topics(OUT, skips=False))
    assert (report.proved, report.unverifiable) == (True, {"no-skipped-topic": 1})
    report = judged([record(0)], [outcome(0, at=(OUT, 0, 0), status="partial")], topics=Topics(OUT, skips=False))
    assert found(report, "missing") == [f"{IN}:0:0"], "an image is no skip"


def test_a_partial_image_whose_role_was_not_there_is_whole_with_its_dead_letter() -> None:
    partial = outcome(0, at=(OUT, 0, 0), status="partial")
    letter = dead_letter(0, at=(DEAD, 0, 0), reason="role-not-here")
    assert judged([record(0)], [partial, letter]).proved
    assert found(judged([record(0)], [partial]), "missing") == [f"{IN}:0:0"]


def partial(*reasons: str) -> ReadRecord:
    return outcome(0, at=(OUT, 0, 0), status="partial", reasons=reasons)


@pytest.mark.parametrize("reason", sorted(PARTIAL_ALONE))
def test_a_partial_image_is_whole_without_a_dead_letter_if_a_service_gave_no_answer(reason: str) -> None:
    letter = dead_letter(0, at=(DEAD, 0, 0), reason="annotate-failed")
    assert judged([record(0)], [partial(reason)]).proved
    assert found(judged([record(0)], [partial(reason), letter]), "doubled") == [f"{IN}:0:0"]
    for two in ((reason, "annotate-failed"), ("annotate-failed", reason)):
        assert found(judged([record(0)], [partial(*two)]), "missing") == [f"{IN}:0:0"], "its other result has one"
        assert judged([record(0)], [partial(*two), letter]).proved


@pytest.mark.parametrize("missing", [5, [1], ["reason"], [{}], [{"reason": []}]])
def test_a_partial_image_of_another_shape_is_a_foreign_record(missing: Any) -> None:
    read = partial("caption-budget")
    document = json.loads(read.value or b"") | {"missing": missing}
    assert claim_of(json.dumps(document).encode(), ()) is None


def test_a_compacted_topic_of_dead_letters_or_skips_excuses_any() -> None:
    report = judged([record(0)], [], topics=Topics(OUT, others_compacted=True))
    assert (report.proved, report.unverifiable) == (True, {"compacted": 1})


def test_an_output_that_lost_its_oldest_records_excuses_what_may_have_been_among_them() -> None:
    cut = Topics(OUT, cut=frozenset({Partition(OUT, 0)}))
    outcomes = [out(2, at_ms=HOURS), out(4, at_ms=HOURS), outcome(3, at=(SKIPPED, 0, 0), schema="skipped/1")]
    records = [record(offset) for offset in (1, 2, 3, 4, 5)]
    report = judged(records, outcomes, topics=cut)
    assert report.unverifiable == {"expired": 1}
    assert found(report, "missing") == [f"{IN}:0:5"], "the partition has older ones"
    late = [record(1, at_ms=2 * HOURS + 1), *records[1:4]]
    assert found(judged(late, outcomes, topics=cut), "missing") == [f"{IN}:0:1"], "newer than the oldest that is there"
    assert judged(late, [], topics=cut).unverifiable == {"expired": 4}, "nothing is left of it"


def test_lost_offsets_of_the_input_are_counted_and_their_outcomes_are_judged_alone() -> None:
    outcomes = [out(offset) for offset in (0, 1, 5)]
    report = judged([record(5)], [*outcomes, out(1)], begins=5)
    assert report.unverifiable == {"input-expired": 5}
    assert found(report, "doubled") == [f"{IN}:0:1"]
    assert report.records == 1


def test_outcomes_of_offsets_that_hold_no_record_are_faults_unless_the_input_is_compacted() -> None:
    records, outcomes = [record(0), record(3)], [out(0), out(1), out(3), out(4)]
    report = judged(records, outcomes, ranges={0: (0, 6)})
    assert found(report, "without-record") == [f"{IN}:0:1", f"{IN}:0:4"]
    report = judged(records, outcomes, ranges={0: (0, 6)}, topics=Topics(OUT, inputs_compacted={IN}))
    assert (report.proved, report.unverifiable) == (True, {"input-compacted": 2})


def test_gaps_of_any_length_cost_no_memory_and_little_time() -> None:
    end = 1_000_000_000
    report = judged([record(0), record(end - 1)], [out(0), out(end // 2), out(end - 1)], ranges={0: (0, end)})
    assert found(report, "without-record") == [f"{IN}:0:{end // 2}"]


def test_an_event_that_the_message_does_not_have_is_named() -> None:
    [finding] = judged([record(0, 2)], [out(0), out(0, 1), out(0, 4)]).findings["without-record"]
    assert finding.detail == "event 4 answered, of a message of 2"


def test_a_group_that_began_at_the_end_owes_nothing_before_its_first_outcome() -> None:
    records = [record(offset) for offset in range(4)]
    report = judged(records, [out(2)], topics=Topics(OUT, from_latest=True))
    assert report.unverifiable == {"before-the-group": 2}
    assert found(report, "missing") == [f"{IN}:0:3"]


def unreadable(offset: int, offsets: int) -> ReadRecord:
    return ReadRecord(IN, 0, offset, 0, None, None, (), offsets, Unreadable("batch-too-large", "too large"))


def test_a_batch_that_can_not_be_read_here_needs_one_dead_letter_or_any_outcome() -> None:
    batch = unreadable(0, 10)
    dead = dead_letter(3, at=(DEAD, 0, 0), last=9, reason="batch-too-large")
    report = judged([batch], [dead])
    assert (report.proved, report.unverifiable) == (True, {})
    report = judged([batch], [out(0), out(1)])
    assert (report.proved, report.unverifiable) == (True, {"input-unreadable": 1})
    assert found(judged([batch], []), "missing") == [f"{IN}:0:0"]
    single = dead_letter(0, at=(DEAD, 0, 0), reason="batch-too-large")
    assert judged([unreadable(0, 1)], [single]).unverifiable == {}


def test_records_of_a_batch_that_a_worker_could_not_read_are_answered_by_its_dead_letter() -> None:
    dead = dead_letter(1, at=(DEAD, 0, 0), last=2**62, reason="batch-too-large")
    assert judged([record(0), record(1), record(2, 5)], [out(0), dead]).proved
    report = judged([record(0), record(1)], [out(0), out(1), dead, replace(dead, offset=1)])
    assert found(report, "doubled") == [f"{IN}:0:1", f"{IN}:0:1"], "the dead letter that came again, and the record"


def test_a_record_of_too_many_headers_is_one_event_for_every_reader() -> None:
    read = replace(record(0, 4), headers=(), unreadable=Unreadable("too-many-headers", "1001"))
    assert judged([read], [dead_letter(0, at=(DEAD, 0, 0), reason="too-many-headers")]).proved


def test_a_flood_of_dead_letters_of_batches_takes_no_more_memory_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "RANGES_MAX", 3)
    flood = [
        dead_letter(10 * number, at=(DEAD, 0, number), last=10 * number + 5, reason="batch-too-large")
        for number in range(5)
    ]
    report = judged([record(0), record(41), record(47)], flood)
    assert (report.proved, report.unverifiable) == (True, {"too-many-ranges": 2})


def test_findings_beyond_the_first_thousand_are_counted() -> None:
    report = judged([record(offset) for offset in range(1_200)], [])
    assert report.counts["missing"] == 1_200
    assert len(report.findings["missing"]) == 1_000
    assert report.as_json()["faults"]["missing"]["count"] == 1_200


ALL = 2**63
"""As a limit: all offsets were asked about."""


def test_an_outcome_beyond_the_log_or_the_committed_offset_is_a_fault() -> None:
    outcomes = [out(0), out(2), out(3), out(5), dead_letter(6, at=(DEAD, 0, 0), last=ALL - 1, reason="batch-too-large")]
    spans, limits, reached = {0: (0, 1)}, {0: ALL}, {0: (3, 5)}
    report = judged([record(0)], outcomes, ranges=spans, limits=limits, reached=reached)
    assert found(report, "without-record") == [f"{IN}:0:5", f"{IN}:0:{ALL - 1}"]
    assert found(report, "uncommitted") == [f"{IN}:0:3"], "2 was committed while the outcomes were read"
    assert (report.proved, report.records, report.outcomes, report.other) == (False, 1, 1, 4)
    report = judged([record(0)], outcomes, ranges=spans, limits={0: 4}, reached=reached)
    assert found(report, "uncommitted") == [f"{IN}:0:3"]
    assert not found(report, "without-record"), "what is beyond 3 was not asked about"


def test_at_least_once_an_outcome_may_stand_before_its_commit_but_not_without_a_record() -> None:
    topics = Topics(OUT, exactly_once=False)
    report = judged([], [out(3)], topics=topics, ranges={0: (0, 0)}, limits={0: ALL}, reached={0: (3, 4)})
    assert (report.proved, report.unverifiable) == (True, {"uncommitted": 1})
    report = judged([], [out(4)], topics=topics, ranges={0: (0, 0)}, limits={0: ALL}, reached={0: (3, 4)})
    assert found(report, "without-record") == [f"{IN}:0:4"]


def test_an_outcome_of_a_partition_that_the_input_never_had_is_a_fault_where_all_are_judged() -> None:
    outcomes = [outcome(0, of=7, at=(OUT, 0, 0)), outcome(0, of=8, at=(OUT, 0, 1))]
    reached = {0: (0, 0), 8: (1, 1)}
    report = judged([], outcomes, ranges={0: (0, 0)}, whole=True, reached=reached)
    assert found(report, "without-record") == [f"{IN}:7:0"], "8 was added meanwhile"
    assert not report.ranges
    assert judged([], outcomes, ranges={0: (0, 0)}, reached=reached).proved


def test_outcomes_beyond_the_log_cost_no_memory_and_little_time() -> None:
    forged = [out(offset << 40) for offset in range(1, 3_000)]
    report = judged([record(0)], [out(0), *forged], limits={0: ALL}, reached={0: (1, 1)}, seen=Seen(records=4))
    assert report.counts == {"without-record": 2_999}


AT = ("images.dead-letters", 0, 0)


@pytest.mark.parametrize("reason", ["batch-too-large", "batch-unreadable", "too-many-headers", "skipped-by-operator"])
def test_the_dead_letter_of_an_unopened_batch_answers_all_its_offsets(reason: Any) -> None:
    claim = claim_of(b"", dead_letter(17, at=AT, reason=reason).headers)
    assert claim == Claim("images", 0, 17, 17, "record", 1)
    claim = claim_of(b"", dead_letter(17, at=AT, last=40, reason=reason).headers)
    assert claim == Claim("images", 0, 17, 40, "record", 1)


def _with(**event: Any) -> bytes:
    document = json.loads(enriched().to_bytes())
    return json.dumps(document | {"event": EVENT.model_dump() | event}).encode()


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"[" * 100_000,
        b'{"schema": "enriched-image/9", "event": {}}',
        b'{"schema": {}, "event": 3}',
        b'{"schema": "skipped/1"}',
        _with(index=MAX_RECORDS),
        _with(index=-1),
        _with(offset=-1),
        _with(offset=2**63),
        _with(partition=2**31),
        _with(offset="17"),
        _with(partition=True),
        _with(topic=["images"]),
    ],
)
def test_what_names_no_event_is_no_outcome(value: bytes | None) -> None:
    assert claim_of(value, ()) is None


def test_a_dead_letter_that_does_not_read_is_no_outcome() -> None:
    named = dead_letter(17, at=AT).headers
    assert claim_of(b"", tuple(header for header in named if header[0] != "tagstream-failures")) is None
    assert claim_of(b"", dead_letter(17, at=AT, last=16).headers) is None
    assert claim_of(b"", dead_letter(17, (MAX_RECORDS,), at=AT).headers) is None


@pytest.mark.parametrize("parts", list(messages()))
def test_events_are_counted_while_they_are_read(parts: tuple[bytes, ...]) -> None:
    value, named = nullable(parts[0]), headers(parts[1:])
    assert count_events(value, named) == len(parse_message(value, named, topic="t", partition=0, offset=0))


@pytest.mark.parametrize(
    "value",
    [
        notification(*["ObjectCreated:Put"] * 3),
        {"Records": [1, 2, 3]},
        {"Records": []},
        {"Records": [1], "more": {"Records": [1, 2]}},
        {"Type": "Notification", "Message": json.dumps({"Records": [1, 2]})},
        own(key="Records"),
        own(key="Records", note=["Records"]),
        {"Records": [1] * (MAX_RECORDS + 1)},
    ],
)
@pytest.mark.parametrize("escaped", [False, True])
def test_several_events_are_counted_wherever_they_stand(value: Any, escaped: bool) -> None:
    text = json.dumps(value)
    written = (text.replace("Records", "\\u0052ecords") if escaped else text).encode()
    assert count_events(written, ()) == len(parse_message(written, (), topic="t", partition=0, offset=0))


BILLION = 1_000_000_000


def test_records_leave_memory_and_come_back() -> None:
    rng = random.Random(7)
    offsets = rng.sample(range(BILLION), 2_000)
    with Seen(records=5) as seen:
        for number, offset in enumerate(offsets):
            assert not seen.add(0, offset, "whole", 1 if number % 2 else (1 << 999) | 5)
            assert seen.held <= 5
        rng.shuffle(offsets)
        assert all(seen.of(0, offset).any for offset in offsets)
        assert all(seen.add(0, offset, "whole", 1) for offset in offsets)
        assert seen.held <= 5


def test_notes_come_back_unchanged() -> None:
    with Seen(records=1) as seen:
        seen.add(0, 1, "partial", 1)
        seen.add(0, 1, "failed", 1)
        seen.add(0, 2, "record", 0)
        seen.add(0, 3, "whole", 1 << 70)
        assert [seen.answered(0, offset) for offset in range(4)] == [False, True, False, False]
        assert seen.of(0, 1).dead_letter
        assert seen.of(0, 2).record
        assert seen.of(0, 3).missing(72) == ((1 << 72) - 1) & ~(1 << 70)


def test_partitions_do_not_share_their_notes() -> None:
    with Seen(records=1) as seen:
        assert not seen.add(0, 5, "whole", 1)
        assert not seen.add(1, 5, "whole", 1)
        assert seen.answered(0, 5)
        assert not seen.answered(2, 5)


def test_offsets_between_two_others_are_found_in_order() -> None:
    with Seen(records=2) as seen:
        for offset in (5_000, 0, 999, 1_000):
            seen.add(0, offset, "whole", 1)
        assert seen.between(0, 0, 6_000, 10) == [0, 999, 1_000, 5_000]
        assert seen.between(0, 1, 5_000, 10) == [999, 1_000]
        assert seen.between(0, 0, 6_000, 2) == [0, 999]


def test_a_key_may_supersede_earlier_outcomes() -> None:
    with Seen() as seen:
        seen.note_key(b"a", 0, 10)
        seen.note_key(b"a", 0, 7)
        assert seen.superseded(b"a", 0, 10)
        assert not seen.superseded(b"a", 0, 11)
        assert seen.superseded(b"a", 1, 11), "another partition: which came first can't be told"
        assert not seen.superseded(b"b", 0, 1)
        seen.note_key(b"a", 0, 20)
        seen.note_key(b"a", 0, 3)
        assert seen.superseded(b"a", 0, 20), "after the first were stored too"


def test_a_temporary_file_without_room_is_reported_in_a_sentence() -> None:
    def fill() -> None:
        with Seen(records=1) as seen:
            seen._stored.execute("PRAGMA max_page_count = 5")
            for number in range(5_000):
                seen.add(0, number, "whole", 1)

    with pytest.raises(Misconfigured, match="TMPDIR"):
        fill()


TWO = [record(0), record(1, key="b.png")]
TWO_OUTCOMES = [outcome(0, at=(OUT, 0, 0)), outcome(1, at=(OUT, 0, 1), key=b"photos/b.png")]


def test_outcomes_made_from_an_earlier_one_of_their_subject_are_right() -> None:
    made = [remade(0, at=(OUT, 0, 5)), remade(1, at=(OUT, 0, 6), key=b"photos/b.png"), remade(5, at=(OUT, 0, 7))]
    report = judged(TWO, TWO_OUTCOMES + made)
    assert report.proved
    assert (report.outcomes, report.remade, report.other) == (2, 3, 0)


@pytest.mark.parametrize(
    ("wrong", "fault", "of"),
    [
        pytest.param([remade(0, at=(OUT, 0, 5)), remade(0, at=(OUT, 0, 6))], "doubled", f"{OUT}:0:0", id="twice"),
        pytest.param([remade(0, at=(OUT, 1, 5))], "without-record", f"{OUT}:0:0", id="in another partition"),
        pytest.param([remade(7, at=(OUT, 0, 5))], "without-record", f"{OUT}:0:7", id="of a later record"),
        pytest.param([remade(5, at=(OUT, 0, 5))], "without-record", f"{OUT}:0:5", id="of itself"),
        pytest.param([remade(1, at=(OUT, 0, 5))], "without-record", f"{OUT}:0:1", id="of another subject"),
        pytest.param([remade(3, at=(OUT, 0, 5))], "without-record", f"{OUT}:0:3", id="of no record"),
    ],
)
def test_a_wrong_outcome_made_from_an_earlier_one_is_named(wrong: list[ReadRecord], fault: Fault, of: str) -> None:
    report = judged(TWO, TWO_OUTCOMES + wrong)
    assert not report.proved
    assert found(report, fault) == [of]
    assert sum(report.counts.values()) == 1


def test_the_source_of_a_remade_outcome_may_be_compacted_away_or_expired() -> None:
    made = [remade(0, at=(OUT, 0, 5))]
    compacted = judged(TWO, TWO_OUTCOMES + made, kept=made, topics=Topics(OUT, output_compacted=True))
    assert (compacted.proved, compacted.unverifiable) == (True, {"superseded": 1})
    expired = judged(TWO, TWO_OUTCOMES + made, kept=made, output_begins=2)
    assert (expired.proved, expired.unverifiable) == (True, {"expired": 1})
    assert found(judged(TWO, TWO_OUTCOMES + made, kept=made), "without-record") == [f"{OUT}:0:0"]
