"""Searching a real PostgreSQL: words, filters, order, pages, likeness, and text that means harm."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from index.tests.support import Said, enriched, photo, retraction, written
from tagstream_index import Embedding, Found, Query, searching
from tagstream_index import search as search_index
from tagstream_index.database import Connection
from tagstream_index.page import finding
from tagstream_index.page.typed import read
from tests.support.command import Tagstream
from workers.errors import MISCONFIGURED, UNAVAILABLE, Misconfigured, Unavailable

pytestmark = pytest.mark.servers


def search(
    words: str = "", *, connection: Connection | None = None, limit: int = 20, offset: int = 0, **asked: Any
) -> list[Found]:
    return search_index(Query(words, **asked), connection, limit=limit, offset=offset)


def keys(found: Sequence[Found]) -> list[str]:
    return [each.key for each in found]


def unit(*numbers: float) -> np.ndarray:
    vector = np.array(numbers, np.float64)
    return (vector / np.linalg.norm(vector)).astype("<f2")


def at(key: str, *numbers: float, **others: object) -> Said:
    return enriched(key, vector=unit(*numbers).tobytes(), space="clip", **others)  # type: ignore[arg-type]


def near(*numbers: float, space: str = "clip") -> Embedding:
    return Embedding(space, unit(*numbers))


def test_a_beagle_is_found_by_its_parents_after_a_dog_that_is_tagged_so(tables: Connection) -> None:
    tag = {"name": "beagle", "score": 0.9, "label_id": 162, "parents": ["hound", "dog", "animal"]}
    written(tables, photo("a.jpg").but(tags=[tag]), photo("b.jpg", "dog"), photo("c.jpg", "cat"))
    assert keys(search("dogs", connection=tables)) == ["b.jpg", "a.jpg"]
    assert keys(search("hound", connection=tables)) == ["a.jpg"]
    assert sorted(keys(search(tags=["dog"], connection=tables))) == ["a.jpg", "b.jpg"]


def test_words_of_tags_captions_and_names_are_found_and_tags_count_most(tables: Connection) -> None:
    written(
        tables,
        photo("a.jpg", "sky", caption="a dog on a beach"),
        photo("b.jpg", "dog"),
        photo("dogs/c.jpg", "sky"),
        photo("d.jpg", "cat"),
    )
    found = search("dog", connection=tables)
    assert keys(found) == ["b.jpg", "a.jpg", "dogs/c.jpg"]
    ranks = [each.rank or 0 for each in found]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-1] > 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("red car", ["both", "apart"]),
        ('"red car"', ["both"]),
        ("bus or boat", ["boat", "bus"]),
        ("red -boat", ["apart", "both"]),
    ],
)
def test_queries_of_several_words(tables: Connection, words: str, expected: list[str]) -> None:
    written(
        tables,
        photo("both", caption="a red car"),
        photo("apart", caption="a car before a wall that is red"),
        photo("boat", caption="red boat"),
        photo("bus", caption="a bus"),
    )
    found = keys(search(words, connection=tables))
    assert found == expected if words == "red car" else sorted(found) == expected


SYNTAX = (
    "& | ! ( ) :* <->",
    "'; drop table image; --",
    '"',
    "car & ",
    "-",
    "- -" * 100,
    "%s %(x)s",
    "\\",
    "tag:%s",
    "key:%(a)s*",
    "& | !",
)
HOSTILE = ("a\0b", "\ud800", "\udcff\udfff", "𝕏" * 1_000, "a " * 500, "-a " * 300)


@pytest.mark.parametrize("text", SYNTAX + HOSTILE)
def test_any_text_is_an_answer(tables: Connection, text: str) -> None:
    written(tables, photo("a.jpg", "car"))
    search(text, connection=tables)
    assert keys(search(f"car {text}"[:1_000], connection=tables)) in ([], ["a.jpg"])
    for asked in ({"tags": [text]}, {"bucket": text}, {"prefix": text}):
        assert search(connection=tables, **asked) == []
    with searching.searching(tables) as searcher:
        finding.why_empty(searcher, read(text))
        finding.Result(searcher, read(text).query()).counts()


@pytest.mark.parametrize(
    "asked",
    [
        {"words": "a" * 1_000_000},
        {"tags": ["a" * 1_000_000]},
        {"tags": ["a"] * 21},
        {"prefix": "a" * 1_000_000},
        {"bucket": "a" * 1_000_000},
        {"limit": 0},
        {"limit": 1_001},
        {"offset": 10_001},
        {"offset": -1},
        {"min_score": 1.5},
        {"tags": ["dog"], "min_score": float("nan")},
        {"sort": "rank"},
        {"sort": "score", "words": "dog"},
        {"like": near(1, 0), "sort": "time"},
        {"like": near(1, 0), "within": float("nan")},
        {"about": near(1, 0), "sort": "rank", "words": "dog"},
        {"about": near(1, 0), "like": near(1, 0)},
    ],
)
def test_excessive_and_contradictory_conditions_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured) as error:
        search(connection=mock.Mock(spec=[]), **asked)  # the database is not asked
    assert len(str(error.value)) < 200


def test_each_tag_that_is_asked_for_is_there_with_its_score(tables: Connection) -> None:
    written(
        tables,
        enriched("high", tags=[("dog", 0.9), ("car", 0.7)]),
        enriched("low", tags=[("dog", 0.9), ("car", 0.5)]),
        enriched("one", tags=[("dog", 0.9)]),
    )

    def of(*tags: str, min_score: float | None = None) -> list[str]:
        return sorted(keys(search(connection=tables, tags=tags, min_score=min_score)))

    assert of("dog") == ["high", "low", "one"]
    assert of("dog", "car") == ["high", "low"]
    assert of("dog", "car", min_score=0.7) == ["high"], "0.7 is no number of 32 bits"
    assert of("dog", min_score=0.7) == ["high", "low", "one"]
    assert of("do") == []
    assert of(min_score=0.9) == ["high", "low", "one"], "without a wanted tag the best one counts"
    assert of(min_score=0.91) == []
    (high,) = search(connection=tables, tags=["dog", "car"], min_score=0.6)
    assert high.score == pytest.approx(0.7), "the lowest of the wanted tags"


def test_a_typed_score_orders_the_results_and_is_shown(tables: Connection) -> None:
    written(
        tables,
        enriched("both", tags=[("dog", 0.9), ("car", 0.5), ("cat", 0.3)], last_modified="2026-01-02T00:00:00Z"),
        enriched("cat", tags=[("cat", 0.8), ("car", 0.6)]),
    )

    def of(text: str) -> list[tuple[str, float | None]]:
        found = search_index(read(text).query(best=True), tables)
        return [(each.key, None if each.score is None else round(each.score, 2)) for each in found]

    either = [("cat", 0.6), ("both", 0.5)]
    assert of("tag:dog|cat tag:car") == of("tag:dog|cat tag:car score>=0.5") == either, (
        "of alternatives the best counts"
    )
    assert of("tag:dog|cat tag:car score>0.5") == of("tag:dog|cat tag:car -score<=0.5") == either[:1]
    assert of("tag:dog|cat score<0.85") == [("cat", 0.8)]


def test_time_bucket_and_prefix(tables: Connection) -> None:
    other = photo("2026/a.jpg")
    other = other.but(subject="other/2026/a.jpg", source={**other.fields["source"], "bucket": "other"})
    written(tables, photo("2026/a.jpg", day=1), photo("2026/b_.jpg", day=9), photo("2025/c.jpg", day=9), other)

    def of(**asked: object) -> list[str]:
        return sorted(each.subject for each in search(connection=tables, **asked))  # type: ignore[arg-type]

    assert of(since=datetime(2026, 1, 9, tzinfo=UTC)) == ["photos/2025/c.jpg", "photos/2026/b_.jpg"]
    assert of(bucket="other") == ["other/2026/a.jpg"]
    assert of(bucket="photo") == [], "a bucket's whole name"
    assert of(prefix="2026/") == ["other/2026/a.jpg", "photos/2026/a.jpg", "photos/2026/b_.jpg"]
    assert of(bucket="photos", prefix="2026/") == ["photos/2026/a.jpg", "photos/2026/b_.jpg"]
    assert of(bucket="photos", prefix="2026/_") == [], "an underscore is no pattern"
    tables.execute("set enable_seqscan = off")
    plan = tables.execute("explain select from image where not gone and starts_with(key, '2026/')").fetchall()
    assert "image_key" in str(plan), "no bucket is needed to find keys by an index"


def test_removed_images_never_appear(tables: Connection) -> None:
    written(tables, at("gone", 1, 0, tags=[("dog", 0.9)]), at("there", 1, 0, tags=[("dog", 0.9)]))
    written(tables, retraction("gone", 2))
    for asked in ({}, {"words": "dog"}, {"tags": ["dog"]}, {"like": near(1, 0)}, {"prefix": "gone"}):
        assert "gone" not in keys(search(connection=tables, **asked))


def test_order_by_rank_score_and_time(tables: Connection) -> None:
    written(
        tables,
        photo("tag", "dog", score=0.5, day=1),
        photo("caption", "wolf", "dog", caption="dog dog dog", score=0.9, day=2),
        photo("name/dog", "dog", score=0.7, day=3),
    )

    def of(**asked: object) -> list[str]:
        return keys(search(connection=tables, tags=["dog"], **asked))  # type: ignore[arg-type]

    assert of() == of(sort="time") == of(words="dog", sort="time") == ["name/dog", "caption", "tag"]
    assert of(sort="score") == of(words="dog", sort="score") == ["caption", "name/dog", "tag"]
    assert of(words="dog") == of(words="dog", sort="rank") == ["caption", "name/dog", "tag"]


def test_rank_orders_the_newest_matches_alone(tables: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "CANDIDATES", 2)
    written(tables, photo("a", "dog", day=1), photo("b", caption="dog", day=2), photo("c", caption="dog", day=3))
    assert keys(search("dog", connection=tables, limit=1)) == ["c"]


@pytest.mark.parametrize("asked", [{}, {"words": "dog"}, {"tags": ["dog"], "sort": "score"}, {"like": near(1, 0)}])
def test_pages_have_each_image_once(tables: Connection, asked: dict[str, object]) -> None:
    written(tables, *(at(f"{number:02d}", 1, 0, tags=[("dog", 0.5)]) for number in range(25)))
    pages = [
        keys(search(connection=tables, limit=10, offset=offset, **asked))  # type: ignore[arg-type]
        for offset in (0, 10, 20, 30)
    ]
    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert sorted(key for page in pages for key in page) == [f"{number:02d}" for number in range(25)]


@pytest.fixture(params=["few", "many"])
def few_or_many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the images that meet the conditions are each compared, or found by the HNSW index."""
    if request.param == "many":
        monkeypatch.setattr(searching, "COMPARED", -1)


