"""Cache entries come back unchanged; every other value is a miss."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.enriched_image import EnrichedImage, ImageFacts, Source
from tests.support.harness import ColourTagger, EchoCaptioner, Harness
from tests.support.tasks import a_task
from workers.pipeline import cache_entries as entries
from workers.types import Caption, Facts, LabelScores, Original, PictureFacts, TokenUsage, Transform

FACTS = Facts("a" * 64, "etag", None, "2026-01-01T00:00:00Z", 10, "png", 4, 5, 60)
PACKED = json.loads(entries.pack_facts(FACTS))


@given(st.dictionaries(st.integers(0, 99), st.floats(0, 1, width=32), max_size=50))
def test_scores_come_back_unchanged(scores: dict[int, float]) -> None:
    ids = np.array(sorted(scores), np.int32)
    values = np.array([scores[i] for i in sorted(scores)], np.float32)
    back = entries.unpack_scores(entries.pack_scores(LabelScores(ids, values)), labels=100)
    assert back is not None
    assert np.array_equal(back.label_ids, ids)
    assert np.array_equal(back.scores, values)


def test_facts_and_captions_come_back_unchanged() -> None:
    assert entries.unpack_facts(entries.pack_facts(FACTS)) == FACTS
    assert entries.pack_facts(replace(FACTS, pixel_bytes=4)) == entries.pack_facts(FACTS), "old workers refuse it"
    for caption in (Caption("a cat", -0.25, "beam"), Caption("a cat", None, "remote", "Qwen3-VL-8B")):
        assert entries.unpack_caption(entries.pack_caption(caption)) == caption


def test_a_cached_caption_costs_nothing() -> None:
    paid = Caption("a cat", None, "remote", "Qwen3-VL-8B", TokenUsage(812, 31))
    assert entries.unpack_caption(entries.pack_caption(paid)) == replace(paid, usage=None)


ORIGINAL = Original("web", "a.jpg", 9, "heic", 4, 5, PictureFacts("2024-05-01T10:00:00", 6, place=(1.0, 2.0)), "place")
OF_A_RENDITION = replace(FACTS, original=ORIGINAL)
PACKED_ORIGINAL = json.loads(entries.pack_facts(OF_A_RENDITION))["original"]


def test_facts_of_a_rendition_come_back_and_others_are_as_older_workers_know_them() -> None:
    for original in (ORIGINAL, Original("web", "a.jpg", 9), replace(ORIGINAL, told=None, mode="off")):
        facts = replace(FACTS, original=original)
        assert entries.unpack_facts(entries.pack_facts(facts)) == facts
    assert "original" not in PACKED


@pytest.mark.parametrize(
    "changed",
    [
        {"read_bucket": "a/b"},
        {"read_key": ""},
        {"read_key": "k" * 1025},
        {"size": 0},
        {"format": "<script>"},
        {"format": ""},
        {"width": 0},
        {"height": -1},
        {"width": 2**31},
        {"mode": "on"},  # which tells no place
        {"mode": "off"},
        {"told": {"taken_at": "yesterday"}},
        {"told": {"orientation": 9}},
        {"told": {"place": [91.0, 0.0]}},
        {"told": {"more": 1}},
        {"more": 1},
    ],
)
def test_an_original_that_could_not_be_published_is_a_miss(changed: dict[str, object]) -> None:
    value = PACKED | {"original": PACKED_ORIGINAL | changed}
    assert entries.unpack_facts(json.dumps(value).encode()) is None


@given(st.binary(max_size=80))
@example(b"[" * 100_000)
def test_garbage_is_a_miss(garbage: bytes) -> None:
    assert entries.unpack_scores(garbage, 10) is None
    assert entries.unpack_facts(garbage) is None
    assert entries.unpack_caption(garbage) is None


def packed_scores(*pairs: tuple[int, float]) -> bytes:
    ids, values = zip(*pairs, strict=True)
    return entries.pack_scores(LabelScores(np.array(ids, np.int32), np.array(values, np.float32)))


@pytest.mark.parametrize(
    "value",
    [
        packed_scores((1, 7.5)),
        packed_scores((1, -0.1)),
        packed_scores((1, np.inf)),
        packed_scores((1, np.nan)),
        packed_scores((0, 0.5), (1, np.nan)),
        packed_scores((-1, 0.5)),
        packed_scores((10, 0.5)),
        packed_scores((3, 0.5), (10, 0.5), (4, 0.5)),
        packed_scores((2, 0.5), (2, 0.6)),
        packed_scores((3, 0.5), (2, 0.6)),
        b"tss0" + packed_scores((1, 0.5))[4:],  # of an older version
        b"tss1" + b"\xff" * 4,
        b"tss1" + b"\x01\x00\x00\x00" + bytes(9),
    ],
)
def test_scores_that_no_tagger_gives_are_a_miss(value: bytes) -> None:
    assert entries.unpack_scores(value, labels=10) is None
    assert entries.unpack_scores(packed_scores((1, 0.0), (9, 1.0)), labels=10) is not None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("sha256", "a" * 63),
        ("sha256", "A" * 64),
        ("sha256", "a" * 64 + "\n"),
        ("sha256", None),
        ("etag", None),
        ("etag", 5),
        ("version_id", 5),
        ("last_modified", "yesterday"),
        ("last_modified", "2026-13-01T00:00:00Z"),
        ("last_modified", ""),
        ("size", 0),
        ("size", -1),
        ("size", 10.0),
        ("size", True),
        ("size", "10"),
        ("format", "exe"),
        ("format", ["png"]),
        ("width", -1),
        ("width", 0),
        ("height", None),
        ("height", 2**70),
        ("decode_bytes", -1),
        ("decode_bytes", "60"),
        ("more", 1),
        ("etag", "x" * 20_000),
    ],
)
def test_facts_that_could_not_be_published_are_a_miss(name: str, wrong: object) -> None:
    assert entries.unpack_facts(json.dumps(PACKED | {name: wrong}).encode()) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"score": float("nan")},
        {"score": float("inf")},
        {"score": "-0.5"},
        {"score": True},
        {"text": None},
        {"text": "\x1b[2Ja cat"},
        {"text": "a\u009bcat"},
        {"text": "a\x00cat"},
        {"text": "\ud800"},
        {"text": "x" * 70_000},
        {"method": 1},
        {"method": "beam\x07"},
        {"model": "\x1b[2J"},
        {"model": "m" * 257},
        {"usage": {"prompt": 1, "completion": 1}},
        {"guided_by": []},
    ],
)
def test_a_caption_that_could_not_be_published_is_a_miss(changed: dict[str, object]) -> None:
    document = {"text": "a cat", "score": -0.5, "method": "beam"}
    assert entries.unpack_caption(json.dumps(document).encode()) is not None
    assert entries.unpack_caption(json.dumps(document | changed).encode()) is None


_PIECES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*PACKED]), _PIECES)
def test_whatever_stands_in_a_field_of_facts_is_a_miss_or_can_be_published(name: str, value: object) -> None:
    facts = entries.unpack_facts(json.dumps(PACKED | {name: value}).encode())
    if facts is not None:
        Source(
            bucket="any",
            key="k",
            version_id=facts.version_id,
            etag=facts.etag,
            last_modified=facts.last_modified,
            sha256=facts.sha256,
        )
        ImageFacts(format=facts.format, width=facts.width, height=facts.height, bytes=facts.size)


def test_the_first_level_is_by_version_or_else_etag_or_else_not_at_all() -> None:
    def fields(**event: Any) -> tuple[str, ...]:
        return entries.source_fields(a_task(event).event)

    assert fields(version_id="v1", etag="e1", sequencer="0A") == ("v:v1",)
    assert fields(etag="e1", sequencer="0A") == ("e:e1:0A", "e:e1")
    assert fields(version_id="null", etag="e1") == ("e:e1",)
    assert fields(sequencer="0A") == ()


OTHERS = (("digest", "d" * 64), ("transform", Transform(9)), ("precision", "bf16"))


@pytest.mark.parametrize(
    ("model", "key_of", "others"),
    [
        (ColourTagger, entries.tagger_key, (*OTHERS, ("floor", 0.02))),
        (EchoCaptioner, entries.captioner_key, (*OTHERS, ("options_digest", "beam"))),
    ],
)
def test_results_of_another_model_are_a_miss(model: Any, key_of: Any, others: Any) -> None:
    for part, other in others:
        changed = model()
        setattr(changed, part, other)
        assert key_of(changed) != key_of(model()) == key_of(model()), part


def test_keys_of_other_kinds_bytes_models_options_and_judges_differ() -> None:
    others = (("caption", "a", "t"), ("scores", "b", "t"), ("scores", "a", "s"), ("scores", "a", "t", "profile=x"))
    assert entries.result_key("scores", "a", "t") not in {entries.result_key(*parts) for parts in others}
    assert entries.verdict_key("a", "limits of today") != entries.verdict_key("a", "limits of tomorrow")


RED = (250, 20, 20)


def test_entries_of_one_store_are_no_hit_for_another_store(harness: Harness) -> None:
    """Two stores with a bucket of one name, on one Redis."""
    event = harness.event("a.png", etag=harness.put("a.png", RED))
    for store in ("http://one:9000", "http://other:9000"):
        harness.send(event)
        harness.work(s3_endpoint=store)
    assert [item.cache.source for item in harness.outputs() if isinstance(item, EnrichedImage)] == ["miss", "miss"]
