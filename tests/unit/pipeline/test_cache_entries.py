"""Cache entries: what was packed comes back, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.pipeline import cache_entries as entries
from workers.vocabulary import Caption, Facts, LabelScores, Subset

FACTS = Facts("a" * 64, "etag", None, "2026-01-01T00:00:00Z", 10, "png", 4, 5, 60)


@given(st.dictionaries(st.integers(0, 99), st.floats(0, 1, width=32), max_size=50))
def test_scores_come_back_as_they_were(scores: dict[int, float]) -> None:
    ids = np.array(sorted(scores), np.int32)
    values = np.array([scores[i] for i in sorted(scores)], np.float32)
    back = entries.unpack_scores(entries.pack_scores(LabelScores(ids, values)), labels=100)
    assert back is not None
    assert np.array_equal(back.label_ids, ids)
    assert np.array_equal(back.scores, values)


def test_facts_and_captions_come_back_as_they_were() -> None:
    assert entries.unpack_facts(entries.pack_facts(FACTS)) == FACTS
    caption = Caption("a cat", -0.25, "beam")
    assert entries.unpack_caption(entries.pack_caption(caption)) == caption


@given(st.binary(max_size=80))
def test_garbage_is_a_miss(garbage: bytes) -> None:
    assert entries.unpack_scores(garbage, 10) is None
    assert entries.unpack_facts(garbage) is None
    assert entries.unpack_caption(garbage) is None


def test_scores_of_some_labels_have_a_place_of_their_own() -> None:
    subsets = (None, Subset((1, 2)), Subset((12,)), Subset((1,)))
    assert len({entries.scores_key("a" * 64, "tagger", subset) for subset in subsets}) == 4
    assert entries.scores_key("a", "t", Subset((1, 2))) == entries.scores_key("a", "t", Subset((1, 2)))


def test_scores_of_a_tagger_with_more_labels_or_without_numbers_are_a_miss() -> None:
    packed = entries.pack_scores(LabelScores(np.array([9], np.int32), np.array([0.5], np.float32)))
    assert entries.unpack_scores(packed, labels=9) is None
    assert entries.unpack_scores(packed[:-1], labels=10) is None
    nan = entries.pack_scores(LabelScores(np.array([1], np.int32), np.array([np.nan], np.float32)))
    assert entries.unpack_scores(nan, labels=10) is None


@pytest.mark.parametrize("value", [b"{}", b'{"text":"x"}', b'{"text":1,"score":null,"method":"m"}', b"null", b"[1]"])
def test_an_older_versions_value_is_a_miss(value: bytes) -> None:
    assert entries.unpack_caption(value) is None
    assert entries.unpack_facts(value) is None


def test_the_first_level_is_by_version_or_else_etag_or_else_not_at_all() -> None:
    assert entries.source_field("v1", "e1") == "v:v1"
    assert entries.source_field(None, "e1") == "e:e1"
    assert entries.source_field(None, None) is None
