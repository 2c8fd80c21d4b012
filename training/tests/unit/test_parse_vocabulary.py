"""Which mentions become labels, and the file in which a person decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from tagstream_train.parse import review
from tagstream_train.parse.mentions import Mention
from tagstream_train.parse.review import Decision, Row
from tagstream_train.parse.vocabulary import Seen, Vocabulary, ranked, settled
from workers.errors import Misconfigured

DOG, STREET, CITY_STREET = Mention("object", "dog"), Mention("object", "street"), Mention("object", "city street")
ORANGE, FRUIT = Mention("attribute", "orange"), Mention("object", "orange")
SEEN = {DOG: Seen(9, "a dog"), STREET: Seen(5, ""), CITY_STREET: Seen(2, ""), ORANGE: Seen(7, ""), FRUIT: Seen(6, "")}


def test_the_commonest_come_first_and_the_rare_not_at_all() -> None:
    assert ranked(SEEN, {}, top=9, least=3) == ["dog", "orange", "street"]
    assert ranked(SEEN, {}, top=1, least=1) == ["dog"]


def test_labels_in_use_stay_in_front_under_whatever_form() -> None:
    assert ranked(SEEN, {}, top=9, least=3, first=["cat", "Dogs"]) == ["cat", "Dogs", "orange", "street"]


def test_a_rare_compound_counts_for_its_last_word() -> None:
    counted = settled(SEEN, least=3)
    assert CITY_STREET not in counted
    assert counted[STREET].count == 7
    assert SEEN[STREET].count == 5
    assert Vocabulary(["street"], counted, {}).ids([CITY_STREET]) == (0,)


def test_a_compound_that_is_a_label_gives_it_alone() -> None:
    assert Vocabulary(["street", "city street"], SEEN, {}).ids([CITY_STREET]) == (1,)


def test_a_text_of_two_kinds_is_a_label_of_its_commoner_kind() -> None:
    vocabulary = Vocabulary(["orange"], SEEN, {})
    assert vocabulary.ids([ORANGE]) == (0,)
    assert vocabulary.ids([FRUIT]) == ()


def test_a_person_can_keep_both_kinds() -> None:
    assert Vocabulary(["orange"], SEEN, {FRUIT: Decision("keep")}).ids([FRUIT]) == (0,)


def test_a_person_drops_merges_and_keeps() -> None:
    decisions = {
        ORANGE: Decision("drop"),
        FRUIT: Decision("merge", "citrus"),
        CITY_STREET: Decision("keep"),
        STREET: Decision("drop"),
    }
    labels = ranked(SEEN, decisions, top=9, least=5)
    assert labels == ["dog", "citrus", "city street"]
    vocabulary = Vocabulary(labels, SEEN, decisions)
    assert vocabulary.ids([ORANGE, FRUIT, STREET, CITY_STREET]) == (1, 2)


@pytest.mark.parametrize("label", ["Riding", "ride", "rides"])
def test_a_given_label_is_found_in_any_form(label: str) -> None:
    ride = Mention("action", "ride")
    assert Vocabulary([label], {ride: Seen(1, "")}, {}).ids([ride]) == (0,)


def test_a_name_goes_before_other_forms_of_it() -> None:
    paint, painting = Mention("action", "paint"), Mention("object", "painting")
    vocabulary = Vocabulary(["painting", "paint"], {paint: Seen(2, ""), painting: Seen(1, "")}, {})
    assert vocabulary.ids([painting]) == (0,)
    assert vocabulary.ids([paint]) == (1,)


def test_decisions_come_back_from_the_review_file(tmp_path: Path) -> None:
    path = tmp_path / "review.tsv"
    decisions = {DOG: Decision("drop"), Mention("object", "gone"): Decision("merge", "dog")}
    review.write(path, [Row(DOG, 9, False, "a\tdog\n")], decisions)
    assert path.read_text().splitlines()[1].split("\t") == ["dog", "object", "9", "no", "drop", "", "a dog"]
    assert review.read(path) == {DOG: Decision("drop"), Mention("object", "gone"): Decision("drop")}


def test_no_review_file_is_no_decision(tmp_path: Path) -> None:
    assert review.read(tmp_path / "none.tsv") == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a\tb\n", "is no review file"),
        ("tag\tkind\tdecision\tinto\nx\tthing\tdrop\t\n", "line 2: kind 'thing'"),
        ("tag\tkind\tdecision\tinto\nx\tobject\tthrow\t\n", "line 2: decision 'throw'"),
        ("tag\tkind\tdecision\tinto\nx\tobject\tmerge\t\n", "line 2: x is merged, but"),
        ("tag\tkind\tdecision\tinto\nx\tobject\tmerge\ty\ny\tobject\tmerge\tx\n", "in a circle"),
    ],
)
def test_a_review_file_that_can_t_be_obeyed_is_a_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "review.tsv"
    path.write_text(text)
    with pytest.raises(Misconfigured, match=complaint):
        review.read(path)
