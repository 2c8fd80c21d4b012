"""Roles of added kinds: their results in outcomes, in the cache, in dead letters and in a retag."""

import json
from typing import Any

import pytest

from schemas.enriched_image import AddedResult, EnrichedImage
from tests.support.harness import OUT, Harness
from tests.support.kinds import BrightnessKind, BrightnessModel
from tests.support.tasks import an_attempt, annotation
from workers.errors import Broken
from workers.pipeline.kind_role import KindRole
from workers.pipeline.published import NotStored, StoredOutcome
from workers.pipeline.task import Attempt
from workers.types import ImageAbout

GREY = (200, 180, 190)
BOTH = {"want": ["tags", "brightness"]}


@pytest.fixture
def model() -> BrightnessModel:
    return BrightnessModel()


@pytest.fixture
def harness(model: BrightnessModel) -> Harness:
    made = Harness(1)
    made.added = (KindRole(BrightnessKind(), model),)
    return made


def run(harness: Harness, key: str, colour: tuple[int, int, int] = GREY, **options: Any) -> EnrichedImage:
    harness.give(key, colour, options=options or BOTH)
    harness.work()
    return harness.enriched()[key]


def brightness(image: EnrichedImage) -> AddedResult:
    assert image.results is not None
    return image.results["brightness"]


def test_a_wanted_result_stands_in_the_outcome_with_its_model(harness: Harness) -> None:
    image = run(harness, "a.png")
    found = brightness(image)
    assert (image.status, [tag.name for tag in image.tags]) == ("complete", ["red", "blue", "green"])
    assert (found.model.name, found.model.digest, found.cache) == ("bright", "b" * 64, "miss")
    assert found.value == {"mean": pytest.approx(190), "text": "bright", "about": ["png", 16, 16, None]}
    assert image.options is not None
    assert (image.options.want, image.options.results) == (("tags",), ("brightness",))
    assert image.models.model_dump(exclude_none=True).keys() == {"tagger"}


def test_an_outcome_without_wishes_for_added_kinds_is_as_it_was(harness: Harness, model: BrightnessModel) -> None:
    (with_it, without) = (harness, Harness(1))
    for each in (with_it, without):
        run(each, "a.png", want=["tags"])
    one, other = (json.loads(each.broker.visible(OUT)[0].value or b"") for each in (with_it, without))
    differs = {"produced_at", "timings_ms", "source", "version"}
    assert {k: v for k, v in one.items() if k not in differs} == {k: v for k, v in other.items() if k not in differs}
    assert "results" not in one.keys() | one["options"].keys()
    assert model.batches == []


def test_a_result_alone_needs_no_tags(harness: Harness) -> None:
    image = run(harness, "a.png", want=["brightness"])
    assert image.options is not None
    assert (image.options.want, image.tags, image.status) == ((), (), "complete")
    assert brightness(image).value["text"] == "bright"
    assert harness.tagger.batches == []


def test_equal_bytes_are_a_hit_by_model_and_precision(harness: Harness, model: BrightnessModel) -> None:
    first, second = brightness(run(harness, "a.png")), brightness(run(harness, "b.png"))
    assert (first.cache, second.cache, second.value) == ("miss", "hit", first.value)
    for name, value in (("digest", "d" * 64), ("precision", "bf16")):
        setattr(model, name, value)
        harness.added = (KindRole(BrightnessKind(), model),)
        assert brightness(run(harness, f"{name}.png")).cache == "miss"
    assert sum(model.batches) == 3


def test_a_long_result_is_published(harness: Harness, model: BrightnessModel) -> None:
    model.text = "文" * 200_000
    image = run(harness, "a.png")
    assert (image.status, brightness(image).value["text"]) == ("complete", model.text)


def test_an_event_has_one_failure_for_all_roles_that_are_not_here(harness: Harness) -> None:
    harness.put("a.png", GREY)
    names = [f"{'a' * 30}{chr(ord('a') + number)}" for number in range(15)]
    harness.send(harness.event("a.png", options={"want": ["tags", *names]}))
    harness.work()
    (dead_letter,) = harness.dead()
    ((reason, want, detail),) = [(each.reason, each.want, each.detail) for each in dead_letter.failures]
    assert (reason, want) == ("role-not-here", None)
    assert names[0] in detail
    assert not dead_letter.truncated


def test_a_failing_image_keeps_its_tags_and_leaves_a_dead_letter(harness: Harness, model: BrightnessModel) -> None:
    model.poison = GREY
    image = run(harness, "a.png")
    assert (image.status, image.reason, image.results) == ("partial", "annotate-failed", None)
    assert image.tags
    ((failure,),) = [dead_letter.failures for dead_letter in harness.dead()]
    assert (failure.stage, failure.reason, failure.want) == ("annotate", "annotate-failed", "brightness")


