"""Results of added kinds in the tables: searched by words and by kind, in the commands, on the page, for programs."""

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from starlette.testclient import TestClient

from index.tests.support import Said, Sign, enriched, photo, results, retraction, written
from index.tests.world import World
from tagstream_index import Found, Query, search
from tagstream_index.check import Check
from tagstream_index.database import Connection
from tagstream_index.page.access import Access
from tagstream_index.page.one import Bundles
from tagstream_index.page.pictures import Pictures
from tagstream_index.page.pool import Pool
from tagstream_index.page.server import Site
from tagstream_index.page.typed import read
from tagstream_index.rebuild import Rebuild
from tagstream_index.searching import searching
from tagstream_index.settings import IndexSettings
from tests.support.command import Tagstream
from tests.support.kinds import given_kinds

pytestmark = pytest.mark.servers

HOSTILE = "exit <script>alert(1)</script>\"'>{{7*7}}\u202e"


@pytest.fixture(autouse=True, scope="module")
def sign() -> Iterator[None]:
    with given_kinds(Sign):
        yield


@pytest.fixture
def page(settings: IndexSettings, tables: Connection) -> Iterator[TestClient]:
    parts = (Pool(settings), Pictures(settings, 1_000_000), Bundles(settings, None), Access("", to_read=False), None)
    site = Site(*parts)
    with TestClient(site.application(), base_url="http://127.0.0.1:8082") as client:
        yield client
    site.close()


def signed(key: str, text: Any, **others: Any) -> Said:
    return photo(key, **others).but(results=results(sign={"text": text, "corners": [[1, 2]]}))


def found(connection: Connection, text: str) -> list[Found]:
    with searching(connection) as searcher:
        query = read(text, searcher.results).query(best=read(text).can_rank())
        return searcher.lined(query, searcher.search(query, 20, 0))


def keys(connection: Connection, text: str) -> list[str]:
    return [each.key for each in found(connection, text)]


def test_words_of_tags_come_first_then_of_captions_then_of_results(tables: Connection) -> None:
    often = "dog\n" * 5_000
    written(tables, signed("text", often), photo("caption", caption="a dog"), photo("tag", "dog"), photo("none", "cat"))
    assert keys(tables, "dog") == ["tag", "caption", "text"]
    written(tables, signed("both", often, caption="a dog"))
    assert keys(tables, "dog")[:2] == ["tag", "both"]


def test_words_of_a_kind_are_found_in_its_results_alone(tables: Connection) -> None:
    both = {"sign": {"text": "way out\nlate exit", "corners": []}, "plate": {"text": "exit 12"}}
    tagged = photo("exit", "exit", caption="exit").but(results=results(sign={"text": "shut"}))
    written(tables, signed("a", "Exits\nand a door"), tagged)
    written(tables, photo("b").but(results=results(**both)), photo("c").but(results=results(plate={"text": "exit"})))
    assert sorted(keys(tables, "exit")) == ["a", "b", "c", "exit"]
    assert sorted(keys(tables, "sign:exit")) == ["a", "b"]
    assert sorted(keys(tables, "plate:exit")) == ["b", "c"], "a kind without its package"
    assert sorted(keys(tables, "-sign:exit")) == ["c", "exit"]
    assert keys(tables, 'sign:"late exit"') == ["b"]
    assert keys(tables, 'sign:"exit late"') == []
    assert sorted(keys(tables, "sign:door|way")) == ["a", "b"]
    assert keys(tables, "plate:way") == keys(tables, "sign:12") == keys(tables, "sign") == []
    assert keys(tables, "sign:exit plate:exit -door") == ["b"]
    written(tables, signed("d", "<open>"))
    assert [each.line for each in found(tables, "sign:open")] == ["<open>"], "text is no HTML"


def test_the_line_that_fits_best_is_shown(tables: Connection) -> None:
    long = " ".join(["word"] * 400 + ["total", "due"] + ["word"] * 400)
    written(
        tables, signed("a", f"an exit\n{HOSTILE}\nlate exits here", caption="a"), signed("b", long), photo("c", "exit")
    )
    lines = {each.key: each.line for each in found(tables, "late exit or due")}
    assert lines["a"] == "late exits here"
    assert "total due" in (lines["b"] or "")
    assert len(lines["b"] or "") <= 160
    assert [each.line for each in found(tables, "tag:exit")] == [None]
    (shown,) = found(tables, "sign:exit")
    assert "exit" in (shown.line or "")


