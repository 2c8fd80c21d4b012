"""People's corrections of an image's tags override the models."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from schemas.correction import Word, correction
from schemas.enriched_image import CorrectedTags, Tag
from tagstream_testing.memory import MemoryCorrections
from tests.support.corrections import said
from tests.support.harness import EchoCaptioner, Harness
from tests.support.tasks import TAGGER, annotation
from tests.support.waiting import eventually
from workers.models.template import TemplateCaptioner
from workers.pipeline.annotation import Annotation
from workers.pipeline.roles import make_roles
from workers.pipeline.tagging import Tagging
from workers.types import LabelScores


def scored(**scores: float) -> Annotation:
    found = annotation()
    ids = sorted((list(TAGGER.labels).index(name), score) for name, score in scores.items())
    found.results["tags"] = LabelScores(
        np.array([i for i, _ in ids], np.int32), np.array([score for _, score in ids], np.float32)
    )
    return found


def tags_of(shown: Mapping[str, Any]) -> list[Tag]:
    return [Tag(**tag) for tag in shown["tags"]]


def test_added_tags_are_a_persons_and_removed_ones_stay_away() -> None:
    log = said(correction("photos", "a.png", added=["blue", "terrier"], removed=["red"]))
    shown = Tagging(TAGGER, log).render(scored(red=0.9, green=0.8))
    assert [(tag.name, tag.label_id, round(tag.score, 1), tag.source) for tag in tags_of(shown)] == [
        ("blue", 2, 1.0, "person"),
        ("terrier", None, 1.0, "person"),
        ("green", 1, 0.8, None),
    ]
    assert shown["corrections"] == CorrectedTags(added=("blue", "terrier"), removed=("red",))


def test_a_tag_that_no_model_knows_is_shown_where_no_other_is() -> None:
    log = said(correction("photos", "a.png", added=["terrier"], removed=["red"]))
    roles = make_roles({"tagger": TAGGER}, TemplateCaptioner(), log)
    task = scored(red=0.9)
    fields: dict[str, Any] = {}
    for role in roles.all:
        fields.update(role.render(task))
    [terrier] = tags_of(fields)
    assert (terrier.name, terrier.label_id, terrier.score, terrier.source) == ("terrier", None, 1.0, "person")
    assert fields["caption"]["guided_by"] == ["terrier"]


def test_an_image_without_a_tag_has_no_caption_by_rule() -> None:
    roles = make_roles({"tagger": TAGGER}, TemplateCaptioner())
    fields: dict[str, Any] = {}
    for role in roles.all:
        fields.update(role.render(scored(red=0.1)))
    assert (fields["tags"], fields["caption"]) == ((), None)


def test_an_uncorrected_image_is_rendered_as_without_corrections() -> None:
    log = said(correction("photos", "b.png", added=["blue"]))
    for tagging in (Tagging(TAGGER), Tagging(TAGGER, log)):
        shown = tagging.render(scored(red=0.9))
        assert [(tag.name, tag.source) for tag in tags_of(shown)] == [("red", None)]
        assert shown["corrections"] is None


def test_captions_are_guided_by_the_corrected_tags() -> None:
    log = said(correction("photos", "a.png", added=["blue", "terrier"], removed=["red"]))
    assert Tagging(TAGGER, log).names(scored(red=0.9, green=0.8), by_label=True) == ["green", "blue", "terrier"]


def test_equal_images_with_different_corrections_do_not_share_a_caption() -> None:
    log = said(correction("photos", "a.png", removed=["red"]))
    models: Any = {"tagger": TAGGER, "captioner": EchoCaptioner()}
    with_word, without = make_roles(models, None, log), make_roles(models)
    assert with_word.flight_key(annotation()) != without.flight_key(annotation())
    assert with_word.flight_key(annotation(want=["tags"])) == without.flight_key(annotation(want=["tags"]))


def test_a_task_shows_one_consistent_set_of_corrections() -> None:
    log = said(correction("photos", "a.png", removed=["red"]))
    tagging, task = Tagging(TAGGER, log), scored(red=0.9, green=0.8)
    assert tagging.names(task, by_label=True) == ["green"]
    log.produce(correction("photos", "a.png", removed=["green"]))
    log.follow(0)
    assert [tag["name"] for tag in tagging.tags(task)] == ["green"]


def test_a_worker_reads_them_before_its_first_event_and_then_follows(harness: Harness) -> None:
    log = harness.corrections = MemoryCorrections()
    log.produce(correction("photos", "a.png", added=["blue"], removed=["red"]))
    harness.give("a.png", (255, 0, 0))
    with harness.running():
        harness.settled()
        first = harness.enriched()["a.png"]
        assert "blue" in {tag.name for tag in first.tags if tag.source == "person"}
        log.produce(correction("photos", "a.png", removed=["blue"]))
        eventually(lambda: log.on("photos/a.png", "0" * 64) == Word((), ("blue", "red")))
        harness.send(harness.event("a.png"))
        harness.settled()
    again = harness.enriched()["a.png"]
    assert not {"blue", "red"} & {tag.name for tag in again.tags}
    assert again.id != first.id


def test_people_are_told_and_are_no_part_of_the_id_nor_of_the_results() -> None:
    told = dict[str, Any]()
    for name, people in {"ann": True, "bob": True, "off": False}.items():
        harness = Harness()
        harness.corrections = said(correction("photos", "a.png", removed=["red"], by=name), people=people)
        harness.captioner = EchoCaptioner()
        harness.give("a.png", (255, 200, 0))
        harness.work()
        told[name] = harness.enriched()["a.png"]
    assert [each.corrections.by for each in told.values()] == [("ann",), ("bob",), None]
    assert len({each.id for each in told.values()}) == 1
    assert b'"by"' not in told["off"].to_bytes()
    roles = [
        make_roles({"tagger": TAGGER, "captioner": EchoCaptioner()}, None, said(each, people=True))
        for each in (correction("photos", "a.png", removed=["red"], by=name) for name in ("ann", "bob"))
    ]
    assert roles[0].flight_key(annotation()) == roles[1].flight_key(annotation())
