"""Messages, cache entries and plans of earlier commits are read, and today's outcomes by an earlier reader."""

import importlib
import json
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final, get_args

import pytest

from schemas import dead_letter, enriched_image
from schemas.correction import CorrectionRecord, correction, read_correction
from schemas.dead_letter import read_dead_letter_headers, replay
from schemas.enriched_image import EnrichedImage, Retraction, Skip, read_output
from schemas.text import Headers
from tagstream_testing.memory import MemoryCorrections
from tests.support.harness import BUCKET, DEAD, OUT, SKIPPED, EchoCaptioner, Harness
from tests.support.kinds import BrightnessKind, BrightnessModel
from tests.unit.pipeline.test_kinds import ColourEmbedder
from tests.unit.schemas.documents import enriched
from workers.pipeline.kind_role import KindRole
from workers.retag.plan_file import PlanFile

FILES: Final = Path(__file__).parent / "data" / "f4c7e4b"


def lines(kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (FILES / "messages.jsonl").read_text().splitlines()]
    return [each for each in found if each["is"] == kind]


def data(line: dict[str, Any]) -> bytes:
    return b64decode(line["value"])


def headers(line: dict[str, Any]) -> Headers:
    return tuple((name, None if value is None else b64decode(value)) for name, value in line["headers"])


@pytest.fixture
def harness() -> Harness:
    """A worker of today with the objects of the earlier one."""
    made = Harness(1)
    made.tagger = ColourEmbedder()
    made.captioner = EchoCaptioner()
    made.facts = "place"
    for line in lines("object"):
        assert made.store.put(BUCKET, line["key"], data(line)).etag == line["etag"]
    return made


