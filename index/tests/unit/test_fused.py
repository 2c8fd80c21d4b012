"""Several rankings as one list, by reciprocal ranks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagstream_index.searching import fused

RANKING = st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, max_size=30)


@given(RANKING)
def test_one_ranking_keeps_its_order(ranking: list[str]) -> None:
    for rankings in ([ranking], [ranking, []], [[], ranking], [ranking, ranking]):
        assert [subject for _, subject in fused(*rankings)] == ranking


@given(RANKING, RANKING)
def test_all_are_in_the_list_once_and_two_rankings_are_equals(one: list[str], other: list[str]) -> None:
    subjects = [subject for _, subject in fused(one, other)]
    assert sorted(subjects) == sorted({*one, *other})
    assert fused(one, other) == fused(other, one)


@given(RANKING, RANKING)
def test_an_image_that_leads_another_in_both_lists_leads_it_in_the_result(one: list[str], other: list[str]) -> None:
    place = {subject: number for number, (_, subject) in enumerate(fused(one, other))}
    both = [subject for subject in one if subject in other]
    for first in both:
        for second in both:
            if one.index(first) < one.index(second) and other.index(first) < other.index(second):
                assert place[first] < place[second]


def test_scores_are_those_of_the_paper() -> None:
    (best, first), (other, second) = fused(["a", "b"], ["b"])
    assert (first, second) == ("b", "a")
    assert best == pytest.approx(1 / 62 + 1 / 61)
    assert other == pytest.approx(1 / 61)