@pytest.mark.usefixtures("few_or_many")
def test_the_nearest_come_first_and_an_empty_result_is_an_answer(tables: Connection) -> None:
    written(tables, at("same", 1, 0), at("near", 1, 0.3), at("far", 0, 1), enriched("without"))
    found = search(connection=tables, like=near(1, 0))
    assert keys(found) == ["same", "near"]
    assert found[0].distance == pytest.approx(0, abs=1e-3)
    assert found[1].distance == pytest.approx(1 - unit(1, 0.3)[0], abs=1e-3)
    assert keys(search(connection=tables, like=near(1, 0), within=2)) == ["same", "near", "far"]
    assert search(connection=tables, like=near(-1, -1)) == []


@pytest.mark.usefixtures("few_or_many")
def test_a_filter_leaves_the_nearest_of_the_matching_images(tables: Connection) -> None:
    """Where the plan walks the HNSW index, which stops after ef_search rows unless it may continue."""
    written(tables, *(at(f"{number:04d}", 1, number / 1_000, tags=[("cat", 0.5)]) for number in range(400)))
    written(tables, *(at(f"dog {number}", 1, 0.5 + number / 10, tags=[("dog", 0.5)]) for number in range(3)))
    for forced in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
        tables.execute(f"set {forced} = off".encode())
    found = search(connection=tables, like=near(1, 0), tags=["dog"], within=2)
    assert keys(found) == ["dog 0", "dog 1", "dog 2"]