@pytest.fixture
def earlier(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The earlier package of schemas."""
    name = "tagstream_schemas"
    mine = [each for each in sys.modules if each.partition(".")[0] == name]
    for each in mine:
        monkeypatch.delitem(sys.modules, each)
    monkeypatch.syspath_prepend(FILES / "schemas.zip")
    yield importlib.import_module(name)
    for each in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[each]


def test_earlier_outcomes_are_read_and_dead_letters_replayed() -> None:
    outcomes = [read_output(data(line)) for line in [*lines(OUT), *lines(SKIPPED)]]
    assert [type(each) for each in outcomes].count(EnrichedImage) == 4
    assert [type(each) for each in outcomes].count(Retraction) == 2
    assert [type(each) for each in outcomes].count(Skip) == 1
    by_key = {each.source.key: each for each in outcomes if isinstance(each, EnrichedImage)}
    assert by_key["red.png"].embedding is not None
    assert by_key["partial.png"].status == "partial"
    (corrected,) = (each.corrections for each in by_key.values() if each.corrections)
    assert (corrected.added, corrected.removed) == (("green", "sunset"), ("red",))
    dead = lines(DEAD)
    reasons = {failure.reason for line in dead for failure in read_dead_letter_headers(headers(line)).failures}
    assert reasons == {"undecodable", "not-an-image", "annotate-failed", "caption-failed"}
    sent = {data(each): headers(each) for each in lines("input")}
    for line in dead:
        ((key, value, others),) = replay(b64decode(line["key"]), data(line), headers(line))
        assert (key, others[:-1]) == (b"k", sent[value or b""])
    for line in lines("correction"):
        assert read_correction(data(line)).subject.encode() == b64decode(line["key"])


def test_earlier_cache_entries_are_hits(harness: Harness) -> None:
    entries = lines("cached")
    harness.cache.remember(
        {each["key"]: data(each) for each in entries if "field" not in each},
        {(each["key"], each["field"]): data(each) for each in entries if "field" in each},
    )
    harness.corrections = corrections = MemoryCorrections()
    for line in lines("correction"):
        corrections.produce(CorrectionRecord(b64decode(line["key"]), data(line)))
    for line in lines("input")[:4]:
        harness.send(data(line))
    harness.work()
    images = harness.enriched()
    hits = {key: (image.cache.source, image.cache.tags, image.cache.caption) for key, image in images.items()}
    assert hits["red.png"] == hits["corrected.png"] == ("hit", "hit", "hit")
    assert hits["blue.png"][1:] == ("hit", "hit"), "an event with a sequencer downloads, and its content is known"
    assert images["red.png"].cache.embedding == "hit"
    assert ("decode", "not-an-image") in harness.failures()
    assert harness.tagger.batches == [], "the model computes nothing"
    before = {
        each.source.key: each for line in lines(OUT) if isinstance(each := read_output(data(line)), EnrichedImage)
    }
    assert images["red.png"].tags == before["red.png"].tags
    assert images["red.png"].embedding == before["red.png"].embedding
    assert all(image.image.thumbhash for image in images.values()), "facts that earlier workers did not know are added"


def test_todays_outcomes_are_read_by_an_earlier_reader(harness: Harness, earlier: ModuleType) -> None:
    harness.corrections = corrections = MemoryCorrections()
    corrections.produce(correction(BUCKET, "corrected.png", added=["green"], removed=["red"]))
    for line in lines("input"):
        harness.send(data(line), headers=headers(line))
    harness.send(harness.event("red.png", options={"want": ["tags", "brightness"]}))
    harness.added = (KindRole(BrightnessKind(), BrightnessModel()),)
    harness.work()
    assert [image.results for image in harness.outputs() if isinstance(image, EnrichedImage)][-1]
    old = importlib.import_module("tagstream_schemas.enriched_image")
    for record in [*harness.broker.visible(OUT), *harness.broker.visible(SKIPPED)]:
        read, today = old.read_output(record.value), read_output(record.value or b"")
        assert (type(read).__name__, read.event.offset) == (type(today).__name__, today.event.offset)
        tags = today.tags if isinstance(today, EnrichedImage) else ()
        assert [tag.name for tag in getattr(read, "tags", ())] == [tag.name for tag in tags]
        assert not isinstance(today, EnrichedImage) or today.image.thumbhash
    caption = {"text": "a dog", "method": "remote", "model": "m", "usage": {"prompt": 1, "completion": 1}}
    missing = [{"want": "embedding", "reason": "annotate-failed"}]
    told = enriched(caption=caption, status="partial", reason="annotate-failed", missing=missing)
    assert old.read_output(told.to_bytes()).caption.method == "remote"
    seen = json.loads(told.to_bytes())
    seen["source"]["read"] = {"bucket": "photos-web", "key": "a.jpg", "width": 8, "height": 6, "orientation": 1}
    seen["image"]["of"] = "rendition"
    assert old.read_output(json.dumps(seen).encode()).source.sha256 == told.source.sha256
    letters = importlib.import_module("tagstream_schemas.dead_letter")
    dead = harness.broker.visible(DEAD)
    assert (len(harness.outputs()), len(dead)) == (7, 3)
    for record in dead:
        assert letters.read_dead_letter_headers(record.headers).failures


def test_an_earlier_reader_refuses_a_persons_tag_that_the_tagger_does_not_know_and_later_reasons(
    harness: Harness, earlier: ModuleType
) -> None:
    harness.corrections = corrections = MemoryCorrections()
    corrections.produce(correction(BUCKET, "corrected.png", added=["sunset"]))
    harness.send(harness.event("corrected.png"))
    harness.work()
    (record,) = harness.broker.visible(OUT)
    old = importlib.import_module("tagstream_schemas.enriched_image")
    with pytest.raises(ValueError, match="label_id"):
        old.read_output(record.value)
    letters = importlib.import_module("tagstream_schemas.dead_letter")
    assert {*get_args(enriched_image.SkipReason)} - {*get_args(old.SkipReason)} == {"not-sampled", "rendition"}
    assert {*dead_letter.REASONS} - {*letters.REASONS} == {"role-not-here", *dead_letter.PARTIAL_ALONE}


def test_an_earlier_plan_is_read() -> None:
    plan = PlanFile.open(FILES / "plan.jsonl")
    assert (plan.head.topic, plan.head.ends, plan.head.lines) == ("images.enriched", {0: 7, 1: 3}, 2)
    assert [(each.subject, each.verdict) for each in plan] == [
        ("photos/red.png", "rescore"),
        ("photos/blue.png", "image"),
    ]
