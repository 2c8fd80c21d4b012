"""Each answer of `remake`, and each reason."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.correction import correction, withdrawal
from schemas.dead_letter import Failure
from schemas.enriched_image import EnrichedImage, read_output
from tagstream_testing.memory import ManualClock, MemoryCorrections
from tests.support.corrections import said
from tests.unit.retag.stored import LABELS, outcome, today
from workers.errors import Misconfigured
from workers.pipeline.published import NEEDS, StoredOutcome
from workers.retag.current import CurrentSettings
from workers.retag.remake import REASONS, SAME, STAYS, NeedsImage, New, Remade, Remaker, Same, Stays
from workers.types import Coordinates

SCORES = {"red": 0.9, "green": 0.6, "blue": 0.4, "grey": 0.1}
OTHER = "b" * 64
WHERE = Coordinates("images.enriched", 0, 7, 0)
POINT = np.array([0.6, 0.8], "<f2").tobytes()


def remade(settings: CurrentSettings, made: Any, corrections: MemoryCorrections | None = None) -> Remade:
    return Remaker(settings, corrections, ManualClock()).remake(StoredOutcome(*made))


def changes(settings: CurrentSettings, made: Any, corrections: MemoryCorrections | None = None) -> tuple[str, ...]:
    new = remade(settings, made, corrections)
    assert isinstance(new, New), new
    return new.changes


def need(settings: CurrentSettings, made: Any) -> str:
    needs = remade(settings, made)
    assert isinstance(needs, NeedsImage), needs
    return needs.reason


def new_event(settings: CurrentSettings, made: Any, corrections: MemoryCorrections | None = None) -> EnrichedImage:
    new = remade(settings, made, corrections)
    assert isinstance(new, New), new
    event = read_output(new.document(WHERE, made[0]["version"] + 1).value)
    assert isinstance(event, EnrichedImage)
    return event


def failure() -> Failure:
    return Failure(index=0, stage="caption", reason="caption-failed", detail="none", want="caption")


def test_an_outcome_of_today_is_unchanged(tmp_path: Path) -> None:
    assert remade(today(tmp_path), outcome(today(tmp_path), SCORES)) is SAME


def test_a_lowered_threshold_shows_more_tags_and_a_new_caption(tmp_path: Path) -> None:
    event = new_event(today(tmp_path, thresholds=0.3), outcome(today(tmp_path), SCORES))
    assert [(tag.name, tag.score) for tag in event.tags] == [("red", 0.9), ("green", 0.6), ("blue", 0.4)]
    assert event.tags[2].translations == {"de": "blau"}
    assert event.caption is not None
    assert event.caption.guided_by == ("red", "green", "blue")


def test_a_new_event_keeps_the_outcomes_own_fields(tmp_path: Path) -> None:
    document, headers = outcome(today(tmp_path), SCORES)
    document["models"]["tagger"]["precision"] = "bf16"
    event = new_event(today(tmp_path, thresholds=0.3), (document, headers))
    assert event.models.tagger is not None
    assert event.models.tagger.precision == "bf16"
    assert (event.event.id, event.event.dialect, event.event.time) == ("event-1", "own", None)
    assert (event.event.topic, event.event.offset) == (WHERE.topic, WHERE.offset)
    assert event.source.model_dump() == document["source"]
    assert event.image.model_dump() == document["image"]
    assert event.version == document["version"] + 1


def test_a_threshold_that_hides_and_shows_nothing_leaves_the_outcome_unchanged(tmp_path: Path) -> None:
    assert remade(today(tmp_path, thresholds=0.55), outcome(today(tmp_path), SCORES)) is SAME


def test_translations_alone_make_a_new_event(tmp_path: Path) -> None:
    document, headers = outcome(today(tmp_path, languages=False), SCORES)
    assert changes(today(tmp_path, thresholds=0.55), (document, headers)) == ("translations",)


def test_outcomes_without_parents_get_them(tmp_path: Path) -> None:
    settings = today(tmp_path / "now", parents=True)
    event = new_event(settings, outcome(today(tmp_path / "then"), SCORES))
    assert [(tag.name, tag.parents) for tag in event.tags] == [("red", ("warm", "colour")), ("green", None)]
    made = outcome(settings, SCORES)
    assert remade(settings, made) is SAME
    assert changes(today(tmp_path / "then"), made) == ("tags",)
    assert settings.parts != today(tmp_path / "then").parts


def test_a_persons_word_is_applied_without_the_image(tmp_path: Path) -> None:
    log = said(correction("photos", "a.png", added=["teal"], removed=["red"]))
    made = outcome(today(tmp_path), SCORES)
    event = new_event(today(tmp_path), made, log)
    assert [tag.name for tag in event.tags] == ["teal", "green"]
    assert event.corrections is not None
    assert remade(today(tmp_path), made, said()) is SAME
    assert remade(today(tmp_path), made, said(correction("photos", "b.png", added=["teal"]))) is SAME


def test_a_withdrawn_correction_makes_the_models_tags_come_back(tmp_path: Path) -> None:
    words = correction("photos", "a.png", removed=["red"])
    corrected = remade(today(tmp_path), outcome(today(tmp_path), SCORES), said(words))
    assert isinstance(corrected, New)
    document = corrected.document(WHERE, 1)
    again = orjson.loads(document.value), document.stored
    assert remade(today(tmp_path), again, said(words)) is SAME
    event = new_event(today(tmp_path), again, said(words, withdrawal("photos", "a.png")))
    assert [tag.name for tag in event.tags] == ["red", "green"]


def test_names_of_people_come_and_go_with_the_setting(tmp_path: Path) -> None:
    words = correction("photos", "a.png", removed=["red"], by="ann")
    corrected = remade(today(tmp_path), outcome(today(tmp_path), SCORES), said(words))
    assert isinstance(corrected, New)
    document = corrected.document(WHERE, 1)
    without = orjson.loads(document.value), document.stored
    assert changes(today(tmp_path), without, said(words, people=True)) == ("corrections",)
    event = new_event(today(tmp_path), without, said(words, people=True))
    named = orjson.loads(event.to_bytes()), document.stored
    assert named[0]["corrections"]["by"] == ["ann"]
    assert event.id == without[0]["id"]
    assert remade(today(tmp_path), named, said(words, people=True)) is SAME
    again = new_event(today(tmp_path), named, said(words))
    assert again.corrections is not None
    assert again.corrections.by is None


def test_corrected_outcomes_stay_where_no_corrections_are_read(tmp_path: Path) -> None:
    document, headers = outcome(today(tmp_path), SCORES)
    document["corrections"] = {"added": [], "removed": ["red"]}
    assert remade(today(tmp_path, thresholds=0.3), (document, headers)) == Stays("corrections-not-read")


def test_an_outcome_of_an_unknown_profile_stays(tmp_path: Path) -> None:
    made = outcome(today(tmp_path, profiles={"old": {"all": 0.2}}), SCORES, profile="old")
    assert remade(today(tmp_path), made) == Stays("unknown-profile")


@pytest.mark.parametrize(
    ("then", "now", "given", "reason"),
    [
        ({}, {}, {"failures": (failure(),)}, "partial"),
        ({}, {"digest": OTHER}, {}, "tagger"),
        ({}, {"allowed": ["red"]}, {}, "tagger"),
        ({}, {"captioner": OTHER}, {}, "captioner"),
        ({"captioner": "c" * 64}, {"captioner": OTHER}, {"caption": "red"}, "captioner"),
        ({"captioner": OTHER}, {"captioner": OTHER, "thresholds": 0.3}, {"caption": "red"}, "guide"),
        ({}, {"thresholds": 0.3}, {"stored": False}, "no-scores"),
        ({}, {"thresholds": 0.3}, {"floor": 0.35}, "below-floor"),
        ({}, {"thresholds": 0.3}, {"labels": "d" * 16}, "labels"),
        ({}, {"want": ("tags", "embedding")}, {"dialect": "s3"}, "embedding"),
        ({}, {"want": ("tags", "embedding")}, {"dialect": "s3", "embedding": (OTHER, "clip", POINT)}, "embedding"),
    ],
)
def test_a_record_without_the_needed_data_needs_the_image(
    tmp_path: Path, then: Any, now: Any, given: Any, reason: str
) -> None:
    scores = {name: score for name, score in SCORES.items() if score >= given.get("floor", 0)}
    assert need(today(tmp_path, **now), outcome(today(tmp_path, **then), scores, **given)) == reason


def test_an_outcome_without_its_wishes_needs_the_image_once_something_changes(tmp_path: Path) -> None:
    document, headers = outcome(today(tmp_path), SCORES)
    del document["options"]
    assert remade(today(tmp_path), (document, headers)) is SAME
    assert need(today(tmp_path, thresholds=0.3), (document, headers)) == "no-options"


def test_a_model_without_a_shown_result_does_not_count(tmp_path: Path) -> None:
    made = outcome(today(tmp_path), SCORES, want=("tags",))
    assert remade(today(tmp_path, captioner=OTHER), made) is SAME
    event = new_event(today(tmp_path, captioner=OTHER, thresholds=0.3), made)
    assert event.models.captioner is None
    alone = outcome(today(tmp_path), SCORES, want=("caption",), guide_tags=("a cat",))
    assert remade(today(tmp_path, digest=OTHER, thresholds=0.3), alone) is SAME


def test_a_models_caption_is_kept_while_its_guide_stays(tmp_path: Path) -> None:
    made = outcome(today(tmp_path, captioner=OTHER, languages=False), SCORES, caption="a red wall")
    event = new_event(today(tmp_path, captioner=OTHER, thresholds=0.55), made)
    assert event.caption is not None
    assert (event.caption.text, event.caption.score, event.caption.method) == ("a red wall", -0.5, "beam")


def test_a_template_takes_over_from_a_captioner(tmp_path: Path) -> None:
    made = outcome(today(tmp_path, captioner=OTHER), SCORES, caption="a red wall")
    event = new_event(today(tmp_path), made)
    assert event.caption is not None
    assert event.caption.method == "template"
    assert event.models.captioner is None
    assert new_event(today(tmp_path, captioner="none"), made).caption is None


def test_another_wording_of_the_template_makes_new_captions(tmp_path: Path) -> None:
    document, headers = outcome(today(tmp_path), SCORES)
    document["caption"]["text"] = "red, green"
    assert changes(today(tmp_path), (document, headers)) == ("caption",)


def test_captions_go_once_nothing_makes_them(tmp_path: Path) -> None:
    assert changes(today(tmp_path, captioner="none"), outcome(today(tmp_path), SCORES)) == ("caption",)


def test_an_embedding_that_the_record_carries_is_shown_without_the_image(tmp_path: Path) -> None:
    made = outcome(today(tmp_path), SCORES, dialect="s3", embedding=("a" * 64, "clip", POINT))
    event = new_event(today(tmp_path, want=("tags", "embedding")), made)
    assert event.embedding is not None
    assert (event.embedding.space, event.embedding.dimensions, event.embedding.model) == ("clip", 2, "a" * 64)
    assert event.caption is None


def test_points_of_two_spaces_are_never_compared(tmp_path: Path) -> None:
    made = outcome(today(tmp_path), SCORES, dialect="s3", embedding=("a" * 64, "clip", POINT))
    with pytest.raises(Misconfigured, match="two spaces"):
        remade(today(tmp_path, want=("tags", "embedding"), kind="ram"), made)


def test_a_threshold_below_the_taggers_own_floor_needs_no_image(tmp_path: Path) -> None:
    event = new_event(today(tmp_path, thresholds=0.01), outcome(today(tmp_path), SCORES))
    assert len(event.tags) == 4


def test_labels_that_are_never_scored_hide_nothing(tmp_path: Path) -> None:
    only: dict[str, Any] = {"allowed": ["red", "green"]}
    made = outcome(today(tmp_path, **only), {"red": 0.9, "green": 0.6}, floor=0.6)
    event = new_event(today(tmp_path, thresholds=0.55, languages=False, **only), made)
    assert [tag.name for tag in event.tags] == ["red", "green"]
    assert remade(today(tmp_path, thresholds=0.3, **only), made) is SAME


def test_scores_of_a_profiles_labels_serve_that_profile(tmp_path: Path) -> None:
    profiles = {"reds": {"only": ["red"], "all": 0.95}}
    then, now = today(tmp_path, profiles=profiles), today(tmp_path, profiles={"reds": {"only": ["red"], "all": 0.5}})
    subset = now.profiles["reds"].subset
    assert subset is not None
    made = outcome(then, {"red": 0.9}, profile="reds", labels=subset.digest)
    assert [tag.name for tag in new_event(now, made).tags] == ["red"]
    other = outcome(then, {"red": 0.9}, profile="reds", labels="d" * 16)
    assert need(now, other) == "labels"


@pytest.mark.parametrize("broken", [{}, {"schema": "enriched-image/1"}, {"models": []}])
def test_a_document_of_another_shape_is_no_outcome(tmp_path: Path, broken: Any) -> None:
    document, headers = outcome(today(tmp_path), SCORES)
    with pytest.raises(ValueError, match="shape"):
        remade(today(tmp_path), ({**document, **broken} if "models" in broken else broken, headers))


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("source", {"sha256": "no hash"}),
        ("source", {"key": "other.png"}),
        ("event", {"time": "noon"}),
        ("image", {"width": 0}),
        ("image", {"taken_at": "noon<b>"}),
        ("image", {"thumbhash": "A" * 44}),
        ("caption", {"text": 7}),
    ],
)
def test_no_event_is_made_of_an_outcome_that_no_reader_takes(tmp_path: Path, part: str, wrong: Any) -> None:
    document, headers = outcome(today(tmp_path), SCORES)
    document[part] |= wrong
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))}|subject"):
        new_event(today(tmp_path, thresholds=0.3), (document, headers))


FACTS = {
    "taken_at": "2026-05-03T17:04:05",
    "orientation": 6,
    "phash": "0123456789abcdef",
    "thumbhash": "3OcRJYB4d3h/iIeHeEh3eIhw+j2w",
    "place": {"latitude": 52.5, "longitude": -13.4},
    "facts_missing": "a-later-reason",
}


def test_a_new_event_carries_the_facts_of_its_picture(tmp_path: Path) -> None:
    document, headers = outcome(today(tmp_path), SCORES)
    document["image"] |= FACTS
    event = new_event(today(tmp_path, thresholds=0.3), (document, headers))
    assert event.image.model_dump(mode="json") == document["image"]


READ = {"bucket": "photos-web", "key": "a.png.jpg", "width": 4, "height": 3, "orientation": 1}


def test_a_new_event_names_the_rendition_that_was_read_and_its_size_and_turn(tmp_path: Path) -> None:
    document, headers = outcome(today(tmp_path), SCORES)
    document["image"] |= {**FACTS, "of": "rendition"}
    document["source"]["read"] = READ
    event = new_event(today(tmp_path, thresholds=0.3), (document, headers))
    assert event.image.model_dump(mode="json") == document["image"]
    assert event.source.model_dump(mode="json") == document["source"]


def test_a_persons_word_on_the_original_holds_where_its_rendition_was_read(tmp_path: Path) -> None:
    document, headers = outcome(today(tmp_path), SCORES)
    document["source"]["read"] = READ
    for etag, added in (("e1", ["teal", "red", "green"]), ("e2", None)):
        log = said(correction("photos", "a.png", added=["teal"], sha256="f" * 64, etag=etag))
        found = remade(today(tmp_path), (document, headers), log)
        assert (found is SAME) == (added is None)
        assert added is None or [tag["name"] for tag in found.parts["tags"]] == added  # type: ignore[union-attr]


def test_an_outcome_that_lacks_its_pictures_facts_needs_the_image_where_a_plan_asks_for_them(tmp_path: Path) -> None:
    document, headers = outcome(today(tmp_path), SCORES)
    for thresholds, without in ((0.5, Same), (0.3, New)):
        remaker = Remaker(today(tmp_path, thresholds=thresholds), None, ManualClock())
        found = remaker.remake(StoredOutcome(document, headers), facts=True)
        assert isinstance(found, NeedsImage)
        assert (found.reason, found.options.want) == ("facts", ("tags", "caption"))
        assert isinstance(remaker.remake(StoredOutcome(document, headers)), without)
        flat = {**document, "image": {**document["image"], "thumbhash": FACTS["thumbhash"]}}
        assert isinstance(remaker.remake(StoredOutcome(flat, headers), facts=True), without)


def test_the_guide_and_the_command_explain_every_reason() -> None:
    assert set(REASONS) == {*NEEDS, *STAYS}
    guide = (Path(__file__).parents[3] / "docs/guide/retag.md").read_text(encoding="utf-8")
    assert [reason for reason in NEEDS if f"`{reason}`" not in guide] == []


SETTINGS = st.fixed_dictionaries(
    {
        "thresholds": st.sampled_from((0.01, 0.3, 0.5, 0.55, 0.9)),
        "languages": st.booleans(),
        "parents": st.booleans(),
        "captioner": st.sampled_from(("template", "none", OTHER)),
        "want": st.sampled_from((("tags", "caption"), ("tags",), ("tags", "embedding"))),
    }
)


@given(
    then=SETTINGS,
    now=SETTINGS,
    scores=st.dictionaries(st.sampled_from(LABELS), st.floats(0.0625, 1, width=32)),
    options=st.fixed_dictionaries(
        {"want": st.sampled_from((("tags", "caption"), ("caption",))), "guide_tags": st.sampled_from(((), ("dog",)))}
    ),
    removed=st.sampled_from(((), ("red",), ("green", "blue"))),
    dialect=st.sampled_from(("own", "s3")),
)
def test_a_new_event_is_the_same_when_it_is_remade(
    tmp_path_factory: pytest.TempPathFactory,
    then: Any,
    now: Any,
    scores: dict[str, float],
    options: Any,
    removed: tuple[str, ...],
    dialect: str,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "bundles"
    log = said(*([correction("photos", "a.png", removed=removed, added=["dusk"])] if removed else []))
    was, settings = (today(folder / str(each["parents"]), **each) for each in (then, now))
    caption = "a wall" if then["captioner"] == OTHER and "caption" in options["want"] else None
    made = outcome(was, scores, dialect=dialect, caption=caption, embedding=("a" * 64, "clip", POINT), **options)
    answer = remade(settings, made, log)
    if isinstance(answer, New):
        document = answer.document(WHERE, 1)
        assert remade(settings, (orjson.loads(document.value), document.stored), log) is SAME
    else:
        assert answer is SAME or isinstance(answer, NeedsImage)


@pytest.mark.parametrize(
    "pairs",
    [
        ((0, 0.9), (0, 0.4)),
        ((0, 0.4), (1, 0.9)),
        ((0, 1.5), (1, 0.4)),
        ((0, 0.9), (5, 0.4)),
        ((0, 0.9), (1, float("nan")), (2, 0.4)),
        ((0, 0.9), (1, 0.01)),
    ],
)
def test_scores_that_no_tagger_gives_are_of_no_use(tmp_path: Path, pairs: Any) -> None:
    document, ((name, header),) = outcome(today(tmp_path), SCORES)
    assert header is not None
    forged = header[: -8 * len(SCORES)] + b"".join(struct.pack("<If", *pair) for pair in pairs)
    for value in (forged, header + b"1", header[:40], b"", header[:-8] + bytes(2_000)):
        assert need(today(tmp_path, thresholds=0.3), (document, ((name, value),))) == "no-scores"
