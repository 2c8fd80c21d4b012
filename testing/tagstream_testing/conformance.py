"""Checks for taggers, captioners and added kinds of results of any package.

Each check takes a `load` function and raises `NotConforming` with a sentence. With pytest:

    @pytest.mark.parametrize("check", TAGGER_CHECKS, ids=lambda check: check.__name__)
    def test_my_tagger(check):
        check(load_mine)

where `load_mine(allow)` returns a fresh tagger that has not been warmed up; `allow` is a list of label names or None.
`KIND_CHECKS` take the kind itself and a function without arguments (docs/guide/roles.md).
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from schemas.image_event import ImageEvent
from schemas.options import WANTS, Options
from schemas.result_kinds import NAME_PATTERN, RESERVED, ResultKind, is_role_name
from workers.errors import Broken
from workers.models.tagger import sample_image
from workers.models.tune import USES
from workers.pipeline.annotation import Annotation
from workers.pipeline.kind_role import KindRole
from workers.pipeline.profiles import default_profiles
from workers.pipeline.roles import ModelRole, ModelsByUse, make_roles
from workers.pipeline.task import Attempt
from workers.ports import Captioner, Model, ResultModel, SubsetTagger, Tagger
from workers.types import Caption, ImageAbout, LabelScores, Pixels, Subset

LoadTagger = Callable[[Sequence[str] | None], Tagger]
LoadCaptioner = Callable[[], Captioner]
LoadResultModel = Callable[[], ResultModel]

EIGHT = 8

SAME_SCORE = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 2e-2, "int8": 2e-2}
"""How far two scores of one image may lie apart when it is computed in batches of different sizes: sums are then
taken in another order, which each precision rounds in its own way."""


class NotConforming(AssertionError):
    """The model breaks a promise of its port."""


def it_says_what_it_is(load: LoadTagger) -> None:
    """Name, digest and precision are filled in; thresholds, profiles and translations have one entry for each label."""
    tagger = load(None)
    _check_identity(tagger)
    _require(len(tagger.labels) > 0, "it has no labels")
    _require(len(tagger.thresholds) == len(tagger.labels), "thresholds and labels differ in number")
    for name, thresholds in tagger.profiles.items():
        _require(len(thresholds) == len(tagger.labels), f"profile {name} and labels differ in number")
    for language, names in tagger.translations.items():
        _require(len(names) == len(tagger.labels), f"translations into {language} and labels differ in number")
    parents = getattr(tagger, "parents", ())
    _require(len(parents) in (0, len(tagger.labels)), "parents and labels differ in number")
    _require(0 <= tagger.floor < 1, f"the floor is {tagger.floor}, not in 0..1")


def warming_up_settles_the_batch_and_can_be_repeated(load: LoadTagger) -> None:
    _check_warm_up(load(None))


def its_self_test_image_fits_its_transform_and_is_tagged(load: LoadTagger) -> None:
    tagger = load(None)
    _check_self_test_image(tagger)
    tagger.postprocess(tagger.forward([tagger.self_test_image()])[0])


def scores_are_ids_and_numbers_above_the_floor(load: LoadTagger) -> None:
    """Scores are float32 from the floor to 1, under ascending int32 ids."""
    tagger = load(None)
    for scores in _score(tagger, _images(tagger, 3)):
        ids, values = scores.label_ids, scores.scores
        _require(ids.dtype == np.int32 and values.dtype == np.float32, f"dtypes are {ids.dtype} and {values.dtype}")
        _require(ids.shape == values.shape and ids.ndim == 1, f"shapes are {ids.shape} and {values.shape}")
        _require(bool(np.all(np.diff(ids) > 0)), "label ids do not ascend")
        _require(bool(np.all((ids >= 0) & (ids < len(tagger.labels)))), "a label id is not of its labels")
        _require(bool(np.all((values >= tagger.floor) & (values <= 1))), "a score is not between the floor and 1")


def a_list_comes_back_with_its_length_and_order(load: LoadTagger) -> None:
    tagger = load(None)
    _require(len(tagger.forward([])) == 0, "no images did not give an empty list")
    one, other = _images(tagger, 2)
    first, second, third = _rows(tagger, _score(tagger, [one, other, one]))
    _require(_near(tagger, first, third), "the same image scores differently at two places of a batch")
    _require(not np.array_equal(first, second), "two different images have the same scores")


def an_image_scores_the_same_alone_and_among_eight(load: LoadTagger) -> None:
    tagger = load(None)
    images = _images(tagger, EIGHT)
    together = _rows(tagger, _score(tagger, images))
    alone = _rows(tagger, [_score(tagger, [image])[0] for image in images])
    _require(_near(tagger, together, alone), f"scores alone and among {EIGHT} differ by {_gap(together, alone):.2g}")


def a_subset_of_labels_scores_as_the_full_set(load: LoadTagger) -> None:
    """A subset's scores equal the full set's, under another digest.

    Nothing of other labels is scored; the cache depends on the digest.
    """
    full = load(None)
    names = _every_third(load)
    allowed = np.isin(np.asarray(full.labels), names)
    subset = load(names)
    images = _images(full, 2)
    wanted = _rows(full, _score(full, images)) * allowed
    found = _rows(subset, _score(subset, images))
    _require(not found[:, ~allowed].any(), "a label outside the subset has a score")
    _require(_near(full, wanted, found), f"the subset's scores differ from the full set's by {_gap(wanted, found):.2g}")
    _require(subset.digest != full.digest, "the subset has the digest of the full set")


def images_of_one_batch_may_want_different_labels(load: LoadTagger) -> None:
    """A `SubsetTagger` scores exactly the labels that each image needs.

    In a batch as alone. Any other tagger is skipped: the worker lets it score all its labels.
    """
    for allow in (None, _every_third(load)):
        tagger = load(allow)
        if isinstance(tagger, SubsetTagger):
            _check_subsets(tagger, [i for i, name in enumerate(tagger.labels) if allow is None or name in allow])


def not_a_number_is_a_value_error(load: LoadTagger) -> None:
    """A broken device must be noticed. Only for answers that are arrays; others have to be tested by their author."""
    tagger = load(None)
    (raw,) = tagger.forward([tagger.self_test_image()])
    if not isinstance(raw, np.ndarray):
        return
    for value in (np.nan, np.inf):
        broken = raw.copy()
        broken.flat[-1] = value
        try:
            tagger.postprocess(broken)
        except ValueError:
            continue
        raise NotConforming(f"{value} among the answers passed as a score")


def what_its_roles_give_can_be_kept_and_shown(load: LoadTagger) -> None:
    """The cache gives its tags back and an event can show them; its embeddings too, where it has `embed`."""
    what_any_use_gives_can_be_kept_and_shown("tagger", lambda: load(None))


def its_threads_may_differ(load: LoadTagger) -> None:
    """It may be made, run and read on three different threads.

    Made on one thread, run on a second, its answers read on a third while the second continues.
    """
    tagger = load(None)
    images = _images(tagger, 4)
    expected = _rows(tagger, _score(tagger, images))
    with ThreadPoolExecutor(1) as device, ThreadPoolExecutor(2) as finish:
        raws = [device.submit(tagger.forward, [image]) for image in images]
        scores = [finish.submit(tagger.postprocess, raw.result()[0]) for raw in raws]
        found = _rows(tagger, [future.result() for future in scores])
    _require(_near(tagger, expected, found), "scores depend on the thread")


def a_captioner_says_what_it_is(load: LoadCaptioner) -> None:
    captioner = load()
    _check_identity(captioner)
    _require(bool(captioner.options_digest), "options_digest is empty")
    _require(captioner.guide(["cat", "dog"]) == captioner.guide(["cat", "dog"]), "guides of equal names differ")


def warming_a_captioner_up_settles_the_batch_and_can_be_repeated(load: LoadCaptioner) -> None:
    _check_warm_up(load())


def a_captioners_self_test_image_fits_its_transform_and_is_captioned(load: LoadCaptioner) -> None:
    captioner = load()
    _check_self_test_image(captioner)
    (caption,) = _caption(captioner, [captioner.self_test_image()], [captioner.guide([])])
    _require(bool(caption.method), "the caption's method is empty")
    score = caption.score
    _require(score is None or (math.isfinite(score) and score <= 0), f"a mean log-probability of {score}")


def captions_come_back_with_their_length_and_order(load: LoadCaptioner) -> None:
    captioner = load()
    _require(len(captioner.forward([], [])) == 0, "no images did not give an empty list")
    one, other = _images(captioner, 2)
    first, _, third = _caption(captioner, [one, other, one], [captioner.guide(["cat"])] * 3)
    _require(first.text == third.text, "the same image is captioned differently at two places of a batch")


def a_caption_is_the_same_alone_and_among_eight(load: LoadCaptioner) -> None:
    captioner = load()
    images = _images(captioner, EIGHT)
    guides = [captioner.guide(["cat", "dog", "tree"][: number % 4]) for number in range(EIGHT)]
    together = [caption.text for caption in _caption(captioner, images, guides)]
    alone = [_caption(captioner, [p], [g])[0].text for p, g in zip(images, guides, strict=True)]
    _require(together == alone, f"captions alone and among {EIGHT} differ: {alone} and {together}")


def what_a_captioner_gives_can_be_kept_and_shown(load: LoadCaptioner) -> None:
    what_any_use_gives_can_be_kept_and_shown("captioner", load)


def what_any_use_gives_can_be_kept_and_shown(use: str, load: Callable[[], Model]) -> None:
    """Every role of the model answers each image and its self-test.

    The cache would give the result back, and an event could show it.
    """
    model = load()
    models: Any = {use: model}
    roles = make_roles(models).models
    _require(bool(roles), f"nothing is made of a {use}")
    _check_kept_and_shown(roles, [_attempt(models, image) for image in _images(model, 3)])


def _check_kept_and_shown(roles: Sequence[ModelRole], attempts: Sequence[Attempt]) -> None:
    for role in roles:
        for attempt, answer in zip(attempts, _as_many(role.run(attempts), attempts), strict=True):
            result = attempt.annotation.results[role.name] = role.finish(answer)
            _require(role.unpack(role.pack(result)) is not None, f"its {role.name} could not be published")
            role.render(attempt.annotation)
        role.self_test(attempts[0])


def any_use_can_be_timed(use: str, load: Callable[[], Model]) -> None:
    """`tagstream models tune` runs batches of its self-test image."""
    model = load()
    USES[use].trial(model, [model.self_test_image()] * 2)


def any_use_recognises_its_own_self_test(use: str, load: Callable[[], Model]) -> None:
    """A self-test image in a batch is answered as alone.

    The worker sends it through batches while it runs, and ends where the answer is not right.
    """
    model = load()
    model.warm_up()
    models: Any = {use: model}
    _check_self_test_among_others(make_roles(models).models, model, models)


def _check_self_test_among_others(roles: Sequence[ModelRole], model: Model, models: ModelsByUse) -> None:
    tests = [_attempt(models, model.self_test_image(), known_good=True) for _ in range(2)]
    others = [_attempt(models, image) for image in _images(model, EIGHT - 1)[1:]]
    for role in roles:
        for batch in (tests[:1], [tests[0], *others, tests[1]]):
            answers = role.run(batch)
            for answer in (answers[0], answers[-1]):
                try:
                    role.check_self_test(answer)
                except (ValueError, Broken) as error:
                    raise NotConforming(f"of {len(batch)}, it does not know its own answer again: {error}") from error


def a_kind_is_light_and_its_name_is_free(kind: ResultKind, load: LoadResultModel) -> None:
    """Index and search page import it: it brings no torch, and no word of theirs is its name."""
    free = is_role_name(kind.name) and kind.name not in RESERVED
    _require(bool(free), f"its name {kind.name!r} is taken, or not {NAME_PATTERN}")
    brings = f"import sys, {type(kind).__module__}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", brings], env={"PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    _require(done.returncode == 0, f"its module {type(kind).__module__} imports torch, or does not import alone")


def a_kinds_model_says_what_it_is_and_warms_up(kind: ResultKind, load: LoadResultModel) -> None:
    model = load()
    _check_identity(model)
    _check_warm_up(model)
    _check_self_test_image(model)


def a_kinds_results_can_be_kept_found_and_shown(kind: ResultKind, load: LoadResultModel) -> None:
    """The cache gives results back; words and rows are texts."""
    model = load()
    role = KindRole(kind, model)
    try:
        _check_kept_and_shown([role], [_attempt({}, image) for image in _images(model, 3)])
    except (ValueError, Broken) as error:
        raise NotConforming(f"a result could not be published: {error}") from error
    (result,) = _results(model, [model.self_test_image()])
    _require(isinstance(kind.words(result), str), "its words are no text")
    for name, text in kind.rows(result):
        _require({type(name), type(text)} == {str}, f"a row is {(name, text)!r}")


def a_kinds_result_is_the_same_alone_and_in_company(kind: ResultKind, load: LoadResultModel) -> None:
    model = load()
    _require(len(model.forward([], [])) == 0, "no images did not give an empty list")
    one = model.self_test_image()
    images = [one, *_images(model, 3)[1:], np.full_like(one, 128)]
    alone = [_results(model, [image])[0] for image in images]
    tolerance = SAME_SCORE.get(model.precision, SAME_SCORE["int8"])
    for given, expected in ((images, alone), (images[::-1], alone[::-1])):
        found = _results(model, given)
        _require(_alike(expected, found, tolerance), f"results alone and among {len(given)}: {expected} and {found}")


def a_kinds_threads_may_differ(kind: ResultKind, load: LoadResultModel) -> None:
    """It may be made, run and read on three different threads."""
    model = load()
    image = model.self_test_image()
    (expected,) = _results(model, [image])
    with ThreadPoolExecutor(1) as device, ThreadPoolExecutor(1) as finish:
        (raw,) = device.submit(model.forward, [image], [_about(image)]).result()
        found = finish.submit(model.postprocess, raw).result().model_dump(mode="json")
    _require(found == expected, "results depend on the thread")


def a_kind_refuses_what_is_no_number(kind: ResultKind, load: LoadResultModel) -> None:
    """A broken device must be noticed. Only for answers that numpy can fill with it."""
    model = load()
    (raw,) = model.forward([model.self_test_image()], [_about(model.self_test_image())])
    if not isinstance(raw, np.ndarray | np.floating) or raw.dtype.kind != "f":
        return
    try:
        model.postprocess(np.full_like(raw, np.nan))
    except ValueError:
        return
    raise NotConforming("NaN passed as a result")


def a_kind_recognises_its_own_self_test(kind: ResultKind, load: LoadResultModel) -> None:
    model = load()
    model.warm_up()
    _check_self_test_among_others([KindRole(kind, model)], model, {})


MODEL_CHECKS: tuple[Callable[[str, Callable[[], Model]], None], ...] = (
    what_any_use_gives_can_be_kept_and_shown,
    any_use_can_be_timed,
    any_use_recognises_its_own_self_test,
)
"""For a model of any use, also of one that has no checks of its own here: `check("captioner", load)`."""

TAGGER_CHECKS: tuple[Callable[[LoadTagger], None], ...] = (
    it_says_what_it_is,
    warming_up_settles_the_batch_and_can_be_repeated,
    its_self_test_image_fits_its_transform_and_is_tagged,
    scores_are_ids_and_numbers_above_the_floor,
    a_list_comes_back_with_its_length_and_order,
    an_image_scores_the_same_alone_and_among_eight,
    a_subset_of_labels_scores_as_the_full_set,
    images_of_one_batch_may_want_different_labels,
    not_a_number_is_a_value_error,
    what_its_roles_give_can_be_kept_and_shown,
    its_threads_may_differ,
)
CAPTIONER_CHECKS: tuple[Callable[[LoadCaptioner], None], ...] = (
    a_captioner_says_what_it_is,
    warming_a_captioner_up_settles_the_batch_and_can_be_repeated,
    a_captioners_self_test_image_fits_its_transform_and_is_captioned,
    captions_come_back_with_their_length_and_order,
    a_caption_is_the_same_alone_and_among_eight,
    what_a_captioner_gives_can_be_kept_and_shown,
)
KIND_CHECKS: tuple[Callable[[ResultKind, LoadResultModel], None], ...] = (
    a_kind_is_light_and_its_name_is_free,
    a_kinds_model_says_what_it_is_and_warms_up,
    a_kinds_results_can_be_kept_found_and_shown,
    a_kinds_result_is_the_same_alone_and_in_company,
    a_kinds_threads_may_differ,
    a_kind_refuses_what_is_no_number,
    a_kind_recognises_its_own_self_test,
)


def _check_identity(model: Model) -> None:
    _require(bool(model.name), "its name is empty")
    _require(len(model.digest) == 64 and set(model.digest) <= set("0123456789abcdef"), "its digest is no sha256 in hex")
    _require(bool(model.precision), "its precision is empty")


def _check_warm_up(model: Model) -> None:
    model.warm_up()
    settled = model.max_batch
    _require(settled >= 1, f"max_batch is {settled} after warm-up")
    model.warm_up()
    _require(model.max_batch == settled, "a second warm-up changed max_batch")


def _check_self_test_image(model: Model) -> None:
    side, self_test_image = model.transform.size, model.self_test_image()
    _require(
        self_test_image.shape == (side, side, 3) and self_test_image.dtype == np.uint8,
        f"its self-test image is {self_test_image.dtype}{self_test_image.shape}",
    )
    crops = model.transform.fit == "crop"
    _require(not crops or model.transform.resize >= side, "it cuts more than the shorter side has")


def _images(model: Model, count: int) -> list[Pixels]:
    return [sample_image(model.transform.size, seed) for seed in range(count)]


def _score(tagger: Tagger, images: Sequence[Pixels]) -> list[LabelScores]:
    return [tagger.postprocess(raw) for raw in _as_many(tagger.forward(images), images)]


def _score_subsets(
    tagger: SubsetTagger, images: Sequence[Pixels], subsets: Sequence[Subset | None]
) -> list[LabelScores]:
    return [tagger.postprocess(raw) for raw in _as_many(tagger.forward_subsets(images, subsets), images)]


def _caption(captioner: Captioner, images: Sequence[Pixels], guides: Sequence[str]) -> list[Caption]:
    return [captioner.postprocess(raw) for raw in _as_many(captioner.forward(images, guides), images)]


def _attempt(models: ModelsByUse, image: Pixels, *, known_good: bool = False) -> Attempt:
    """An event that wants all results, with its decoded image."""
    options = Options(want=WANTS)
    event = ImageEvent(id="1", dialect="own", action="enrich", index=0, bucket="bucket", key="key", options=options)
    profile = default_profiles(models.get("tagger"))["default"]
    return Attempt(Annotation(event, profile, ""), lambda _: image, about=_about(image), known_good=known_good)


def _about(image: Pixels) -> ImageAbout:
    return ImageAbout("png", image.shape[1], image.shape[0])


def _results(model: ResultModel, images: Sequence[Pixels]) -> list[dict[str, Any]]:
    raws = _as_many(model.forward(images, [_about(image) for image in images]), images)
    return [model.postprocess(raw).model_dump(mode="json") for raw in raws]


def _alike(one: Any, other: Any, tolerance: float) -> bool:
    """Whether JSON values are equal, numbers within this share."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= tolerance * max(1.0, abs(one))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[name], other[name], tolerance) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_alike(*pair, tolerance) for pair in zip(one, other, strict=True))
    return bool(one == other)