def test_an_image_whose_result_can_not_be_published_is_at_fault_if_the_self_test_passes(
    harness: Harness, model: BrightnessModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.postprocess
    monkeypatch.setattr(model, "postprocess", lambda raw: whole((float("nan"), raw[1]) if raw[0] < 127 else raw))
    assert run(harness, "good.png").status == "complete"
    bad = run(harness, "bad.png", (10, 20, 30))
    assert (bad.status, bad.reason, bad.results) == ("partial", "annotate-failed", None)


@pytest.mark.parametrize(
    ("want", "said"),
    [
        ("brightnes", "did you mean brightness?"),
        ("tag", "did you mean tags?"),
        ("captions", "did you mean caption?"),
        ("faces", "TAGSTREAM_ROLES"),
        ("facts", "this worker has no role facts"),
        ("source", "this worker has no role source"),
        ("tagger", "this worker has no role tagger"),
    ],
)
def test_a_role_that_the_worker_lacks_makes_a_partial_image_and_a_dead_letter(
    harness: Harness, want: str, said: str
) -> None:
    harness.facts = "on"
    image = run(harness, "a.png", want=["tags", "brightness", want])
    assert (image.status, image.reason) == ("partial", "role-not-here")
    assert image.options is not None
    assert image.options.results == tuple(sorted(["brightness", want]))
    assert (bool(image.tags), list(image.results or ())) == (True, ["brightness"])
    ((failure,),) = [dead_letter.failures for dead_letter in harness.dead()]
    assert (failure.stage, failure.reason, failure.want) == ("annotate", "role-not-here", want)
    assert said in failure.detail


ROLE = KindRole(BrightnessKind(), BrightnessModel())
VALUE = {"mean": 3.0, "text": "dark", "about": ["png", 1, 2, None]}
MODEL = {"name": "bright", "digest": "b" * 64, "precision": "bf16", "random_weights": False}


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"mean": 1, "text": "", "about": ["png", 1, 2, null], "more": 1}',
        b'{"mean": null, "text": "", "about": ["png", 1, 2, null]}',
        b" " * (1 << 20) + json.dumps(VALUE).encode(),
        b"{%s%s" % (b'"mean":1,' * 100_001, json.dumps(VALUE).encode()[1:]),
        b'{"mean": 1, "text": "", "about": ["png", 100000000000000000000, 2, null]}',
        b'{"mean": NaN, "text": "", "about": ["png", 1, 2, null]}',
        b'{"mean": 1e400, "text": "", "about": ["png", 1, 2, null]}',
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_cached_value_that_is_no_such_result_is_a_miss(value: bytes | None) -> None:
    assert ROLE.unpack(value) is None


def test_a_packed_result_comes_back() -> None:
    result = ROLE.finish((3.0, ("png", 1, 2, None)))
    assert result["value"] == VALUE
    assert ROLE.unpack(ROLE.pack(result)) == result


def restored(results: Any) -> Any:
    return ROLE.restore(StoredOutcome({"results": results}, ()), annotation())


def test_the_result_of_an_outcome_is_restored_with_its_own_precision() -> None:
    found = restored({"brightness": {"model": MODEL, "cache": "hit", "value": VALUE}})
    assert found == {"model": MODEL, "value": VALUE}


@pytest.mark.parametrize(
    "results",
    [
        None,
        {},
        {"other": {"model": MODEL, "value": VALUE}},
        {"brightness": {"model": MODEL | {"digest": "d" * 64}, "value": VALUE}},
        {"brightness": {"model": MODEL, "value": {"mean": "high"}}},
    ],
)
def test_a_result_of_another_model_or_shape_is_not_restored(results: Any) -> None:
    with pytest.raises(NotStored) as lack:
        restored(results)
    assert lack.value.reason == "results"


def test_the_model_and_its_kind_check_a_self_test_answer() -> None:
    class Strict(BrightnessModel):
        def check_self_test(self, answer: Any) -> None:
            if answer[0] != 200:
                raise Broken("darker")

    about = ("png", 6, 6, 1)
    strict = KindRole(BrightnessKind(), Strict())
    for role in (strict, ROLE):
        role.check_self_test((200.0, about))
    with pytest.raises(Broken, match="darker"):
        strict.check_self_test((100.0, about))
    with pytest.raises(ValueError, match="Brightness"):
        ROLE.check_self_test((float("nan"), about))
    [(_, shown)] = ROLE.run([Attempt(annotation(), lambda model: model.self_test_image(), known_good=True)])
    assert shown == ImageAbout("png", 6, 6, 1), "the self-test image's own size"
    wrong = BrightnessModel()
    wrong.nan = True
    with pytest.raises(ValueError, match="Brightness"):
        KindRole(BrightnessKind(), wrong).self_test(an_attempt({}))


def test_an_answer_of_another_class_is_the_models_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BrightnessModel()
    monkeypatch.setattr(model, "postprocess", lambda raw: VALUE)
    with pytest.raises(Broken, match="returned a dict for a Brightness"):
        KindRole(BrightnessKind(), model).finish(None)
