"""Wider names of tags: kept as outcomes tell them, counted, shown as a tree, searched."""

from collections.abc import Mapping, Sequence

import pytest

from index.tests.support import Said, enriched, written
from index.tests.world import World
from tagstream_index import Query, search, wider
from tagstream_index.check import Check
from tagstream_index.database import Connection
from tagstream_index.merge import Spaces
from tagstream_index.page.facets import Facet, facets_of
from tagstream_index.page.finding import Counts, Result
from tagstream_index.page.typed import read
from tagstream_index.rebuild import Rebuild
from tagstream_index.searching import searching

pytestmark = pytest.mark.servers

BREEDS = {"beagle": ["hound", "dog", "animal"], "poodle": ["dog", "animal"], "tabby": ["cat", "animal"]}


def tagged(key: str, *names: str, parents: Mapping[str, Sequence[str]] = BREEDS, score: float = 0.5) -> Said:
    tags = [{"name": name, "score": score, "label_id": 1, "parents": parents.get(name)} for name in names]
    return enriched(key, caption="").but(tags=tags)


def told(connection: Connection) -> dict[str, tuple[list[str], bool]]:
    return {name: (parents, own) for name, parents, own in connection.execute("select * from wider").fetchall()}


def counts_of(connection: Connection, text: str = "", containing: str = "") -> Counts:
    with searching(connection) as searcher:
        return Result(searcher, read(text).query()).counts(containing)


def tree(facets: Sequence[Facet]) -> list[object]:
    return [(each.name, each.number, tree(each.below)) if each.below else (each.name, each.number) for each in facets]


def shown(connection: Connection, text: str = "") -> list[object]:
    return tree(facets_of(counts_of(connection, text), read(text), 24)[0])


def test_names_follow_from_each_other_and_the_last_outcome_counts(tables: Connection) -> None:
    written(tables, tagged("x.jpg", "x", parents={"x": ["dog"]}))
    assert told(tables)["dog"] == ([], False)
    tables.execute("delete from wider where name = 'x'")
    written(tables, tagged("a.jpg", "beagle", "poodle", "stone"))
    assert told(tables) == {
        "beagle": (["hound", "dog", "animal"], True),
        "poodle": (["dog", "animal"], True),
        "hound": (["dog", "animal"], False),
        "dog": (["animal"], False),
        "animal": ([], False),
    }
    written(tables, tagged("b.jpg", "dog", "poodle", parents={"dog": ["pet"], "poodle": ["lap dog", "dog"]}))
    written(tables, tagged("c.jpg", "husky", parents={"husky": ["dog", "canine", "animal"]}))
    assert told(tables)["dog"] == (["pet"], True), "what an outcome tells of itself counts more than what follows"
    assert told(tables)["poodle"] == (["lap dog", "dog"], True)
    assert told(tables)["beagle"] == (["hound", "dog", "animal"], True)


def test_a_flood_of_names_is_bounded_and_hostile_ones_are_left_out(
    tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wider, "MOST_NAMES", 3)
    hostile = {"self": ["self", "", "x"], "long" * 30: ["x"], "x": ["long" * 30]}
    written(tables, tagged("a.jpg", *hostile, parents=hostile))
    assert told(tables) == {"self": (["x"], True), "x": ([], False)}
    flood = {str(number): ["y"] for number in range(9)}
    for name in flood:
        written(tables, tagged(f"{name}.jpg", name, parents=flood))
    written(tables, tagged("b.jpg", "self", parents={"self": ["z"]}))
    assert [name for name, (_, own) in sorted(told(tables).items()) if own] == ["0", "1", "self"]
    assert told(tables)["self"] == (["z"], True), "known names stay up to date"
    for number in range(9):
        written(tables, tagged("b.jpg", "self", parents={"self": [f"z{number}"]}))
    assert len(told(tables)) == 6, "known names don't bring more and more new ones"


def test_only_what_is_new_is_written(tables: Connection) -> None:
    names = Spaces(tables).wider
    names.meet([tagged("a.jpg", "beagle").row()])
    tables.execute("delete from wider")
    names.meet([tagged("b.jpg", "beagle").row()])
    assert told(tables) == {}


