"""Kinds of results that packages add: which are loaded, and which names they may have."""

from typing import Any

import pytest

from schemas.options import WANTS
from schemas.result_kinds import RESERVED, ResultKind, kinds
from tagstream_index.page.typed import FILTERS
from tests.support.kinds import Brightness, BrightnessKind, given_kinds


class Named(BrightnessKind):
    name = "a-kind"


class Taken(BrightnessKind):
    name = "score"


class Shouting(BrightnessKind):
    name = "OCR"


class Foreign:
    name = "foreign"


class Abstract(ResultKind):
    name = "abstract"
    result = Brightness
    bundle_kind = "abstract"


def test_kinds_are_loaded_once_and_stand_in_alphabetical_order() -> None:
    with given_kinds(BrightnessKind, Named):
        found = kinds()
        assert list(found) == ["a-kind", "brightness"]
        assert isinstance(found["brightness"], BrightnessKind)
        assert kinds() is found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([Taken], "'score'"),
        ([Shouting], "'OCR'"),
        ([Foreign], "no ResultKind of the name 'foreign'"),
        ([Named, Named], "'a-kind'"),
        ([Abstract], "'abstract'"),
        ([type("Nowhere", (), {"name": "nowhere", "__module__": "no_such_module"})], "'nowhere' can't be loaded"),
        ([type("Other", (), {"name": "other", "__module__": __name__, "__qualname__": "Named"})], "the name 'other'"),
    ],
)
def test_a_kind_that_can_not_be_is_refused_in_one_sentence_that_names_its_package(given: Any, said: str) -> None:
    with given_kinds(*given), pytest.raises(ValueError, match=said) as refused:
        kinds()
    assert given[0].__module__ in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_results_of_today_and_the_filters_of_searches_are_no_names_of_kinds() -> None:
    assert {*WANTS, *FILTERS, "facts", "source"} <= RESERVED


def test_the_words_of_a_result_are_its_text() -> None:
    kind = BrightnessKind()
    assert (kind.words({"text": "dark"}), kind.rows({"text": "dark"})) == ("dark", (("brightness", "dark"),))
    for other in ({}, {"text": 5}, {"text": ""}):
        assert (kind.words(other), kind.rows(other)) == ("", ())
