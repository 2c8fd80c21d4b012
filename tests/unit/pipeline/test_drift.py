"""What published tags and captions are like is counted in classes, each from the start, once for each transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tagstream_testing.memory_broker import Fault
from tests.support.harness import ColourTagger, EchoCaptioner, Harness
from tests.support.measured import measuring
from workers import metrics
from workers.pipeline.commit.ledger import Rendered
from workers.pipeline.drift import NUMBERS_OF_TAGS, NUMBERS_OF_WORDS, TENTHS, Drift, content_of
from workers.pipeline.roles import make_roles
from workers.types import Content

COUNTED = (metrics.TAGGED_IMAGES, metrics.TAGS, metrics.CAPTIONED_IMAGES)
TAGGER = "colours cccccccccccc"


def shown(counts: Mapping[str, float]) -> dict[str, float]:
    """Classes that anything is in."""
    return {name: count for name, count in counts.items() if count}


def test_scores_are_in_tenths_rounded_down_and_a_persons_tags_are_left_out() -> None:
    tags: list[dict[str, Any]] = [
        {"score": 1.0},
        {"score": 0.999},
        {"score": 0.35},
        {"score": 0.0},
        {"score": 1.0, "source": "person"},
    ]
    assert content_of(tags, None) == Content(bytes([9, 9, 3, 0]), None)


def test_what_was_not_asked_for_is_not_counted_as_empty() -> None:
    assert content_of(None, {"text": ""}) == Content(None, 0)
    assert content_of((), {"text": " a red  cat"}) == Content(b"", 3)


@pytest.mark.parametrize(
    ("tags", "of"),
    [
        (0, "00"),
        (1, "01"),
        (2, "02"),
        (3, "02"),
        (4, "04"),
        (7, "04"),
        (8, "08"),
        (63, "32"),
        (64, "64"),
        (4_585, "64"),
    ],
)
def test_an_image_is_counted_in_the_class_that_its_number_of_tags_has_reached(tags: int, of: str) -> None:
    with measuring(*COUNTED) as measured:
        drift = Drift(make_roles({"tagger": ColourTagger()}))
        drift.count([Rendered(None, "enriched", content=Content(bytes([4] * tags), None))])
        assert shown(measured.by("tags", metrics.TAGGED_IMAGES, model=TAGGER)) == {of: 1}
        assert shown(measured.by("score", metrics.TAGS)) == ({"0.4": tags} if tags else {})


def test_classes_sort_by_their_names() -> None:
    for classes in (NUMBERS_OF_TAGS, NUMBERS_OF_WORDS, TENTHS):
        assert [name for _, name in sorted(classes.items())] == sorted(classes.values())


def test_every_class_is_shown_before_the_first_image() -> None:
    """A rate needs a value before the first image, or it begins with the second."""
    with measuring(*COUNTED) as measured:
        Drift(make_roles({"tagger": ColourTagger(), "captioner": EchoCaptioner()}))
        assert measured.by("tags", metrics.TAGGED_IMAGES) == dict.fromkeys(NUMBERS_OF_TAGS.values(), 0)
        assert measured.by("score", metrics.TAGS) == {f"0.{tenth}": 0 for tenth in range(10)}
        words = measured.by("words", metrics.CAPTIONED_IMAGES, model="echo eeeeeeeeeeee")
        assert words == dict.fromkeys(NUMBERS_OF_WORDS.values(), 0)


def test_a_worker_counts_what_it_has_committed_and_that_once() -> None:
    harness = Harness(partitions=1)
    colours: dict[str, Any] = {"red": (255, 0, 0), "pink": (255, 0, 200), "black": (0, 0, 0)}
    for name, colour in colours.items():
        harness.put(name, colour)
    harness.broker.fail_next(Fault.SEND)
    with measuring(*COUNTED) as measured, harness.running():
        for name in colours:
            harness.send(harness.event(name))
        harness.send(harness.event("red", options={"want": ["caption"]}))
        harness.send(harness.event("missing"))
        harness.settled()
        assert shown(measured.by("tags", metrics.TAGGED_IMAGES)) == {"00": 1, "01": 1, "02": 1}
        assert shown(measured.by("score", metrics.TAGS)) == {"0.7": 1, "0.9": 2}
        # "red" twice, "red and blue", and "nothing"
        assert shown(measured.by("words", metrics.CAPTIONED_IMAGES, model="template")) == {"01": 4}


def test_one_transaction_is_counted_with_one_call_for_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    drift = Drift(make_roles({"tagger": ColourTagger()}))
    calls: list[str] = []
    for metric in COUNTED:
        monkeypatch.setattr(metric, "add", lambda count, **labels: calls.append(f"{count} {labels}"))
    drift.count([Rendered(None, "enriched", content=Content(bytes([3, 9]), 5))] * 500)
    assert len(calls) == 4
