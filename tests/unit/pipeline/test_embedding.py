"""Embeddings: in the events that ask for one, from the cache where it is known, and partial where there is none."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.enriched_image import Embedding
from tests.support.harness import OUT, POISON, ColourTagger, Harness
from workers.pipeline.embedding import EmbeddingRole
from workers.types import Pixels

COLOUR = (200, 100, 0)
OPTIONS = {"want": ["tags", "embedding"]}


class ColourEmbedder(ColourTagger):
    """The mean colour as a point in a space of three dimensions."""

    embedding_space = "colours"
    embedding_dimensions = 3

    def __init__(self) -> None:
        super().__init__()
        self.embedded = 0

    def embed(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        if any(tuple(image[0, 0]) == (1, 2, 3) for image in images):
            raise RuntimeError("no point")
        self.embedded += len(images)
        return [image.reshape(-1, 3).mean(0).astype(np.float32) for image in images]


def a_harness(tagger: ColourTagger | None = None) -> Harness:
    harness = Harness()
    harness.tagger = tagger or ColourEmbedder()
    return harness


def published(harness: Harness) -> dict[str, dict[str, Any]]:
    """The events as they travel, by key of the object."""
    values = [json.loads(record.value or b"") for record in harness.broker.visible(OUT)]
    return {value["source"]["key"]: value for value in values}


def run(harness: Harness, colours: dict[str, tuple[int, int, int]], options: dict[str, Any] = OPTIONS) -> None:
    for key, colour in colours.items():
        harness.put(key, colour)
        harness.send(harness.event(key, options=options))
    with harness.running():
        harness.settled()


def test_an_event_that_asks_for_one_has_a_normalised_embedding_and_its_models_digest() -> None:
    harness = a_harness()
    run(harness, {"a.png": COLOUR})
    image = harness.enriched()["a.png"]
    assert (image.status, [tag.name for tag in image.tags]) == ("complete", ["red"])
    found = image.embedding
    assert found is not None
    assert (found.space, found.dimensions, found.dtype, found.normalised) == ("colours", 3, "float16", True)
    assert found.model == harness.tagger.digest
    vector = np.frombuffer(base64.b64decode(found.data), "<f2")
    wanted = np.array(COLOUR) / np.linalg.norm(COLOUR)
    assert np.abs(vector - wanted).max() < 1e-3


def test_an_event_that_does_not_ask_says_nothing_of_it_and_costs_nothing() -> None:
    tagger = ColourEmbedder()
    harness = a_harness(tagger)
    run(harness, {"a.png": COLOUR}, {})
    document = published(harness)["a.png"]
    assert "embedding" not in document
    assert set(document["cache"]) == {"source", "tags", "caption"}
    assert tagger.embedded == 0


def test_it_is_cached_by_content_apart_from_the_tags() -> None:
    tagger = ColourEmbedder()
    harness = a_harness(tagger)
    run(harness, {"tags.png": COLOUR}, {"want": ["tags"]})
    run(harness, {"first.png": COLOUR})
    run(harness, {"second.png": COLOUR}, {"want": ["embedding"]})
    images = harness.enriched()
    assert (images["first.png"].cache.tags, images["first.png"].cache.embedding) == ("hit", "miss")
    assert (images["second.png"].cache.tags, images["second.png"].cache.embedding) == (None, "hit")
    assert images["first.png"].embedding == images["second.png"].embedding
    assert (tagger.embedded, sum(tagger.batches)) == (1, 1)


def test_where_the_tagger_gives_none_the_event_is_partial_and_says_so() -> None:
    harness = a_harness(ColourTagger())
    run(harness, {"a.png": COLOUR}, {"want": ["tags", "caption", "embedding"]})
    image = harness.enriched()["a.png"]
    assert (image.status, image.reason, image.embedding) == ("partial", "annotate-failed", None)
    assert [tag.name for tag in image.tags] == ["red"]
    assert image.caption is not None
    (failure,) = [failure for dead_letter in harness.dead() for failure in dead_letter.failures]
    assert (failure.stage, failure.reason, failure.want) == ("annotate", "annotate-failed", "embedding")
    assert failure.detail.startswith("this worker runs the tagger colours, which gives no embeddings")


def test_an_image_whose_embedding_fails_keeps_its_tags() -> None:
    harness = a_harness()
    run(harness, {"good.png": COLOUR, "bad.png": (1, 2, 3)})
    images = harness.enriched()
    assert (images["bad.png"].status, images["bad.png"].reason) == ("partial", "annotate-failed")
    assert [failure.want for dead_letter in harness.dead() for failure in dead_letter.failures] == ["embedding"]
    assert images["good.png"].embedding is not None


def test_an_image_without_tags_is_a_dead_letter_whatever_else_it_has() -> None:
    harness = a_harness()
    run(harness, {"a.png": POISON})
    assert [failure.want for dead_letter in harness.dead() for failure in dead_letter.failures] == ["tags"]


def packed(*numbers: float) -> bytes:
    return b"tse1" + len(numbers).to_bytes(4, "little") + np.array(numbers, "<f2").tobytes()


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        packed(1, 0, 0)[:-1],
        packed(1, 0, 0) + b"\0",
        packed(1, 0),
        b"tss1" + packed(1, 0, 0)[4:],
        packed(1, 0, 0).replace(b"\x03", b"\x02"),
        packed(np.nan, 0, 1),
        packed(np.inf, 0, 0),
        packed(0, 0, 0),
        packed(0.9, 0, 0),
    ],
)
def test_what_could_not_be_published_is_a_miss(value: bytes | None) -> None:
    assert EmbeddingRole(ColourEmbedder()).unpack(value) is None


def test_what_was_packed_reads_back() -> None:
    role = EmbeddingRole(ColourEmbedder())
    vector = role.finish(np.array([3, 4, 0], np.float32))
    found = role.unpack(role.pack(vector))
    assert found is not None
    assert np.array_equal(found, vector)
    assert np.abs(found - np.array([0.6, 0.8, 0])).max() < 1e-3


@pytest.mark.parametrize("numbers", [(np.nan, 0, 1), (np.inf, 0, 0), (0, 0, 0)])
def test_no_point_is_made_of_what_has_no_direction(numbers: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="embedding"):
        EmbeddingRole(ColourEmbedder()).finish(np.array(numbers, np.float32))


def test_data_of_another_number_of_dimensions_is_refused() -> None:
    data = base64.b64encode(np.zeros(3, "<f2").tobytes()).decode()
    Embedding(space="colours", dimensions=3, data=data, model="c" * 64)
    with pytest.raises(ValueError, match="dimensions"):
        Embedding(space="colours", dimensions=512, data=data, model="c" * 64)
