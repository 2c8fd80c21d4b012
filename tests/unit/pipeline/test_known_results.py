"""The cache's questions, trusted answers and writes, for one task after the other."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from schemas.dead_letter import Reason
from tagstream_testing.memory import MemoryResultCache
from tests.support.harness import EchoCaptioner
from tests.support.tasks import FACTS, TAGGER, a_task, annotation, complete
from tests.unit.retag.stored import today
from workers import metrics
from workers.errors import Rejected
from workers.intake.limits import Limits
from workers.pipeline import cache_entries as entries
from workers.pipeline.annotation import Annotation
from workers.pipeline.cache_entries import CacheWrite
from workers.pipeline.known_results import KnownResults
from workers.pipeline.roles import make_roles
from workers.pipeline.task import CompleteTask, LoadedTask, Task
from workers.types import Caption, Facts, Fetched, LabelScores

STORE = "https://store"
V1: dict[str, Any] = {"version_id": "v1"}
SCORES = LabelScores(np.array([0], np.int32), np.array([0.75], np.float32))
BROKEN = Rejected("decode", "broken-image", "cut off")


@pytest.fixture
def cache() -> Any:
    return Mock(wraps=MemoryResultCache())


@pytest.fixture
def known(cache: Any) -> KnownResults:
    return KnownResults(cache, make_roles({"tagger": TAGGER, "captioner": EchoCaptioner()}), STORE, "judge")


def new(**event: Any) -> Task:
    return a_task(event)


RESULTS = {"tags": SCORES, "caption": Caption("saw red", None, "greedy")}


def finished(facts: Facts = FACTS, /, **event: Any) -> CompleteTask:
    return complete(event, facts, RESULTS)


def fetched(sha256: str) -> LoadedTask:
    task = new()
    return LoadedTask(
        task, Annotation(task.event, task.profile, sha256), Fetched(task.job, sha256, "etag", None, "", 3, None, 100)
    )


# ---- the first level: facts of an object
def test_the_next_event_of_a_committed_version_finds_its_facts(known: KnownResults, cache: Any) -> None:
    known.settle([known.arrival(finished(**V1))])
    same, other, unnamed = new(**V1), new(version_id="v2"), new()
    assert known.sources([same, other, unnamed]) == [FACTS, None, None]
    assert [task.source_hit for task in (same, other, unnamed)] == [True, False, False]


def test_an_event_that_names_no_content_is_not_asked_for_and_tells_nothing(known: KnownResults, cache: Any) -> None:
    known.sources([new()])
    known.settle([known.arrival(finished())])
    assert not cache.mock_calls


def test_sequencers_distinguish_two_contents_with_one_etag(known: KnownResults) -> None:
    """Guard: one content had the other's hash and tags; two files with one MD5 are made in two seconds."""
    other = replace(FACTS, sha256="b" * 64)
    first, second = finished(etag="etag", sequencer="0A"), finished(other, etag="etag", sequencer="0B")
    known.settle([known.arrival(first)])
    again, stranger, unnumbered = new(etag="etag", sequencer="0A"), new(etag="etag", sequencer="0B"), new(etag="etag")
    assert known.sources([again, stranger, unnumbered]) == [FACTS, None, FACTS]
    known.settle([known.arrival(second)])
    tasks = [new(etag="etag", sequencer=sequencer) for sequencer in ("0B", None)]
    assert known.sources(tasks) == [other, other]


@pytest.mark.parametrize(
    ("event", "field", "other"), [({"etag": "etag"}, "e:etag", {"etag": "other"}), (V1, "v:v1", {"version_id": "v2"})]
)
def test_facts_of_another_content_than_the_events_are_a_miss(
    known: KnownResults, cache: Any, event: dict[str, Any], field: str, other: dict[str, Any]
) -> None:
    task = new(**event)
    place = (entries.source_hash(STORE, task.event), field)
    cache.remember({}, {place: entries.pack_facts(replace(FACTS, **other))})
    assert (known.sources([task]), task.source_hit) == ([None], False)


@pytest.mark.parametrize(
    "more", [{"width": 10_001}, {"height": 10_001}, {"width": 4, "height": 3}, {"size": 101}, {"format": "tiff"}]
)
def test_facts_over_the_workers_limits_are_a_miss(cache: Any, more: dict[str, Any]) -> None:
    """Guard: a worker publishes no width, height or size that it would have refused to find out."""
    limits = Limits(max_object_bytes=100, max_pixels=80_000, min_side=4, formats=("png",))
    known = KnownResults(cache, make_roles({"tagger": TAGGER}), STORE, allows=limits.allow)
    place = (entries.source_hash(STORE, new().event), "v:v1")
    for facts, hit in ((FACTS, True), (replace(FACTS, **more), False)):
        cache.remember({}, {place: entries.pack_facts(facts)})
        task = new(**V1)
        assert (known.sources([task]), task.source_hit) == ([facts if hit else None], hit)