def _as_many(raws: Sequence[Any], images: Sequence[Any]) -> Sequence[Any]:
    _require(len(raws) == len(images), f"{len(images)} images gave {len(raws)} answers")
    return raws


def _every_third(load: LoadTagger) -> list[str]:
    return sorted(set(load(None).labels[1::3]))


def _check_subsets(tagger: SubsetTagger, ids: Sequence[int]) -> None:
    """Args:
    ids: of the labels that it scores.
    """
    _require(len(tagger.forward_subsets([], [])) == 0, "no images did not give an empty list")
    some, last, every = (Subset(tuple(chosen)) for chosen in (ids[::2], ids[-1:], ids))
    subsets = [some, None, last, some, every]
    images = _images(tagger, len(subsets))
    counted = np.stack([np.isin(np.arange(len(tagger.labels)), (each or every).ids) for each in subsets])
    wanted = _rows(tagger, _score(tagger, images)) * counted
    mixed = _rows(tagger, _score_subsets(tagger, images, subsets))
    pairs = zip(images, subsets, strict=True)
    alone = _rows(tagger, [_score_subsets(tagger, [image], [subset])[0] for image, subset in pairs])
    _require(not mixed[~counted].any(), "a label outside an image's subset has a score")
    _require(_near(tagger, wanted, mixed), f"subsets' scores differ from the full set's by {_gap(wanted, mixed):.2g}")
    _require(_near(tagger, mixed, alone), f"subsets' scores in company and alone differ by {_gap(mixed, alone):.2g}")


def _rows(tagger: Tagger, scores: Sequence[LabelScores]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(images, labels) with 0 for missing scores."""
    rows = np.zeros((len(scores), len(tagger.labels)), np.float32)
    for row, found in zip(rows, scores, strict=True):
        row[found.label_ids] = found.scores
    return rows


def _gap(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(np.abs(one - other).max(initial=0.0))


def _near(tagger: Tagger, one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Equal within the precision; a score that one side has just below the floor counts as the floor itself."""
    tolerance = SAME_SCORE.get(tagger.precision, SAME_SCORE["int8"])
    lifted = [np.maximum(rows, tagger.floor) for rows in (one, other)]
    return _gap(*lifted) <= tolerance


def _require(kept: bool, otherwise: str) -> None:
    if not kept:
        raise NotConforming(otherwise)