def test_a_page_names_the_kinds_that_are_installed_or_in_the_tables(tables: Connection, page: TestClient) -> None:
    written(tables, photo("b"))
    assert "is no filter" in page.get("/?q=plate:exit").text
    assert "sign:word" in page.get("/").text
    written(tables, photo("a").but(results=results(plate={"text": "exit"})))
    told = page.get("/?q=plate:exit").text
    assert set(re.findall("of=photos%2F(.)&amp;q=plate", told)) == {"a"}
    assert "is no filter" not in told


def test_lines_rows_and_shapes_are_shown_escaped(tables: Connection, page: TestClient) -> None:
    hostile = results(sign={"text": f"{HOSTILE}\nat\nall", "corners": [[1, HOSTILE]]}, plate={"text": HOSTILE})
    written(tables, photo("a").but(results=hostile).with_facts(orientation=6), signed("b", "exit"))
    grid, one = page.get("/?q=sign:exit").text, page.get("/picture?of=photos/a").text
    assert '<span class="line">exit &lt;script&gt;' in grid
    assert '<g transform="matrix(0 1 -1 0 480 0)">' in one
    assert 'viewBox="0 0 480 640"' in one
    assert "EXIT &lt;SCRIPT&gt;" in one
    assert "AT<br>ALL<br>" in one
    assert not any(
        text in shown for text in ("<script>alert", "\u202e", "49") for shown in (grid, one.partition("<pre")[0])
    )
    assert 'class="over"' not in page.get("/picture?of=photos/b").text, "its orientation is unknown"


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"text": None},
        {"text": 5, "corners": 5},
        {"text": {"a": ["b"] * 9}},
        {"deep": [orjson.loads("[" * 150 + "]" * 150)] * 200},
        {"text": "a", "corners": [[1, 2]] * 9_000},
        {"text": "a.b" * 100_000},
        {"text": "\x1esign\x1e \x07 exit", "corners": [["\0", [[[-1e308]]]]]},
    ],
)
def test_results_that_lie_are_kept(value: dict[str, Any], tables: Connection, page: TestClient) -> None:
    written(tables, photo("a", "dog").but(results=results(sign=value, plate=value)), photo("b", "dog"))
    for address in ("/?q=exit", "/?q=sign:exit", "/?q=dog", "/picture?of=photos/a", "/api/search?q=sign:exit"):
        answer = page.get(address)
        assert (answer.status_code, len(answer.content) < 3_000_000) == (200, True)
    kept = tables.execute("select from image where key = 'a' and results #> '{sign,value}' is not null")
    assert kept.rowcount == 1


def test_commands_find_words_of_results(tables: Connection, tagstream: Tagstream) -> None:
    written(tables, signed("a", "no exit\nat all"), photo("b", "exit"))
    (only,) = map(json.loads, tagstream("search", "sign:exit", "--json").done.splitlines())
    assert (only["key"], only["line"]) == ("a", "no exit")
    assert "b" in tagstream("search", "--", "exit", "-sign:exit", "--json").done


def test_programs_get_the_line_and_learn_of_unknown_kinds(tables: Connection, page: TestClient) -> None:
    written(tables, signed("a", "no exit"))
    (image,) = page.get("/api/search?q=sign:exit").json()["images"]
    assert image["line"] == "no exit"
    assert "plate" in page.get("/api/search?q=plate:exit").json()["detail"]
    (outcome,) = page.get("/api/picture?subject=photos/a").json()["outcomes"]
    assert outcome["results"]["sign"]["value"]["text"] == "no exit"


def test_results_are_checked_rebuilt_and_named_and_a_removal_empties_them(compacted: World) -> None:
    compacted.publish([signed("a", "exit"), enriched("gone", 1).but(results=results(plate={"text": "x"}))])
    compacted.publish([retraction("gone", 2)])
    assert compacted.command("run", "--until-idle", "1").code == 0
    assert compacted.command("status", "--json").json["results"] == ["plate", "sign"]
    assert compacted.ask("select count(*) from image where results is not null or result_words is not null") == 1
    compacted.tables.execute("update image set results = null, result_words = 'exit' where key = 'a'")
    (subject,) = Check(compacted.settings).run()["subjects"]
    assert subject == {"subject": "photos/a", "fields": ["result_words", "results"]}
    Rebuild(compacted.settings, partial=False).run()
    assert Check(compacted.settings).run()["differing"] == 0
    assert [each.line for each in search(Query("exit"), compacted.reconnect())] == ["exit"]
