"""The headers of an outcome's record, which let a change of settings skip the image."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from schemas.options import Want
from schemas.stored_scores import EMBEDDING_HEADER, SCORES_HEADER, StoredEmbedding, StoredScores
from tagstream_testing.memory import MemoryResultCache
from tests.support.harness import BUCKET, OUT, ChoosyTagger, Harness
from tests.unit.pipeline.test_kinds import ColourEmbedder
from workers.pipeline.profiles import read_profiles

COLOUR = (200, 100, 20)


def run(harness: Harness, key: str, options: dict[str, Any] | None = None, **changes: Any) -> dict[str, bytes | None]:
    """The headers of the outcome of one event about a new image of that colour."""
    harness.give(key, COLOUR, 0, **({} if options is None else {"options": options}))
    harness.work(**changes)
    return headers_of(harness, key)


def headers_of(harness: Harness, key: str) -> dict[str, bytes | None]:
    found = [record for record in harness.broker.visible(OUT) if record.key == f"{BUCKET}/{key}".encode()]
    return dict(found[-1].headers)


def scores(headers: dict[str, bytes | None]) -> StoredScores:
    return StoredScores.decode(headers[SCORES_HEADER])


def test_an_outcome_carries_every_score_above_the_floor(harness: Harness) -> None:
    stored = scores(run(harness, "a.png"))
    tagger = harness.tagger
    assert (stored.tagger, stored.labels, stored.precision) == (tagger.digest, None, tagger.precision)
    assert stored.floor == np.float32(tagger.floor)
    assert [label for label, _ in stored.scores] == [0, 1, 2]
    assert [score for _, score in stored.scores] == pytest.approx([value / 255 for value in COLOUR], abs=1e-6)
    assert [tag.name for tag in harness.enriched()["a.png"].tags] == ["red"]


def test_readers_of_json_see_nothing_of_it_and_it_can_be_turned_off(harness: Harness) -> None:
    run(harness, "a.png")
    harness.keep_scores = False
    harness.cache = MemoryResultCache()
    assert SCORES_HEADER not in run(harness, "b.png")
    one, other = (json.loads(record.value or b"") for record in harness.broker.visible(OUT))
    assert set(one) == set(other)


@pytest.mark.parametrize("options", [{}, {"profile": "reds"}, {"want": ["caption"]}])
def test_a_hit_carries_the_bytes_of_a_miss(harness: Harness, options: dict[str, Any]) -> None:
    harness.tagger = ChoosyTagger()
    profiles = read_profiles(harness.tagger, {"reds": {"only": ["red"]}})
    missed = run(harness, "miss.png", options, profiles=profiles)
    subset = profiles["reds"].subset
    assert subset is not None
    assert scores(missed).labels == (subset.digest if options.get("profile") else None)
    assert run(harness, "hit.png", options, profiles=profiles)[SCORES_HEADER] == missed[SCORES_HEADER]
    harness.cache = MemoryResultCache()
    run(harness, "all.png", {}, profiles=profiles)
    batches = len(harness.tagger.batches)
    assert run(harness, "of-all.png", options, profiles=profiles)[SCORES_HEADER] == missed[SCORES_HEADER]
    assert len(harness.tagger.batches) == batches


def test_a_header_of_an_input_record_has_no_meaning(harness: Harness) -> None:
    forged = StoredScores("f" * 64, None, "fp32", 0.0, ((0, 1.0),)).encode()
    harness.put("a.png", COLOUR)
    harness.send(harness.event("a.png"), headers=((SCORES_HEADER, forged), (EMBEDDING_HEADER, b"x")))
    harness.work()
    (record,) = harness.broker.visible(OUT)
    found = [value for name, value in record.headers if name in (SCORES_HEADER, EMBEDDING_HEADER)]
    assert [StoredScores.decode(value).tagger for value in found] == [harness.tagger.digest]


def test_an_embedding_that_the_event_does_not_show_travels_in_a_header(harness: Harness) -> None:
    tagger = harness.tagger = ColourEmbedder()
    missed = run(harness, "miss.png")
    stored = StoredEmbedding.decode(missed[EMBEDDING_HEADER])
    assert (stored.model, stored.space, stored.dimensions) == (tagger.digest, "colours", 3)
    assert (tagger.embedded, len(tagger.batches)) == (1, 1)
    assert run(harness, "hit.png")[EMBEDDING_HEADER] == missed[EMBEDDING_HEADER]
    shown = run(harness, "shown.png", {"want": ["tags", "embedding"]})
    assert EMBEDDING_HEADER not in shown
    assert tagger.embedded == 1
    image = harness.enriched()["shown.png"]
    assert image.embedding is not None
    assert (image.cache.tags, image.cache.embedding) == ("hit", "hit")
    assert harness.enriched()["hit.png"].cache.embedding is None


def test_no_image_is_computed_for_a_header_alone(harness: Harness) -> None:
    tagger = harness.tagger = ColourEmbedder()
    harness.keep_scores = False
    run(harness, "a.png")
    assert tagger.embedded == 0
    harness.keep_scores = True
    assert set(run(harness, "b.png")) & {SCORES_HEADER, EMBEDDING_HEADER} == {SCORES_HEADER}
    assert (tagger.embedded, len(tagger.batches)) == (0, 1)


def test_an_event_is_whole_without_an_embedding_that_it_did_not_ask_for(harness: Harness) -> None:
    harness.tagger = ColourEmbedder()
    harness.give("a.png", (1, 2, 3))
    harness.work()
    assert harness.enriched()["a.png"].status == "complete"
    assert harness.dead() == []
    assert EMBEDDING_HEADER not in headers_of(harness, "a.png")


@pytest.mark.parametrize(
    ("said", "want", "resolved"),
    [
        (None, ["tags", "embedding"], ("tags", "embedding")),
        ({}, ["tags"], ("tags",)),
        ({"profile": "default"}, ["embedding"], ("embedding",)),
        ({"want": ["tags", "caption"]}, ["embedding"], ("tags", "caption")),
        ({"want": ["caption"], "guide_tags": ["sea"]}, ["tags"], ("caption",)),
    ],
)
def test_an_outcome_says_which_results_were_wanted(
    harness: Harness, said: dict[str, Any] | None, want: Sequence[Want], resolved: tuple[Want, ...]
) -> None:
    harness.tagger = ColourEmbedder()
    run(harness, "a.png", said, want=tuple(want))
    image = harness.enriched()["a.png"]
    assert image.options is not None
    assert image.options.model_dump() == {
        "want": resolved,
        "guide_tags": tuple((said or {}).get("guide_tags", ())),
        "profile": (said or {}).get("profile"),
    }
    assert (image.embedding is not None, bool(image.tags)) == ("embedding" in resolved, "tags" in resolved)
