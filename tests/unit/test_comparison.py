"""The comparison of two topics, and when the candidate may be promoted."""

from typing import Any

import pytest

from schemas.enriched_image import EnrichedImage, GoneSource, OutcomeOptions, ReadRendition, Retraction, Source, Tag
from tests.unit.schemas.documents import enriched, retraction
from workers.comparison import Outcomes, PromotionRule, TagAgreement, agreement, judged, lost, objections

RULE = PromotionRule(images=2, jaccard=0.5, label_images=2, label_agreement=0.5, may_lose_labels=False)
SHA = "b" * 64


def image(key: str, *tags: str, version: int = 1, **fields: Any) -> EnrichedImage:
    shown = tuple(Tag(name=name, score=0.9, label_id=number) for number, name in enumerate(tags))
    source = Source(bucket="photos", key=key, etag="e", last_modified="2026-01-01T00:00:00Z", sha256="a" * 64)
    return enriched(**({"subject": f"photos/{key}", "source": source, "version": version, "tags": shown} | fields))


def gone(key: str, version: int) -> Retraction:
    source = GoneSource(bucket="photos", key=key)
    return retraction(subject=f"photos/{key}", source=source, version=version, scope="object")


def outcomes(*outputs: EnrichedImage | Retraction, only: set[str] | None = None) -> Outcomes:
    found = Outcomes(only)
    for output in outputs:
        found.take(output)
    return found


def compared(live: Outcomes, candidate: Outcomes) -> TagAgreement:
    return agreement(live, candidate)


def test_the_newest_outcome_of_each_subject_counts_in_any_order() -> None:
    old, new = image("a", "dog"), image("a", "cat", version=2)
    for order in ((old, new), (new, old)):
        found = compared(outcomes(*order), outcomes(image("a", "cat")))
        assert (found.compared, found.mean_jaccard) == (1, 1.0)


def test_an_image_that_is_gone_or_has_other_content_is_not_compared() -> None:
    other = image("b", "dog").model_copy(update={"source": image("b").source.model_copy(update={"sha256": SHA})})
    live = outcomes(image("a", "dog"), gone("a", 2), image("b", "dog"))
    found = compared(live, outcomes(image("a", "dog"), other, image("c", "dog")))
    assert (found.compared, found.other_content, found.mean_jaccard) == (0, 3, None)


def test_a_rendition_is_compared_with_its_original_and_with_no_other() -> None:
    read = ReadRendition(bucket="photos-web", key="a.jpg", width=8, height=6)
    source = image("a").source.model_copy(update={"sha256": SHA, "read": read})
    seen = image("a", "dog").model_copy(update={"source": source})
    found = compared(outcomes(image("a", "dog")), outcomes(seen))
    assert (found.compared, found.mean_jaccard) == (1, 1.0)
    later = image("a", "dog").model_copy(update={"source": source.model_copy(update={"etag": "another"})})
    assert compared(outcomes(image("a", "dog")), outcomes(later)).compared == 0


def test_a_persons_tags_count_for_neither() -> None:
    said = Tag(name="terrier", score=1.0, label_id=None, source="person")
    corrected = image("a", "dog").model_copy(update={"tags": (said, *image("a", "dog").tags)})
    found = compared(outcomes(corrected), outcomes(image("a", "dog")))
    assert list(found.labels) == ["dog"]


def test_an_outcome_that_wanted_no_tags_is_no_taggers_answer() -> None:
    other = image("a", options=OutcomeOptions(want=("embedding",)), version=2)
    found = compared(outcomes(image("a", "dog"), other), outcomes(image("a", "dog"), image("b", options=other.options)))
    assert (found.compared, found.other_content, found.mean_jaccard) == (1, 0, 1.0)


def test_only_wanted_subjects_are_kept() -> None:
    assert outcomes(image("a", "dog"), image("b", "dog"), only={"photos/a"}).subjects() == {"photos/a"}


def test_counts_are_by_label_and_the_jaccard_index_is_their_mean() -> None:
    live = outcomes(image("a", "dog", "grass"), image("b", "dog"), image("c"))
    found = compared(live, outcomes(image("a", "dog", "sky"), image("b", "cat"), image("c")))
    assert found.mean_jaccard == pytest.approx((1 / 3 + 0 + 1) / 3)
    dog = found.labels["dog"]
    assert (dog.both, dog.live, dog.candidate) == (1, 1, 0)
    assert (found.tags.both, found.tags.live, found.tags.candidate) == (1, 2, 2)


def test_the_worst_label_comes_first_and_a_label_that_is_never_given_is_lost() -> None:
    live = outcomes(*(image(str(n), "dog", "cat", "fox") for n in range(3)))
    found = compared(live, outcomes(image("0", "dog", "cat"), image("1", "dog"), image("2", "dog")))
    assert list(judged(found, RULE)) == ["cat", "dog"]
    assert lost(found, RULE) == {"fox": 3}


def test_a_candidate_that_says_the_same_may_be_promoted() -> None:
    same = [image(str(n), "dog") for n in range(3)]
    assert list(objections(compared(outcomes(*same), outcomes(*same)), RULE, ["one"])) == []


@pytest.mark.parametrize(
    ("candidate", "taggers", "says"),
    [
        ([image("0", "dog")], ["one"], "1 image compared"),
        ([image(str(n), "cat") for n in range(3)], ["one"], "the mean Jaccard index is 0.000"),
        ([image("0", "dog"), image("1", "ant"), image("2", "ant")], ["one"], "the label dog"),
        ([image(str(n), "dog") for n in range(3)], ["one", "two"], "outcomes of 2 taggers: one, two"),
    ],
)
def test_each_condition_of_the_rule_is_an_objection_of_its_own(
    candidate: list[EnrichedImage], taggers: list[str], says: str
) -> None:
    live = outcomes(*(image(str(n), "dog") for n in range(3)))
    reasons = [each.reason for each in objections(compared(live, outcomes(*candidate)), RULE, taggers)]
    assert any(says in reason for reason in reasons), reasons