@pytest.mark.usefixtures("few_or_many")
def test_words_and_a_sentence_make_one_list_and_filters_hold_for_both(tables: Connection) -> None:
    """Reciprocal ranks, by hand: both 1/62 + 1/61, word 1/61, meaning 1/62."""
    written(
        tables,
        at("word", -1, 0, tags=[("dog", 0.9), ("a", 0.5)], caption=""),
        at("both", 1, 0.1, tags=[("a", 0.5)], caption="a dog"),
        at("meaning", 0.5, 1, tags=[("a", 0.5), ("b", 0.5)], caption=""),
        at("neither", -1, 0, tags=[("a", 0.5)], caption=""),
    )

    def of(words: str = "", **asked: object) -> list[str]:
        return keys(search(words, connection=tables, about=near(1, 0), **asked))  # type: ignore[arg-type]

    assert of("dog") == ["both", "word", "meaning"]
    assert of() == of("zebra") == ["both", "meaning"], "one ranking alone keeps its order"
    assert of("dog", tags=["b"]) == ["meaning"]
    assert of("dog", within=0.001) == ["word", "both"], "far from the sentence, found by the word"
    assert of("dog", prefix="none") == []
    assert of("dog -b") == ["both", "word"], "an excluded word holds for both"
    assert of("dog", limit=2) + of("dog", limit=2, offset=2) == of("dog")
    both, word, meaning = search("dog", connection=tables, about=near(1, 0))
    assert (word.distance, meaning.rank) == (None, None)
    assert both.distance == pytest.approx(1 - unit(1, 0.1)[0], abs=1e-3)
    assert both.rank