def test_an_event_with_an_old_sequencer_has_to_ask_the_store(known: KnownResults) -> None:
    known.settle([known.arrival(finished(**V1, sequencer="0B"))])
    tasks = [new(**V1, sequencer=sequencer) for sequencer in ("0A", "0B", "0C")] + [new(**V1)]
    assert known.sources(tasks) == [None, FACTS, FACTS, FACTS]
    assert [task.job.only_newest for task in tasks] == [True, False, False, False]
    assert [task.source_hit for task in tasks] == [False, True, True, True]


def test_a_sequencer_of_one_store_silences_no_other(cache: Any) -> None:
    one, other = (KnownResults(cache, make_roles({"tagger": TAGGER}), store) for store in ("one", "other"))
    one.settle([one.arrival(finished(**V1, sequencer="FF"))])
    tasks = [new(**V1, sequencer=sequencer) for sequencer in ("FF", "01")]
    assert other.sources(tasks) == [None, None]
    assert not any(task.job.only_newest for task in tasks)


def test_an_arrival_tells_no_facts_that_are_known_already(known: KnownResults) -> None:
    assert known.arrival(finished(**V1)).fields
    hit = finished(**V1)
    hit.task.source_hit = True
    assert not known.arrival(hit).fields
    assert known.arrival(hit).values == {}
    assert list(known.arrival(finished(sequencer="0B")).values.values()) == [b"0B"]


def test_the_later_of_an_arrival_and_a_removal_wins(known: KnownResults) -> None:
    arrival, removal = known.arrival(finished(**V1)), known.removal(new(sequencer="0C").event)
    other = known.arrival(finished(**V1, key="b.png"))
    known.settle([other, arrival, removal])
    assert known.sources([new(**V1), new(**V1, key="b.png")]) == [None, FACTS]
    known.settle([removal, arrival])
    assert known.sources([new(**V1)]) == [FACTS]
    older = new(**V1, sequencer="0B")
    known.sources([older])
    assert older.job.only_newest, "the removal's sequencer is known"


def test_a_removal_that_purges_leaves_nothing_of_the_object_and_its_contents(cache: Any) -> None:
    purging = KnownResults(
        cache, make_roles({"tagger": TAGGER, "captioner": EchoCaptioner()}), STORE, "judge", purges=True
    )
    other = finished(replace(FACTS, sha256="b" * 64), key="b.png", etag="etag")
    tagged = finished(etag="etag", sequencer="0A")
    strange = {(entries.index_hash(FACTS.sha256), key): b"1" for key in purging.values(other)}
    for done in (tagged, other):
        purging.remember([purging.values(done)])
        purging.settle([purging.arrival(done)])
    purging.remember([purging.verdict_values(FACTS.sha256, BROKEN)])
    cache.remember({}, strange)
    known = purging.values(tagged), purging.verdict_values(FACTS.sha256, BROKEN)
    assert None not in cache.lookup([key for values in known for key in values])
    purging.settle([purging.removal(new(sequencer="0C").event)])
    event = tagged.task.event
    keys = [entries.sequencer_key(STORE, event), *[key for values in known for key in values]]
    assert cache.lookup(keys) == [None] * len(keys)
    hashes = [entries.source_hash(STORE, event), entries.index_hash(FACTS.sha256)]
    assert cache.hashes(hashes) == [{}, {}]
    assert None not in cache.lookup(list(purging.values(other))), "the other content stays"
    assert purging.sources([new(key="b.png", etag="etag")]) == [other.facts]


def test_the_results_of_added_kinds_go_with_their_content(cache: Any, tmp_path: Path) -> None:
    (role,) = today(tmp_path, brightness="d" * 64).added
    purging = KnownResults(cache, make_roles({"tagger": TAGGER}, added=[role]), STORE, purges=True)
    found = {"tags": SCORES, "brightness": role.unpack(b'{"mean":0.5,"text":"","about":["png",8,8,1]}')}
    task = complete({"etag": "etag", "sequencer": "0A"}, FACTS, found, want=("tags", "brightness"))
    values = purging.values(task)
    (key,) = [key for key in values if "brightness" in key]
    assert entries.content_of(key) == FACTS.sha256, "by which `tagstream forget` finds it"
    purging.remember([values])
    purging.settle([purging.arrival(task)])
    assert cache.lookup([key]) != [None]
    purging.settle([purging.removal(task.task.event)])
    assert cache.lookup([key]) == [None]


