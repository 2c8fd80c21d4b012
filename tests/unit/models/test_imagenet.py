from __future__ import annotations

from collections import Counter

import pytest

from workers.models.labels import label_names

RENAMED = 154
"""Labels that have another name than the first of their WordNet words."""


@pytest.fixture(scope="module")
def names() -> list[str]:
    return label_names()


def test_a_thousand_labels_have_a_thousand_names(names: list[str]) -> None:
    assert len(names) == 1000
    assert [name for name, count in Counter(map(str.lower, names)).items() if count > 1] == []


def test_names_stand_at_their_labels(names: list[str]) -> None:
    assert (names[0], names[281], names[967], names[999]) == ("tench", "tabby cat", "espresso", "toilet tissue")
    assert (names[134], names[517]) == ("crane (bird)", "crane (machine)")


@pytest.mark.slow  # timm takes seconds to load
def test_all_others_are_the_first_word_that_timms_tables_give(names: list[str]) -> None:
    from timm.data.imagenet_info import ImageNetInfo

    first = [words.split(",")[0].strip() for words in ImageNetInfo().label_descriptions()]
    assert len(first) == len(names)
    assert sum(name != word for name, word in zip(names, first, strict=True)) == RENAMED
