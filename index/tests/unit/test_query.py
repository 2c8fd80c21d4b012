"""Queries: any typed text is a query, filters are not words, and a shown query means the same."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagstream_index.page.typed import MOST_CHARS, MOST_FILTERS, named, read, results_in
from tagstream_index.query import Filter, Query, moment, pattern

NAMES = st.text(max_size=40)
WRITTEN = 'tag: tag:dog " - | score> score>=0.5 since:7d is: key:a* taken:2026-05 taken> or'
PIECES = st.sampled_from([*WRITTEN.split(), " ", "\0", "\ud800"])
TYPED = st.lists(PIECES | NAMES, max_size=20).map("".join)


def kinds(text: str, results: Collection[str] = ()) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (each.filter.kind, each.filter.values) if each.filter else ("fault" if each.fault else "word", (each.text,))
        for each in read(text, results).tokens
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog beach", [("word", ("dog",)), ("word", ("beach",))]),
        ('"red car" -cat', [("word", ('"red car"',)), ("word", ("-cat",))]),
        ("tag:dog", [("tag", ("dog",))]),
        ('tag:"fire truck"|dog', [("tag", ("fire truck", "dog"))]),
        ("score>0.6", [("score", ("0.6",))]),
        ("bucket:photos key:2026/11/*", [("bucket", ("photos",)), ("key", ("2026/11/*",))]),
        ("since:7d before:2026-11-01", [("since", ("7d",)), ("before", ("2026-11-01",))]),
        ("taken:2026 taken>2026-05 -taken<=2026-05-31", [("taken", (at,)) for at in ("2026", "2026-05", "2026-05-31")]),
        ("is:partial|corrected model:compact", [("is", ("partial", "corrected")), ("model", ("compact",))]),
        ("Tag:Dog", [("tag", ("Dog",))]),
        ("is:odd since:soon since>7d score>9 score:0.5 score>abc tag>dog tag: -colour:red größe:L", [("fault", (text,))
            for text in ("is:odd", "since:soon", "since>7d", "score>9", "score:0.5", "score>abc", "tag>dog", "tag:",
                "-colour:red", "größe:L")]),
        ('foo:"a b"c key:"2026', [("fault", ('foo:"a b"c',)), ("fault", ('key:"2026',))]),
        ("taken:2026-13 taken>26 taken<2026-02-30 taken:0000 taken:9999-12", [("fault", (text,)) for text in
            ("taken:2026-13", "taken>26", "taken<2026-02-30", "taken:0000", "taken:9999-12")]),
        ('https://a.example/b:c s3:a 12:30 rose: a>b -"foo:bar" "score>abc"', [("word", (text,)) for text in
            ("https://a.example/b:c", "s3:a", "12:30", "rose:", "a>b", '-"foo:bar"', '"score>abc"')]),
    ],
)  # fmt: skip
def test_filters_and_words(text: str, expected: list[tuple[str, tuple[str, ...]]]) -> None:
    assert kinds(text) == expected


def test_words_of_a_known_result_are_a_filter_and_a_filters_name_is_no_results() -> None:
    text = 'sign:exit -Sign:"no exit"|x face-blur:yes other-one:a tag:dog sign: sign:"a other:b'
    assert kinds(text, ("sign", "face-blur", "tag")) == [
        ("result", ("exit",)), ("result", ("no exit", "x")), ("result", ("yes",)), ("word", ("other-one:a",)),
        ("tag", ("dog",)), ("word", ("sign:",)), ("fault", ('sign:"a',)), ("fault", ("other:b",)),
    ]  # fmt: skip
    assert kinds("https://a.example https:a", ("https",)) == [("word", ("https://a.example",)), ("result", ("a",))]
    typed = read(text, ("sign", "face-blur"))
    assert [each.filter.of for each in typed.filters if each.filter] == ["sign", "sign", "face-blur", ""]
    assert [each.filter.shown for each in typed.filters[:2] if each.filter] == ["sign exit", "not sign no exit or x"]
    assert "sign" in typed.faults[-1]
    assert typed.query().some == 'other-one:a or sign: or "exit" or "yes"'


def test_arguments_of_a_command_have_words_and_words_of_results() -> None:
    assert results_in('red sign:exit tag:dog -sign:"a b"', ("sign",)) == (
        "red tag:dog",
        [Filter("result", ("exit",), of="sign"), Filter("result", ("a b",), excluded=True, of="sign")],
    )
    assert results_in("red  sign:exit", ()) == ("red  sign:exit", [])


def test_a_filter_that_means_nothing_is_named_and_is_neither_a_filter_nor_words() -> None:
    typed = read("dog score>abc foo:bar " + "is:partial " * (MOST_FILTERS + 1))
    assert typed.words == "dog"
    assert len(typed.filters) == MOST_FILTERS
    for fault, part in zip(typed.faults, ("score>abc", "foo:bar", "is:partial"), strict=True):
        assert f"“{part}”" in fault
    assert "score>0.6" in typed.faults[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog beach", "dog or beach"),
        ('dog "red car" -cat tag:x', 'dog -cat or "red car" -cat tag:x'),
        ("dog", None),
        ("dog -cat tag:x", None),
        ("dog or cat", None),
    ],
)
def test_words_of_which_one_is_enough(text: str, expected: str | None) -> None:
    some = read(text).some()
    assert (some and some.text) == expected


def test_a_minus_reverses_a_filter_and_stays_with_a_word() -> None:
    (first, second) = read("-tag:dog -cat").tokens
    assert first.filter == Filter("tag", ("dog",), excluded=True)
    assert read("-tag:dog -cat").words == second.text == "-cat"


def test_the_sentence_of_a_query_has_neither_filters_nor_excluded_words() -> None:
    query = read('a "red car" -truck tag:dog on a beach -"old boat"').query()
    assert (query.sentence, query.excluded) == ("a red car on a beach", 'truck or "old boat"')
    assert read("-cat tag:dog").query().sentence == ""


@given(TYPED)
def test_any_text_is_a_query_that_can_be_stored_and_reads_the_same_again(text: str) -> None:
    query = read(text)
    assert read(query.text).tokens == query.tokens
    assert len(query.filters) <= MOST_FILTERS
    assert not any(fault in query.words.split() for token in query.tokens if (fault := token.fault and token.text))
    query.text.encode()
    assert "\0" not in query.text


@given(TYPED)
def test_no_typed_character_is_lost(text: str) -> None:
    clean = text[:MOST_CHARS].replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert sum(map(len, "".join(read(text).text).split())) >= sum(map(len, clean.split())) - clean.count("\ufffd")


@given(NAMES.filter(lambda name: name.replace('"', "").strip()))
def test_the_filter_of_a_name_says_that_name(name: str) -> None:
    (token,) = read(named("tag", name)).tokens
    assert token.filter is not None
    assert token.filter.kind == "tag"
    assert token.filter == read(named("tag", token.filter.values[0])).tokens[0].filter


def test_a_filter_is_added_once_and_taken_away_again() -> None:
    query = read("dog since:7d")
    with_tag = query.toggled("tag:cat")
    assert with_tag.text == "dog since:7d tag:cat"
    assert with_tag.toggled("tag:cat").text == query.text
    assert query.toggled("since:1d", ("since",)).text == "dog since:1d"
    assert query.without(query.tokens[0]).text == "since:7d"


def test_times() -> None:
    now = datetime(2026, 11, 28, tzinfo=UTC)
    assert moment("7d", now) == now - timedelta(days=7)
    assert moment("2026-11-01") == datetime(2026, 11, 1, tzinfo=UTC)
    assert moment("2026-11-01T02:00+02:00") == datetime(2026, 11, 1, tzinfo=UTC)
    for text in ("soon", "99999d", "2026-13-01", ""):
        assert moment(text) is None


def test_a_star_is_any_text_and_nothing_else_is_a_pattern() -> None:
    assert pattern(r"a_b%\*c*") == r"a\_b\%\\%c%"


def test_the_form_shows_the_filters() -> None:
    assert Filter("score", ("0.6",), sign=">").shown == "score > 0.6"
    assert [token.filter.shown for token in read("taken:2026-05 -taken<=2024").tokens if token.filter] == [
        "taken 2026-05",
        "not taken <= 2024",
    ]
    assert Filter("tag", ("fire truck", "dog"), excluded=True).shown == "not fire truck or dog"


def test_typed_text_and_arguments_make_the_same_conditions() -> None:
    since = datetime(2026, 11, 1, tzinfo=UTC)
    (tag, score, time) = Query("red car", tags=["dog"], min_score=0.5, since=since).conditions
    assert (tag, score) == read("red car tag:dog score>=0.5").query().conditions
    assert moment(time.values[0]) == since