def test_an_arrival_and_a_purging_removal_settled_together_leave_nothing(cache: Any) -> None:
    purging = KnownResults(cache, make_roles({"tagger": TAGGER}), STORE, purges=True)
    task = finished(etag="etag", sequencer="0A")
    purging.remember([purging.values(task)])
    purging.settle([purging.arrival(task), purging.removal(task.task.event)])
    keys = [entries.sequencer_key(STORE, task.task.event), *purging.values(task)]
    assert cache.lookup(keys) == [None] * len(keys)
    assert cache.hashes([entries.index_hash(FACTS.sha256)]) == [{}]


def test_no_index_is_written_and_no_hash_read_unless_a_removal_purges(known: KnownResults, cache: Any) -> None:
    done = finished(etag="etag")
    known.remember([known.values(done)])
    known.settle([known.arrival(done), known.removal(new(sequencer="0C").event)])
    assert cache.hashes([entries.index_hash(FACTS.sha256)]) == [{}]
    assert None not in cache.lookup(list(known.values(done)))


def test_arrivals_and_removals_by_turns_take_time_in_proportion(known: KnownResults) -> None:
    writes = [CacheWrite({}, {(f"hash {n}", "field"): b"x"}) for n in range(10_000)]
    gone = [CacheWrite({}, forget=(f"other {n}",)) for n in range(10_000)]
    began = time.process_time()
    known.settle([write for both in zip(writes, gone, strict=True) for write in both])
    assert time.process_time() - began < 2


# ---- the second level: results of a content
def test_equal_bytes_find_the_results_and_do_not_write_them_again(known: KnownResults) -> None:
    done = finished()
    known.remember([known.values(done)])
    task = complete({"key": "b.png"}, replace(FACTS, etag="another"))
    assert known.completed(task) is None
    known.contents([task, complete(facts=replace(FACTS, sha256="b" * 64))])
    assert known.completed(task) is not None
    assert task.annotation.hits == {"tags", "caption"}
    assert task.annotation.results["caption"] == done.annotation.results["caption"]
    assert known.values(task) == {}


def test_results_of_other_pixels_are_a_miss(cache: Any) -> None:
    """Workers with other settings share a cache: of a JPEG that each decodes at its own scale they share nothing, of
    all else everything."""
    roles = make_roles({"tagger": TAGGER, "captioner": EchoCaptioner()})
    full = KnownResults(cache, roles, STORE)
    scaling = KnownResults(cache, roles, STORE, scale_of=lambda _: lambda facts: 2 if facts.width > 1000 else 1)
    for width, shared in ((8, True), (4000, False)):
        for writer, reader in ((full, scaling), (scaling, full)):
            facts = replace(FACTS, sha256=f"{width}{writer is full:d}".zfill(64), width=width)
            done, own, other = finished(facts), complete(facts=facts), complete(facts=facts)
            writer.remember([writer.values(done)])
            writer.contents([own])
            reader.contents([other])
            assert writer.completed(own) is not None
            assert (reader.completed(other) is not None) == shared


def test_only_new_results_are_kept(known: KnownResults) -> None:
    task = finished()
    task.annotation.hits = {"tags"}
    assert [entries.unpack_caption(value) for value in known.values(task).values()] == [RESULTS["caption"]]
    assert known.values(complete()) == {}


def test_known_results_are_not_requested(known: KnownResults, cache: Any) -> None:
    known.contents([finished()])
    known.remember([known.values(complete()), {}])
    known.settle([])
    assert known.verdicts([]) == []
    assert not cache.mock_calls


def test_an_entry_that_can_not_be_read_is_a_miss_and_the_next_is_looked_at(known: KnownResults, cache: Any) -> None:
    """The scores of a profile's labels may be had from the scores of all."""
    known.remember([known.values(finished())])
    task, own = complete(profile="reds"), complete(results=RESULTS, profile="reds")
    of_the_profile = next(key for key in known.values(own) if ":scores:" in key)
    cache.remember({of_the_profile: b"garbage"}, {})
    known.contents([task])
    assert "tags" in task.annotation.hits
    assert task.annotation.results["tags"].scores.tolist() == [0.75]


def test_bytes_that_were_rejected_are_known_and_no_others(known: KnownResults) -> None:
    known.remember([known.verdict_values("b" * 64, BROKEN)])
    first, second, third = known.verdicts([fetched("a" * 64), fetched("b" * 64), fetched("c" * 64)])
    assert (first, third) == (None, None)
    assert second is not None
    assert (second.stage, second.reason, second.detail) == ("decode", "broken-image", "cut off")


@pytest.mark.parametrize("reason", ["decode-timeout", "kills-decoder", "decode-memory"])
def test_a_rejection_that_the_machine_may_have_caused_is_not_kept(known: KnownResults, reason: Reason) -> None:
    assert known.verdict_values("b" * 64, Rejected("decode", reason, "so it seemed")) == {}


