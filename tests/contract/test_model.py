"""The contract of taggers and captioners, on every model that comes with the project."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tagstream_testing import conformance
from tagstream_testing.conformance import MODEL_CHECKS, TAGGER_CHECKS, LoadTagger, NotConforming
from tests.support.harness import EchoCaptioner
from tests.unit.models.small_dual import labelled, small_dual
from tests.unit.models.tiny import build_tagger, tiny_bundle
from workers.models.bundle import Bundle
from workers.models.device import Precision, choose_device
from workers.models.dual.config import Kind
from workers.models.labels import label_ids
from workers.models.load import load_tagger
from workers.models.tagger import TorchTagger
from workers.ports import Model, Tagger
from workers.types import Caption, LabelScores, Pixels, Subset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def _compact(folder: Path, precision: Precision) -> LoadTagger:
    def load(allow: Sequence[str] | None) -> Tagger:
        return load_tagger("compact", device="cpu", precision=precision, cache_dir=folder, allow=allow, threads=1)

    return load


def _tiny(folder: Path, precision: Precision) -> LoadTagger:
    target = folder / "tiny"
    bundle = Bundle.open(target) if target.exists() else tiny_bundle(target)
    return lambda allow: _build(bundle, precision, allow)


def _dual(folder: Path, kind: Kind, precision: Precision) -> LoadTagger:
    target = folder / f"{kind}-labelled"
    if not target.exists():
        labelled(small_dual(kind, folder / kind), target)
    return lambda allow: load_tagger(target, device="cpu", precision=precision, allow=allow, threads=1)


def _as(changed: type[TorchTagger], load: LoadTagger) -> LoadTagger:
    """Loads the same taggers with other methods."""

    def load_changed(allow: Sequence[str] | None) -> Tagger:
        tagger = load(allow)
        tagger.__class__ = changed
        return tagger

    return load_changed


def _build(bundle: Bundle, precision: Precision, allow: Sequence[str] | None) -> TorchTagger:
    subset = None if allow is None else label_ids(bundle, allow)
    return build_tagger(bundle, choose_device("cpu", threads=1), precision, subset)


TAGGERS: dict[str, Callable[[Path], LoadTagger]] = {
    "compact in fp32": lambda folder: _compact(folder, "fp32"),
    "compact in bf16": lambda folder: _compact(folder, "bf16"),
    "a linear layer in fp32": lambda folder: _tiny(folder, "fp32"),
    "a linear layer in int8": lambda folder: _tiny(folder, "int8"),
    "SigLIP in fp32": lambda folder: _dual(folder, "siglip", "fp32"),
    "CLIP in bf16": lambda folder: _dual(folder, "clip", "bf16"),
    "a linear layer that scores subsets": lambda folder: _as(Choosy, _tiny(folder, "fp32")),
}


@pytest.mark.slow
@pytest.mark.parametrize("check", TAGGER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("tagger", TAGGERS)
def test_tagger(tagger: str, check: Callable[[LoadTagger], None], folder: Path) -> None:
    check(TAGGERS[tagger](folder))


@pytest.mark.parametrize("check", MODEL_CHECKS, ids=lambda check: check.__name__)
def test_a_model_of_any_use(check: Callable[[str, Callable[[], Model]], None], folder: Path) -> None:
    load = _tiny(folder, "fp32")
    check("tagger", lambda: load(None))
    check("captioner", EchoCaptioner)


class TurnsLongListsRound(TorchTagger):
    def forward(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        return super().forward([*images[1:], *images[:1]] if len(images) > 2 else images)


def test_a_tagger_that_takes_its_own_answer_for_a_wrong_one_is_found_out(folder: Path) -> None:
    load = _as(TurnsLongListsRound, _tiny(folder, "fp32"))
    with pytest.raises(NotConforming, match="of 8, it does not know its own answer again: tiny in fp32"):
        conformance.any_use_recognises_its_own_self_test("tagger", lambda: load(None))


class RingsTheBell(EchoCaptioner):
    def postprocess(self, raw: Any) -> Caption:
        return Caption("saw \a", None, "echo")


def test_a_captioner_with_unpublishable_captions_is_found() -> None:
    conformance.what_a_captioner_gives_can_be_kept_and_shown(EchoCaptioner)
    with pytest.raises(NotConforming, match="caption could not be published"):
        conformance.what_a_captioner_gives_can_be_kept_and_shown(RingsTheBell)


class Choosy(TorchTagger):
    """Computes all labels and returns some: the port promises results, not costs."""

    def forward_subsets(self, images: Sequence[Pixels], subsets: Sequence[Subset | None]) -> Sequence[Any]:
        return [_columns(self, row, subset) for row, subset in zip(self.forward(images), subsets, strict=True)]

    def postprocess(self, raw: Any) -> LabelScores:
        return self._above_floor(raw[0], self._scores(raw[1])) if isinstance(raw, tuple) else super().postprocess(raw)


def _columns(tagger: TorchTagger, row: NDArray[np.float32], subset: Subset | None) -> Any:
    if subset is None:
        return row
    return np.array(subset.ids, np.int32), row[np.searchsorted(tagger._ids, subset.ids)]


class LosesAnImage(TorchTagger):
    def forward(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        return super().forward(images)[:2]


class TurnsTheListRound(TorchTagger):
    def forward(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        return super().forward([*images[1:], *images[:1]])


class DependsOnTheOthers(TorchTagger):
    def forward(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        return [row + 0.01 * len(images) for row in super().forward(images)]


class TakesNothingForANumber(TorchTagger):
    def postprocess(self, raw: NDArray[np.float32]) -> LabelScores:
        return super().postprocess(np.nan_to_num(raw))


class KeepsWhatIsBelowTheFloor(TorchTagger):
    def postprocess(self, raw: NDArray[np.float32]) -> LabelScores:
        return LabelScores(self._ids, np.zeros(len(self._ids), np.float32))


class NeverSettles(TorchTagger):
    def warm_up(self) -> None:
        self.self_test_image()


class ShowsASelfTestImageOfAnotherSize(TorchTagger):
    def self_test_image(self) -> Pixels:
        return super().self_test_image()[:-1]


class NumbersItsSubsetAnew(TorchTagger):
    def postprocess(self, raw: NDArray[np.float32]) -> LabelScores:
        scores = super().postprocess(raw)
        return LabelScores(np.searchsorted(self._ids, scores.label_ids).astype(np.int32), scores.scores)


class ScoresAllForEveryImage(Choosy):
    def forward_subsets(self, images: Sequence[Pixels], subsets: Sequence[Subset | None]) -> Sequence[Any]:
        return self.forward(images)


class TakesTheFirstColumns(Choosy):
    def forward_subsets(self, images: Sequence[Pixels], subsets: Sequence[Subset | None]) -> Sequence[Any]:
        firsts = [subset and Subset(tuple(self._ids[: len(subset.ids)].tolist())) for subset in subsets]
        rows = super().forward_subsets(images, firsts)
        return [
            raw if subset is None else (np.array(subset.ids, np.int32), raw[1])
            for raw, subset in zip(rows, subsets, strict=True)
        ]


class GivesAllTheSubsetOfTheFirst(Choosy):
    def forward_subsets(self, images: Sequence[Pixels], subsets: Sequence[Subset | None]) -> Sequence[Any]:
        return super().forward_subsets(images, [subsets[0]] * len(subsets) if subsets else [])


class HandsSubsetsToTheWrongImages(Choosy):
    def forward_subsets(self, images: Sequence[Pixels], subsets: Sequence[Subset | None]) -> Sequence[Any]:
        return super().forward_subsets([*images[1:], *images[:1]], subsets)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (LosesAnImage, conformance.a_list_comes_back_with_its_length_and_order),
        (TurnsTheListRound, conformance.a_list_comes_back_with_its_length_and_order),
        (DependsOnTheOthers, conformance.an_image_scores_the_same_alone_and_among_eight),
        (TakesNothingForANumber, conformance.not_a_number_is_a_value_error),
        (KeepsWhatIsBelowTheFloor, conformance.scores_are_ids_and_numbers_above_the_floor),
        (NeverSettles, conformance.warming_up_settles_the_batch_and_can_be_repeated),
        (ShowsASelfTestImageOfAnotherSize, conformance.its_self_test_image_fits_its_transform_and_is_tagged),
        (NumbersItsSubsetAnew, conformance.a_subset_of_labels_scores_as_the_full_set),
        (ScoresAllForEveryImage, conformance.images_of_one_batch_may_want_different_labels),
        (TakesTheFirstColumns, conformance.images_of_one_batch_may_want_different_labels),
        (GivesAllTheSubsetOfTheFirst, conformance.images_of_one_batch_may_want_different_labels),
        (HandsSubsetsToTheWrongImages, conformance.images_of_one_batch_may_want_different_labels),
    ],
)
def test_a_tagger_that_breaks_a_promise_is_found_out(
    broken: type[TorchTagger], check: Callable[[LoadTagger], None], folder: Path
) -> None:
    check(_tiny(folder, "fp32"))
    with pytest.raises(NotConforming):
        check(_as(broken, _tiny(folder, "fp32")))
