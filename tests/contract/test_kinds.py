"""The contract of added kinds of results, on the package in examples/role."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from schemas.result_kinds import ResultKind
from sharpness import Sharpness, SharpnessKind
from sharpness.model import SharpnessModel, make_bundle
from tagstream_testing import conformance
from tagstream_testing.conformance import KIND_CHECKS, NotConforming
from workers.models.bundle import Bundle
from workers.types import ImageAbout, Pixels

ROOT = Path(__file__).parents[2]
Check = Callable[[ResultKind, Callable[[], Any]], None]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("kinds") / "sharpness")


@pytest.mark.slow
@pytest.mark.parametrize("check", KIND_CHECKS, ids=lambda check: check.__name__)
def test_the_example_of_a_kind(check: Check, bundle: Bundle) -> None:
    check(SharpnessKind(), lambda: SharpnessModel(bundle))


def test_the_page_shows_the_example() -> None:
    kind, entry = re.findall(r"```(?:python|toml)\n(.*?)```", (ROOT / "docs/guide/roles.md").read_text(), re.DOTALL)[:2]
    example = ROOT / "examples/role"
    assert set(kind.splitlines()) <= set((example / "sharpness/__init__.py").read_text().splitlines())
    assert entry in (example / "pyproject.toml").read_text()


class LosesAnImage(SharpnessModel):
    def forward(self, images: Sequence[Pixels], about: Sequence[ImageAbout]) -> list[np.float32]:
        return super().forward(images, about)[:2]


class TurnsTheListRound(SharpnessModel):
    def forward(self, images: Sequence[Pixels], about: Sequence[ImageAbout]) -> list[np.float32]:
        return super().forward(images, about)[::-1]


class DependsOnTheOthers(SharpnessModel):
    def forward(self, images: Sequence[Pixels], about: Sequence[ImageAbout]) -> list[np.float32]:
        return [raw + len(images) for raw in super().forward(images, about)]


class TakesNothingForANumber(SharpnessModel):
    def postprocess(self, raw: np.float32) -> Sharpness:
        return super().postprocess(np.nan_to_num(raw))


class ForgetsItsAnswer(SharpnessModel):
    def warm_up(self) -> None:
        self._right = np.float32(-1)


class HasNoDigest(SharpnessModel):
    def __init__(self, bundle: Bundle) -> None:
        super().__init__(replace(bundle, manifest=bundle.manifest.model_copy(update={"digest": ""})))


class GivesAnotherResult(SharpnessModel):
    def postprocess(self, raw: np.float32) -> Any:
        return super().postprocess(raw).model_copy(update={"score": -1.0})


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (LosesAnImage, conformance.a_kinds_result_is_the_same_alone_and_in_company),
        (TurnsTheListRound, conformance.a_kinds_result_is_the_same_alone_and_in_company),
        (DependsOnTheOthers, conformance.a_kinds_result_is_the_same_alone_and_in_company),
        (TakesNothingForANumber, conformance.a_kind_refuses_what_is_no_number),
        (ForgetsItsAnswer, conformance.a_kind_recognises_its_own_self_test),
        (HasNoDigest, conformance.a_kinds_model_says_what_it_is_and_warms_up),
        (GivesAnotherResult, conformance.a_kinds_results_can_be_kept_found_and_shown),
    ],
)
def test_a_model_that_breaks_a_promise_is_found_out(broken: type[SharpnessModel], check: Check, bundle: Bundle) -> None:
    with pytest.raises(NotConforming):
        check(SharpnessKind(), lambda: broken(bundle))


class TakesTheNameOfTags(SharpnessKind):
    name = "tags"


class BringsTorch(SharpnessKind):
    """In this module, which imports it."""


class ShowsNumbers(SharpnessKind):
    def rows(self, result: dict[str, Any]) -> Any:
        return [("sharpness", result["score"])]


class FindsNumbers(SharpnessKind):
    def words(self, result: dict[str, Any]) -> Any:
        return result["score"]


class Other(BaseModel):
    other: int


class DescribesAnother(SharpnessKind):
    result = Other  # type: ignore[assignment] # as a package could be wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (TakesTheNameOfTags, conformance.a_kind_is_light_and_its_name_is_free),
        (BringsTorch, conformance.a_kind_is_light_and_its_name_is_free),
        (ShowsNumbers, conformance.a_kinds_results_can_be_kept_found_and_shown),
        (FindsNumbers, conformance.a_kinds_results_can_be_kept_found_and_shown),
        (DescribesAnother, conformance.a_kinds_results_can_be_kept_found_and_shown),
    ],
)
def test_a_kind_that_breaks_a_promise_is_found_out(broken: type[SharpnessKind], check: Check, bundle: Bundle) -> None:
    with pytest.raises(NotConforming):
        check(broken(), lambda: SharpnessModel(bundle))