def test_without_a_judge_no_rejection_is_kept_or_asked_for(cache: Any) -> None:
    unjudged = KnownResults(cache, make_roles({"tagger": TAGGER}), STORE)
    assert unjudged.verdict_values("b" * 64, BROKEN) == {}
    assert unjudged.verdicts([fetched("b" * 64)] * 2) == [None, None]
    assert not cache.mock_calls


# ---- counters
def test_each_answer_is_counted_and_one_that_can_not_be_read_twice(
    known: KnownResults, cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[str, str]] = []
    invalid: list[str] = []
    monkeypatch.setattr(metrics.CACHE, "add", lambda n, **of: counted.extend([(of["level"], of["answer"])] * n))
    monkeypatch.setattr(metrics.CACHE_ERRORS, "add", lambda n, **of: invalid.extend([of["cause"]] * n))

    def asked(**more: Any) -> list[tuple[str, str]]:
        counted.clear()
        known.sources([new(**V1, **more)])
        known.contents([complete(more, guide_tags=("red",))])
        known.verdicts([fetched("b" * 64)])
        return list(counted)

    levels = ("source", "tags", "caption", "verdict")
    assert (asked(), invalid) == ([(level, "miss") for level in levels], [])

    event = new(**V1, sequencer="0B").event
    done = complete(results=RESULTS, guide_tags=("red",))
    places = {(entries.source_hash(STORE, event), "v:v1"): entries.pack_facts(FACTS)}
    values = {
        entries.sequencer_key(STORE, event): b"0B",
        **known.values(done),
        **known.verdict_values("b" * 64, BROKEN),
    }
    cache.remember(values, places)
    assert (asked(sequencer="0B"), invalid) == ([(level, "hit") for level in levels], [])

    cache.remember(dict.fromkeys(values, b"{"), dict.fromkeys(places, b"{"))
    assert (asked(sequencer="0B"), invalid) == ([(level, "miss") for level in levels], ["invalid"] * 5)


def test_equal_work_is_known_by_the_content_and_the_options(known: KnownResults) -> None:
    assert known.roles.flight_key(finished().annotation) == known.roles.flight_key(annotation(event={"key": "b.png"}))
    assert known.roles.flight_key(finished().annotation) != known.roles.flight_key(annotation(guide_tags=("red",)))


def test_entries_since_the_last_right_answer_are_invalidated_up_to_a_number(cache: Any) -> None:
    known = KnownResults(cache, make_roles({"tagger": TAGGER}), STORE, unproven=2)
    known.remember([{"proved": b"1"}])
    known.prove()
    known.remember([{"old": b"2", "a": b"3"}, {"b": b"4"}])
    known.disown()
    assert cache.lookup(["proved", "old", "a", "b"]) == [b"1", b"2", b"", b""]
    known.remember([{"late": b"5"}])
    assert cache.lookup(["late"]) == [None]


def test_recent_entries_of_a_doubted_content_become_misses_and_later_ones_are_not_kept(cache: Any) -> None:
    """Guard: results of a decoder that was taken over would be believed for as long as the cache keeps them."""
    now = [1000.0]
    known = KnownResults(cache, make_roles({"tagger": TAGGER}), STORE, "judge", now=lambda: now[0])
    sound = replace(FACTS, sha256="b" * 64)
    lied, true = finished(**V1), finished(sound, version_id="v2", key="b.png")
    verdict = known.verdict_values("a" * 64, BROKEN)

    def keep() -> None:
        known.remember([known.values(lied), verdict, known.values(true)])
        known.settle([known.arrival(lied), known.arrival(true)])

    def hits() -> list[bool]:
        first, second = new(**V1), new(version_id="v2", key="b.png")
        known.sources([first, second])
        tasks = [complete(V1), complete({"version_id": "v2", "key": "b.png"}, sound)]
        known.contents(tasks)
        rejected = known.verdicts([fetched("a" * 64)])[0] is not None
        tags = ["tags" in task.annotation.results for task in tasks]
        return [first.source_hit, tags[0], rejected, second.source_hit, tags[1]]

    keep()
    assert hits() == [True] * 5
    known.doubt({"a" * 64})
    assert hits() == [False, False, False, True, True]
    keep()  # it was on its way
    assert hits() == [False, False, False, True, True]
    now[0] += 601
    keep()
    assert hits() == [True] * 5
    now[0] += 91
    known.doubt({"a" * 64})
    assert hits() == [True] * 5, "what is older is not its"


def test_an_invalidated_entry_is_a_miss_for_every_role() -> None:
    roles = make_roles({"tagger": TAGGER, "captioner": EchoCaptioner()}).models
    assert [role.unpack(b"") for role in roles] == [None, None]
    assert entries.unpack_verdict(b"") is None