def test_a_rebuild_reads_them_anew_and_a_check_leaves_them_alone(compacted: World) -> None:
    compacted.publish([tagged("a.jpg", "beagle")])
    compacted.tables.execute("insert into wider values ('old', '{x}', true)")
    Rebuild(compacted.settings, partial=False).run()
    tables = compacted.reconnect()
    assert {*told(tables)} == {"beagle", "hound", "dog", "animal"}
    tables.execute("delete from wider")
    assert Check(compacted.settings).run()["compared"] == 1
    assert told(tables) == {}


def test_a_picture_counts_once_for_each_wider_name(tables: Connection) -> None:
    written(tables, tagged("a.jpg", "beagle", "poodle", "dog"), tagged("b.jpg", "tabby", "stone"))
    counts = counts_of(tables)
    assert dict(counts.tags) == {
        "animal": 2, "beagle": 1, "cat": 1, "dog": 1, "hound": 1, "poodle": 1, "stone": 1, "tabby": 1,
    }  # fmt: skip
    assert counts.tags[0] == ("animal", 2)
    assert counts.parents["hound"] == ["dog", "animal"]
    assert [name for name, _ in counts_of(tables, containing="OUN").tags] == ["hound"]
    assert counts_of(tables, containing="%").tags == []


def test_facets_are_opened_one_below_the_other(tables: Connection) -> None:
    written(tables, tagged("a.jpg", "beagle", "stone"), tagged("b.jpg", "poodle"), tagged("c.jpg", "tabby"))
    assert shown(tables) == [("animal", 3), ("stone", 1)]
    assert shown(tables, "tag:animal") == [("animal", 3, [("dog", 2), ("cat", 1)]), ("stone", 1)]
    below = [("dog", 2, [("hound", 1), ("poodle", 1)])]
    assert shown(tables, "tag:dog") == [("animal", 2, below), ("stone", 1)]
    (animal, stone), _ = facets_of(counts_of(tables, "tag:dog"), read("stone tag:dog"), 24)
    (dog,) = animal.below
    (hound, poodle) = dog.below
    assert [(each.text, each.opened) for each in (animal, dog, hound, poodle, stone)] == [
        ("stone tag:animal", True),
        ("stone", True),
        ("stone tag:hound", False),
        ("stone tag:poodle", None),
        ("stone tag:dog tag:stone", None),
    ]
    assert dog.chosen
    assert not animal.chosen


def test_circles_and_many_tags_of_one_level_are_shown_within_bounds() -> None:
    circle = {"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"], "e": ["e"]}
    tags = [(name, 9) for name in "abcde"]
    facets, cut = facets_of(Counts(9, False, tags, [], [], parents=circle), read("tag:a"), 4)
    assert [each.name for each in facets] == ["a", "b", "c", "d"]
    assert cut
    wide = Counts(9, False, [("x", 9), *tags], [], [], parents={name: ["x"] for name in "abcde"})
    (top,), cut = facets_of(wide, read("tag:x"), 4)
    assert ([each.name for each in top.below], cut) == (["a", "b"], True)
    chain = {str(number): [str(number + 1)] for number in range(1_000)}
    tags = [(str(number), 1) for number in range(1_000)]
    assert len(facets_of(Counts(9, False, tags, [], [], parents=chain), read("tag:5"), 2_000)[0]) > 900


def test_a_tag_finds_those_below_it_with_their_scores(tables: Connection) -> None:
    written(
        tables,
        tagged("beagle.jpg", "beagle", score=0.9),
        tagged("dog.jpg", "dog", "poodle", score=0.6),
        tagged("tabby.jpg", "tabby", score=0.7),
    )
    for text, expected in {
        "tag:dog": ["beagle", "dog"],
        "tag:animal score>0.65": ["beagle", "tabby"],
        "tag:animal tag:poodle": ["dog"],
        "tag:hound": ["beagle"],
        "tag:poodle": ["dog"],
        "tag:beagle tag:animal score>0.8": ["beagle"],
        "-tag:dog": ["tabby"],
    }.items():
        found = search(read(text).query(), tables)
        assert sorted(each.key[:-4] for each in found) == expected, text
    assert [each.score for each in search(Query(tags=["dog"], sort="score"), tables)] == pytest.approx([0.9, 0.6])
    assert counts_of(tables, "tag:dog").total == 2


def test_one_outcome_adds_little_to_the_counts(tables: Connection) -> None:
    names = [f"n{number}" for number in range(15_000)]
    written(tables, tagged("a.jpg", *names), tagged("b.jpg", "n3"))
    counts = counts_of(tables)
    assert counts.tags[0] == ("n3", 2)
    assert len(counts.tags) == 64
