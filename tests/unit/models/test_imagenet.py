from __future__ import annotations

from collections import Counter

import pytest

from workers.models.imagenet import HOMONYMS, PREFERRED, label_names


@pytest.fixture(scope="module")
def names() -> list[str]:
    return label_names()


@pytest.fixture(scope="module")
def words() -> list[str]:
    from timm.data.imagenet_info import ImageNetInfo

    return list(ImageNetInfo().label_descriptions())


def test_a_thousand_labels_have_a_thousand_names(names: list[str]) -> None:
    assert len(names) == 1000
    assert [name for name, count in Counter(map(str.lower, names)).items() if count > 1] == []


def test_names_stand_at_their_labels(names: list[str]) -> None:
    assert (names[0], names[281], names[967], names[999]) == ("tench", "tabby cat", "espresso", "toilet tissue")
    assert (names[134], names[517]) == ("crane (bird)", "crane (machine)")


def test_every_preferred_name_is_of_a_word_in_the_tables(words: list[str]) -> None:
    first = {line.split(",")[0].strip() for line in words}
    assert set(PREFERRED) <= first


def test_every_homonym_is_needed_because_its_word_comes_twice(words: list[str]) -> None:
    first = Counter(line.split(",")[0].strip() for line in words)
    assert all(first[words[number].split(",")[0].strip()] == 2 for number in HOMONYMS)