def test_another_space_is_refused_by_both_names(tables: Connection) -> None:
    with pytest.raises(Misconfigured, match=r"space clip .*no embeddings"):
        search(connection=tables, like=near(1, 0))
    written(tables, at("a", 1, 0))
    for like in (near(1, 0, space="other"), near(1, 0, 0, space="other")):
        with pytest.raises(Misconfigured, match=r"space other .* clip \(2 dimensions\)"):
            search(connection=tables, like=like)
    with pytest.raises(Misconfigured, match=r"clip \(3 dimensions\).*clip \(2 dimensions\)"):
        search(connection=tables, like=near(1, 0, 0))


def test_a_search_that_takes_too_long_is_ended_and_the_connection_serves_on(
    tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tables, photo("a.jpg"))
    monkeypatch.setattr(searching, "_SHOWN", f"{searching._SHOWN}, (select pg_sleep(60) is null) as slow")
    with pytest.raises(Unavailable, match="longer than 2 s") as error:
        search(connection=tables)
    assert error.value.fault == "too-slow"
    monkeypatch.undo()
    assert keys(search(connection=tables)) == ["a.jpg"]


def test_the_call_finds_its_database_by_the_settings(tables: Connection) -> None:
    written(tables, enriched("a.jpg", 1, caption="ein Hund"))
    (found,) = search()
    assert (found.subject, found.names, found.scores) == ("photos/a.jpg", ["dog", "red car"], [0.75, 0.5])
    assert found.last_modified == datetime(2026, 1, 1, tzinfo=UTC)


def test_the_example_for_programs_finds_its_image(tables: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    written(tables, photo("a.jpg", "dog", caption="a red car"), photo("b.jpg", "dog"))
    page = Path(__file__).parents[3] / "docs" / "guide" / "index-search.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    exec(compile(example, page.name, "exec"), {})
    assert capsys.readouterr().out == "photos/a.jpg ['dog'] a red car\n"


def test_the_command_prints_a_table_or_a_document_a_line(tables: Connection, tagstream: Tagstream) -> None:
    recent = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds").replace("+00:00", "Z")
    written(tables, enriched("new.jpg", last_modified=recent, caption="a dog\u009b by [red]a car"), enriched("old.jpg"))
    filters = {"tag": "dog", "min-score": "0.5", "since": "7d", "bucket": "photos", "prefix": "new", "limit": "1"}
    line = ["search", "red", "car", *(f"--{name}={value}" for name, value in filters.items())]
    ran = tagstream(*line)
    assert "photos/new.jpg" in ran.done
    assert "dog 0.75, red car 0.50" in ran.out
    assert "[red]a car" in ran.out, "captions are not markup"
    assert "\u009b" not in ran.out
    assert "--offset 1" in ran.err
    (document,) = map(json.loads, tagstream(*line, "--json").done.splitlines())
    assert document["tags"] == [{"name": "dog", "score": 0.75}, {"name": "red car", "score": 0.5}]
    assert (document["score"], document["status"], document["corrected"]) == (0.75, "complete", False)
    assert document["last_modified"] == recent
    assert "distance" not in document
    assert tagstream("search", "zebra", "--json").done == ""


def test_an_error_ends_the_command_with_a_sentence(tables: Connection, tagstream: Tagstream, tmp_path: Path) -> None:
    for line in (
        ["--since", "yesterday"],
        ["--sort", "score"],
        ["--like", str(tmp_path / "none.jpg")],
        ["--about", "a dog"],
        ["--about", "a dog", "--text", str(tmp_path)],
    ):
        ran = tagstream("search", *line)
        assert (ran.code, ran.out) == (MISCONFIGURED, "")
    assert "tagstream index init" in tagstream("search", INDEX_SCHEMA="empty").fails()
    assert tagstream("search", INDEX_DSN="postgresql://reader@127.0.0.1:9/x").code == UNAVAILABLE
