"""Kinds of results: tags, captions, embeddings: which are wanted, scored and shown."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.correction import correction
from schemas.enriched_image import CaptionText, Tag
from tests.support.corrections import said
from tests.support.harness import OUT, ChoosyTagger, ColourTagger, EchoCaptioner, Harness
from tests.support.tasks import PROFILES, TAGGER, a_task, an_attempt, annotation
from workers.errors import Broken
from workers.pipeline.annotation import Annotation
from workers.pipeline.captioning import Captioning, TemplateCaptioning
from workers.pipeline.embedding import EmbeddingRole
from workers.pipeline.tagging import Tagging
from workers.pipeline.task import Attempt
from workers.types import Caption, LabelScores, Pixels


class Translated(ColourTagger):
    translations: Mapping[str, Sequence[str]] = {"de": ("rot", "grün", "blau")}
    parents: Sequence[Sequence[str]] = ((), (), ("cold colour", "colour"))


class OfNoLabel(ColourTagger):
    """Its scores are of a label that it has not."""

    def postprocess(self, raw: Any) -> LabelScores:
        return LabelScores(np.array([3], np.int32), np.array([0.5], np.float32))


def pictured(**options: Any) -> Attempt:
    return an_attempt({TAGGER.transform: np.full((8, 8, 3), (220, 30, 160), np.uint8)}, **options)


def scored(**options: Any) -> Annotation:
    known = annotation(**options)
    known.results["tags"] = LabelScores(np.array([0, 1, 2], np.int32), np.array([0.6, 0.2, 0.95], np.float32))
    return known


def tags(tagging: Tagging, known: Annotation) -> list[Tag]:
    return [Tag(**tag) for tag in tagging.tags(known)]


def names(tagging: Tagging, known: Annotation) -> list[str]:
    return [tag.name for tag in tags(tagging, known)]


def test_tags_are_the_labels_above_their_thresholds_best_first() -> None:
    tagging = Tagging(TAGGER)
    assert [names(tagging, scored(**more)) for more in ({}, {"profile": "strict"}, {"profile": "reds"})] == [
        ["blue", "red"],
        ["blue"],
        ["red"],
    ]
    assert tagging.names(scored(), by_label=True) == ["red", "blue"]
    assert (tagging.tags(annotation()), tagging.names(annotation(), by_label=True)) == ((), [])


def test_a_tag_says_its_label_and_its_names_in_other_languages_and_its_parents() -> None:
    [blue, red] = tags(Tagging(Translated()), scored())
    assert (blue.parents, red.parents) == (("cold colour", "colour"), None)
    assert (blue.name, blue.label_id, blue.translations) == ("blue", 2, {"de": "blau"})
    assert blue.score == pytest.approx(0.95)
    [blue, _] = tags(Tagging(TAGGER), scored())
    assert (blue.translations, blue.parents) == (None, None)


def test_tags_that_were_not_asked_for_are_not_shown_though_they_guide() -> None:
    unasked = scored(want=("caption",))
    assert Tagging(TAGGER).render(unasked) == {"tags": (), "corrections": None}
    assert Tagging(TAGGER).names(unasked, by_label=True) == ["red", "blue"]


def test_a_tagger_is_asked_for_the_labels_of_a_profile_where_it_can_score_them_alone() -> None:
    choosy, plain = ChoosyTagger(), ColourTagger()
    for tagger in (choosy, plain):
        tagging = Tagging(tagger)
        answers = [tagging.finish(answer) for answer in tagging.run([pictured(), pictured(profile="reds")])]
        assert [list(answer.label_ids) for answer in answers] == [[0, 1, 2], [0] if tagger is choosy else [0, 1, 2]]
    assert choosy.asked == [None, PROFILES["reds"].subset]
    Tagging(choosy).run([pictured()])
    assert len(choosy.asked) == 2, "all labels are scored the way that every tagger has"


def test_the_self_test_scores_the_same_labels_as_the_image() -> None:
    choosy = ChoosyTagger()
    Tagging(choosy).self_test(pictured(profile="reds"))
    assert choosy.asked == [PROFILES["reds"].subset]
    choosy.nan = True
    with pytest.raises(ValueError, match="number"):
        Tagging(choosy).self_test(pictured())
    of_no_label = Tagging(OfNoLabel())
    with pytest.raises(Broken):
        of_no_label.self_test(pictured())
    with pytest.raises(Broken):
        of_no_label.check_self_test(None)


def test_scores_are_kept_by_the_labels_that_were_scored() -> None:
    rule = Tagging(TAGGER).option_rules["profile"]
    subset = PROFILES["reds"].subset
    assert subset is not None
    assert rule(annotation(profile="reds"), {}) == subset.digest
    assert rule(annotation(profile="strict"), {}) is None


def test_packed_scores_come_back_only_under_their_own_labels() -> None:
    tagging = Tagging(TAGGER)
    packed = tagging.pack(scored().results["tags"])
    back = tagging.unpack(packed)
    assert back is not None
    assert back.label_ids.tolist() == [0, 1, 2]
    beyond = LabelScores(np.array([3], np.int32), np.array([0.5], np.float32))
    assert (tagging.unpack(tagging.pack(beyond)), tagging.unpack(None)) == (None, None)


def test_of_a_name_that_two_labels_have_a_person_means_the_first() -> None:
    class Twice(ColourTagger):
        labels: Sequence[str] = ("red", "green", "red")

    [red] = tags(Tagging(Twice(), said(correction("photos", "a.png", added=["red"]))), scored())
    assert (red.label_id, red.source) == (0, "person")


CAPTION = Caption("saw it", -0.5, "greedy")
TAGGING = Tagging(TAGGER)


class OfNumbers(EchoCaptioner):
    """Gives an impossible caption."""

    def postprocess(self, raw: Any) -> Any:
        return 5


class OfOne(EchoCaptioner):
    def forward(self, images: Sequence[Pixels], guides: Sequence[str]) -> Sequence[Any]:
        return super().forward(images, guides)[:1]


def captionable(**options: Any) -> Attempt:
    attempt = an_attempt({EchoCaptioner.transform: np.zeros((4, 4, 3), np.uint8)}, **options)
    attempt.annotation.results |= scored(**options).results
    return attempt


def test_each_image_is_captioned_under_its_own_guide() -> None:
    captioner = EchoCaptioner()
    captions = Captioning(captioner, TAGGING).run(
        [captionable(), captionable(guide_tags=("a", "b")), captionable(profile="strict")]
    )
    assert [caption.text for caption in captions] == ["saw red | blue", "saw a | b", "saw blue"]
    [unguided] = Captioning(captioner, None).run([captionable()])
    assert unguided.text == "saw "


def test_a_captioner_that_answers_something_else_is_broken() -> None:
    for captioner, tasks in ((OfNumbers(), [captionable()]), (OfOne(), [captionable(), captionable()])):
        with pytest.raises(Broken):
            Captioning(captioner, TAGGING).run(tasks)


def test_the_self_test_is_an_answer_for_the_image_that_is_known_to_be_good() -> None:
    good, failing = EchoCaptioner(), EchoCaptioner()
    Captioning(good, TAGGING).self_test(captionable())
    assert good.guides == [""]
    with pytest.raises(Broken):
        Captioning(OfNumbers(), TAGGING).self_test(captionable())
    failing.self_test_image = lambda: np.zeros((4, 4, 3), np.uint8)  # type: ignore[method-assign]  # no good one
    failing.fails = True
    with pytest.raises(RuntimeError):
        Captioning(failing, TAGGING).self_test(captionable())


def test_an_event_shows_the_caption_that_it_asked_for() -> None:
    captioning = Captioning(EchoCaptioner(), TAGGING)
    without, with_one, unasked = scored(), scored(), scored(want=("tags",))
    with_one.results["caption"] = unasked.results["caption"] = CAPTION
    assert captioning.render(without) == captioning.render(unasked) == {"caption": None}
    shown = CaptionText(**captioning.render(with_one)["caption"])
    assert (shown.text, shown.score, shown.method, shown.guided_by) == ("saw it", -0.5, "greedy", ("red", "blue"))


def test_a_caption_is_kept_under_what_guided_it_once_that_is_known() -> None:
    captioning = Captioning(EchoCaptioner(), TAGGING)
    guide, chooses = (captioning.option_rules[name] for name in ("guide_tags", "profile"))
    task, given = scored(), scored(guide_tags=("red", "blue"))
    assert guide(task, {}) is None
    assert guide(task, task.results) == guide(given, {}) != guide(scored(guide_tags=("blue", "red")), {})
    assert chooses(task, task.results) is chooses(given, {}) is None
    assert chooses(task, {}) == task.profile.digest
    alone = Captioning(EchoCaptioner(), None)
    assert alone.option_rules["guide_tags"](task, {}) is not None
    assert alone.option_rules["profile"](task, {}) is None


def test_a_packed_caption_comes_back_under_a_key_of_its_captioner() -> None:
    captioning = Captioning(EchoCaptioner(), TAGGING)
    assert captioning.unpack(captioning.pack(captioning.finish(CAPTION))) == CAPTION
    assert captioning.unpack(None) is None
    other = EchoCaptioner()
    other.options_digest = "beams"
    assert Captioning(other, TAGGING).made_by != captioning.made_by == Captioning(EchoCaptioner(), None).made_by


def test_a_caption_needs_tags_unless_it_is_guided() -> None:
    for role in (Captioning(EchoCaptioner(), TAGGING), TemplateCaptioning(lambda names: CAPTION, TAGGING)):
        assert role.needs(a_task().event.options) == {"tags"}
        assert role.needs(a_task(guide_tags=("a",)).event.options) == frozenset()


def test_a_template_is_filled_with_the_guide_or_the_tags_best_first() -> None:
    template = TemplateCaptioning(lambda names: Caption(" and ".join(names), None, "template"), TAGGING)
    shown = [CaptionText(**template.render(task)["caption"]) for task in (scored(), scored(guide_tags=("a", "b")))]
    assert [(each.text, each.guided_by) for each in shown] == [
        ("blue and red", ("blue", "red")),
        ("a and b", ("a", "b")),
    ]
    assert template.render(scored(want=("tags",))) == {"caption": None}
    alone = TemplateCaptioning(lambda names: Caption(f"{len(names)} tags", None, "template"), None)
    assert alone.render(scored())["caption"]["text"] == "0 tags"


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
    values = [json.loads(record.value or b"") for record in harness.broker.visible(OUT)]
    return {value["source"]["key"]: value for value in values}


def run(harness: Harness, colours: dict[str, tuple[int, int, int]], options: dict[str, Any] = OPTIONS) -> None:
    for key, colour in colours.items():
        harness.give(key, colour, options=options)
    harness.work()


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


def test_it_is_cached_by_content_apart_from_the_tags() -> None:
    tagger = ColourEmbedder()
    harness = a_harness(tagger)
    harness.keep_scores = False
    run(harness, {"tags.png": COLOUR}, {"want": ["tags"]})
    run(harness, {"first.png": COLOUR})
    run(harness, {"second.png": COLOUR}, {"want": ["embedding"]})
    images = harness.enriched()
    assert (images["first.png"].cache.tags, images["first.png"].cache.embedding) == ("hit", "miss")
    assert (images["second.png"].cache.tags, images["second.png"].cache.embedding) == (None, "hit")
    assert images["first.png"].embedding == images["second.png"].embedding
    assert (tagger.embedded, sum(tagger.batches)) == (1, 1)


def test_an_event_that_wants_an_embedding_of_a_tagger_without_one_is_partial_and_says_so() -> None:
    harness = a_harness(ColourTagger())
    run(harness, {"a.png": COLOUR}, {"want": ["tags", "caption", "embedding"]})
    image = harness.enriched()["a.png"]
    assert (image.status, image.reason, image.embedding) == ("partial", "annotate-failed", None)
    assert [tag.name for tag in image.tags] == ["red"]
    assert image.caption is not None
    (failure,) = [failure for dead_letter in harness.dead() for failure in dead_letter.failures]
    assert (failure.stage, failure.reason, failure.want) == ("annotate", "annotate-failed", "embedding")
    assert failure.detail.startswith("this worker runs the tagger colours, which gives no embeddings")


def test_an_image_with_a_failed_embedding_keeps_its_tags() -> None:
    harness = a_harness()
    run(harness, {"good.png": COLOUR, "bad.png": (1, 2, 3)})
    images = harness.enriched()
    assert (images["bad.png"].status, images["bad.png"].reason) == ("partial", "annotate-failed")
    assert [failure.want for dead_letter in harness.dead() for failure in dead_letter.failures] == ["embedding"]
    assert images["good.png"].embedding is not None


class Unlabelled(ColourEmbedder):
    """As a dual encoder before it is given labels."""

    labels: Sequence[str] = ()
    thresholds: Sequence[float] = ()

    def check_self_test(self, answer: NDArray[np.float32]) -> None:
        if answer[0] != self.self_test_image()[0, 0, 0]:
            raise Broken("another colour")


def test_a_tagger_without_labels_gives_embeddings_and_refuses_tags() -> None:
    harness = a_harness(Unlabelled())
    run(harness, {"both.png": COLOUR}, {"want": ["tags", "embedding"]})
    run(harness, {"one.png": COLOUR}, {"want": ["embedding"]})
    images = harness.enriched()
    assert (images["one.png"].status, images["one.png"].tags) == ("complete", ())
    assert (images["both.png"].status, images["both.png"].reason) == ("partial", "annotate-failed")
    assert images["one.png"].embedding == images["both.png"].embedding
    assert images["one.png"].embedding is not None
    (failure,) = [failure for dead_letter in harness.dead() for failure in dead_letter.failures]
    assert failure.want == "tags"
    assert "`tagstream models labels`" in failure.detail


def test_without_labels_the_self_test_compares_the_embedding() -> None:
    tagger = Unlabelled()
    role = EmbeddingRole(tagger)
    (answer,) = tagger.embed([tagger.self_test_image()])
    role.check_self_test(answer)
    with pytest.raises(Broken):
        role.check_self_test(answer + 1)


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


def test_a_packed_embedding_reads_back() -> None:
    role = EmbeddingRole(ColourEmbedder())
    made = role.finish(np.array([3, 4, 0], np.float32))
    assert role.unpack(role.pack(made)) == made
    assert np.abs(np.frombuffer(made.data, "<f2") - np.array([0.6, 0.8, 0])).max() < 1e-3


@pytest.mark.parametrize("numbers", [(np.nan, 0, 1), (np.inf, 0, 0), (0, 0, 0)])
def test_a_vector_without_a_direction_is_no_embedding(numbers: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="embedding"):
        EmbeddingRole(ColourEmbedder()).finish(np.array(numbers, np.float32))
