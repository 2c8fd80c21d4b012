"""The page's server on a real PostgreSQL and a real S3: results, pictures, access, hostile text, outages."""

import csv
import hashlib
import html
import io
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import orjson
import psycopg
import pytest
from PIL import Image
from starlette.testclient import TestClient

from index.tests.support import Said, enriched, photo, retraction, written
from schemas.correction import correction
from tagstream_index import searching
from tagstream_index.database import Connection
from tagstream_index.page import finding, many, pictures, pool, process, server
from tagstream_index.page.access import LOOPBACK, Access, People
from tagstream_index.page.asked import PAGE
from tagstream_index.page.changes import Changes
from tagstream_index.page.correcting import Corrector, Pending, Refused, Seen, Sending, missing, seen
from tagstream_index.page.finding import Result
from tagstream_index.page.one import Bundles, One, one
from tagstream_index.page.pictures import SIDES, Current, Kept, Pictures
from tagstream_index.page.pool import Pool, Sentences
from tagstream_index.page.server import Site, require_safe
from tagstream_index.page.typed import read
from tagstream_index.query import Embedding
from tagstream_index.review import Drawn, Review
from tagstream_index.searching import Found, Searcher
from tagstream_index.settings import IndexSettings
from tagstream_testing.local.demo_search import PageProcess
from tagstream_testing.local.postgresql import PostgreSQL
from tagstream_testing.local.seaweedfs import SeaweedFS
from tests.fixtures import Unique
from tests.support.command import Tagstream
from tests.support.images import encoded
from tests.support.lying_store import LyingStore, drips, errs
from tests.support.waiting import eventually
from workers.assembly.choices import Choices
from workers.assembly.corrections import Applying
from workers.backends.s3.store import MinioObjectStore
from workers.errors import Misconfigured
from workers.pipeline.profiles import Profile
from workers.retag.changes import Changed, ChangesWriter, LabelNumbers
from workers.settings import SecretUrl

pytestmark = pytest.mark.servers

TOKEN = "correct horse battery"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}\u202e"


class Deaf(Corrector):
    """Records the sent corrections."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, bool]] = []
        self.made: Sending | None = None
        self.waiting: list[Pending] = []
        self.by: list[str] = []

    def send(self, pictures: Sequence[Seen], name: str, present: bool, by: str = "") -> str:
        if not name:
            raise Refused("This is no correction: no name.")
        self.sent += [(each.subject, name, present) for each in pictures]
        self.by.append(by)
        self.waiting.append(Pending(name, present))
        return "made"

    def pending(self, picture: One) -> list[Pending]:
        return self.waiting

    def sending(self, made: str) -> Sending | None:
        return self.made if made == "made" else None

    def close(self) -> None: ...


Browse = Callable[..., TestClient]
Stored = tuple[dict[str, Any], MinioObjectStore, str]


@pytest.fixture
def browse(settings: IndexSettings, tables: Connection) -> Iterator[Browse]:
    cleanup = ExitStack()

    def made(
        *,
        to_read: bool = False,
        hosts: Collection[str] = (),
        corrector: Corrector | None = None,
        changes: Path | None = None,
        choices: Path | None = None,
        sentences: Sentences | None = None,
        review: Path | None = None,
        token: str = TOKEN,
        people: People | None = None,
        **others: Any,
    ) -> TestClient:
        own = settings.model_copy(update=others)
        shown = None if changes is None else cleanup.enter_context(Changes(changes, choices))
        if shown is not None:
            shown.load()
        access = Access(token, to_read=to_read, people=people)
        parts = (Pool(own), Pictures(own, 10_000_000), Bundles(own, None), access, corrector, shown, sentences)
        site = Site(*parts, review)
        cleanup.callback(site.close)
        return cleanup.enter_context(TestClient(site.application(hosts=hosts), base_url="http://127.0.0.1:8082"))

    with cleanup:
        yield made


@contextmanager
def searched(connection: Connection, text: str = "", *, best: bool = False) -> Iterator[tuple[Searcher, Result]]:
    with searching.searching(connection) as searcher:
        yield searcher, Result(searcher, read(text).query(best=best))


def keys(connection: Connection, text: str) -> list[str]:
    with searched(connection, text) as (_, result):
        return [each.key for each in result.part(50).found]


def why(connection: Connection, text: str) -> finding.Why:
    with searched(connection) as (searcher, _):
        return finding.why_empty(searcher, read(text))


def test_filters_find_the_named_images(tables: Connection) -> None:
    partial = photo("2026/d_.jpg", "cat", day=4).but(status="partial", reason="caption-failed")
    corrected = photo("2026/e.jpg", "bus", day=5).but(corrections={"added": ["bus"], "removed": []})
    tagger = {"name": "compact", "digest": "a" * 64, "precision": "fp32", "random_weights": False}
    modelled = photo("b.jpg", "cat", day=2).but(models={"tagger": tagger, "captioner": None})
    both = enriched("c.jpg", tags=[("dog", 0.9), ("cat", 0.4)], caption="", last_modified="2026-01-03T00:00:00Z")
    written(tables, photo("a.jpg", "dog", caption="a red car"), modelled, both, partial, corrected)
    for text, expected in {
        "": ["2026/e.jpg", "2026/d_.jpg", "c.jpg", "b.jpg", "a.jpg"],
        "dog": ["c.jpg", "a.jpg"],
        "dog -cat": ["a.jpg"],
        '"red car"': ["a.jpg"],
        "tag:dog|bus": ["2026/e.jpg", "c.jpg", "a.jpg"],
        "tag:dog tag:cat": ["c.jpg"],
        "-tag:cat": ["2026/e.jpg", "a.jpg"],
        "tag:cat score>0.5": ["2026/d_.jpg", "b.jpg"],
        "tag:dog tag:cat score>0.4": [],
        "score>=0.9": ["c.jpg"],
        "key:2026/*": ["2026/e.jpg", "2026/d_.jpg"],
        "key:2026/_*": [],
        "key:*_.jpg|b.jpg": ["2026/d_.jpg", "b.jpg"],
        "since:2026-01-04": ["2026/e.jpg", "2026/d_.jpg"],
        "before:2026-01-02": ["a.jpg"],
        "is:partial|corrected": ["2026/e.jpg", "2026/d_.jpg"],
        "model:compact": ["b.jpg"],
        "bucket:other": [],
        "-bucket:other dog": ["c.jpg", "a.jpg"],
        "dog colour:red": ["c.jpg", "a.jpg"],
    }.items():
        assert keys(tables, text) == expected, text


@pytest.mark.parametrize(("text", "best"), [("", False), ("dog", True), ("tag:dog", True), ("dog -x", False)])
def test_pages_have_each_picture_once_in_both_directions(tables: Connection, text: str, best: bool) -> None:
    rng = np.random.default_rng(1)
    for part in range(5):
        written(
            tables,
            *(
                photo(f"{part}-{n}", "dog", score=float(rng.integers(1, 4)) / 4, day=int(rng.integers(1, 4)))
                for n in range(9)
            ),
        )
    with searched(tables, text, best=best) as (_, result):
        whole = [each.subject for each in result.part(100).found]
        assert len(set(whole)) == 45
        seen: list[Found] = []
        after = None
        while True:
            page = result.part(10, after=after)
            assert page.earlier == bool(seen)
            seen += page.found
            after = result.place_of(result.cursor(page.found[-1]))
            assert after is not None
            if not page.later:
                break
        assert [each.subject for each in seen] == whole
        back = result.part(10, before=result.place_of(result.cursor(seen[30])))
        assert [each.subject for each in back.found] == whole[20:30]
        assert (back.earlier, back.later) == (True, True)


@pytest.mark.parametrize("text", ["", "x", "1~", "~a", "9" * 30 + "~a", "nan~1~a", "1~a\0", "0.5~1~a"])
def test_an_invalid_cursor_means_the_beginning(browse: Browse, tables: Connection, text: str) -> None:
    written(tables, photo("a.jpg", "dog"))
    with searched(tables) as (_, result):
        assert result.place_of(text) is None
    assert "photos/a.jpg" in browse().get("/", params={"after": text}).text


def test_counts_are_of_the_newest(tables: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "COUNTED", 3)
    written(tables, *(photo(str(day), "dog", f"only {day}", day=day) for day in range(1, 6)))
    with searched(tables, "dog") as (_, dogs), searched(tables, 'tag:"only 1"') as (_, oldest):
        counts = dogs.counts()
        assert oldest.counts().total == 1
    assert (counts.total, counts.more) == (3, True)
    assert counts.tags[0] == ("dog", 4), "one more is looked at, to know that there is more"


def test_an_empty_result_names_the_filter_that_emptied_it(browse: Browse, tables: Connection) -> None:
    client = browse()
    assert "tagstream index run" in client.get("/").text
    written(tables, photo("a.jpg", "dog", "Egyptian cat"))
    without = why(tables, "dog score>0.9 since:2026-01-01").without
    assert [(name, other.text) for name, other in without] == [("score > 0.9", "dog since:2026-01-01")]
    assert why(tables, "cat tag:dgo zebra").nothing == ["dgo", "zebra"]
    text = client.get("/", params={"q": "tag:dgo"}).text
    assert '/?q=tag%3Adog"' in text


def test_a_part_that_no_picture_has_is_replaced_by_the_nearest_tag(tables: Connection) -> None:
    written(tables, photo("a.jpg", "dog", "Egyptian cat", "dingo", "do", "dig"), photo("b.jpg", "giraffe"))
    for text, expected in {
        "tag:dgo": "tag:dog",
        "dgo since:2025-01-01": "tag:dog since:2025-01-01",
        'tag:"egyptian cat"': 'tag:"Egyptian cat"',
        "tag:giarffe": "tag:giraffe",
        "girafe": "tag:giraffe",
    }.items():
        assert why(tables, text).nearest[0][1].text == expected, text
    assert why(tables, "tag:dog score>0.9").nearest == [], "that is no other tag"
    assert why(tables, "tag:pneumonoultramicroscopic").nearest == []


def test_where_no_picture_has_all_words_the_best_that_have_some_are_shown(browse: Browse, tables: Connection) -> None:
    written(
        tables,
        photo("one.jpg", "dog", day=3),
        photo("two.jpg", "dog", "beach"),
        photo("cat.jpg", "cat", "beach", "dog", day=2),
        photo("none.jpg", "tree"),
    )
    client = browse()
    assert keys_found(client, "/?q=beach+dog+zebra+-cat") == ["two", "one"]
    page = client.get("/?q=beach+dog+zebra").text
    assert "“beach dog zebra”" in page
    assert 'data-from="/facets?q=beach+or+dog+or+zebra&amp;sort=best"' in page, "counts are of what is shown"
    assert "have some" not in client.get("/?q=beach+dog").text
    assert keys_found(client, '/?q="beach+zebra"+lion') == []
    assert keys_found(client, "/?q=dog+zebra+key:t*") == ["two"]


def test_parts_that_take_long_are_given_up_and_not_blamed(tables: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tables, photo("a.jpg", "dog"), photo("b.jpg", "cat"))
    assert why(tables, "zebra bucket:x").nothing == ["bucket x", "zebra"]
    monkeypatch.setattr(Searcher, "within", lambda *_: None)
    blamed = why(tables, "zebra bucket:x")
    assert (blamed.nothing, blamed.without) == ([], [])


def test_more_tags_come_by_a_link(browse: Browse, tables: Connection) -> None:
    written(tables, enriched("a.jpg", tags=[(f"tag{number}", 0.5) for number in range(40)]))
    client = browse()
    first = client.get("/?counts=1").text
    (more,) = re.findall(r'href="([^"]+)">More tags', first)
    every = client.get(more.replace("&amp;", "&")).text
    assert [len(re.findall(r"q=tag%3Atag\d+", page)) for page in (first, every)] == [24, 40]
    assert "More tags" not in every
    assert 'name="sift"' in client.get("/facets?sift=nothing").text, "the box stays where no tag has its text"


def test_a_filter_that_means_nothing_is_named_beside_the_rest(browse: Browse, tables: Connection) -> None:
    written(tables, photo("a.jpg", "dog"), photo("b.jpg", "foo"))
    client = browse()
    for text in ("dog foo:bar", "dog score>abc"):
        assert keys_found(client, f"/?q={quote(text)}") == ["a"]
        assert f"“{html.escape(text[4:])}”" in client.get("/", params={"q": text}).text
    assert "“foo:bar” is no filter" in client.get("/?q=zebra+foo:bar").text, "also where nothing is found"


def test_every_state_has_an_address(browse: Browse, tables: Connection) -> None:
    written(tables, *(photo(f"{n:03d}", "dog", day=1 + n % 28) for n in range(PAGE + 20)))
    client = browse()
    first = client.get("/", params={"q": "tag:dog"}).text
    assert first.count('class="cell') == PAGE
    assert first.count('loading="lazy"') == PAGE, "the page is whole without them, and those in view come first"
    (more,) = re.findall(r'rel="next" href="([^"]+)"', first)
    second = client.get(more.replace("&amp;", "&")).text
    assert second.count('class="cell') == 20
    (newer,) = re.findall(r'rel="prev" href="([^"]+)"', second)
    assert client.get(newer.replace("&amp;", "&")).text.count('class="cell') == PAGE
    assert f"{PAGE + 20} pictures" in client.get("/facets", params={"q": "tag:dog"}).text
    assert f"{PAGE + 20} pictures" in client.get("/", params={"q": "tag:dog", "counts": "1"}).text


def test_one_picture_tells_all_of_it(browse: Browse, tables: Connection, settings: IndexSettings) -> None:
    written(tables, photo("a.jpg", "cat", day=1))
    written(
        tables,
        enriched(
            "a.jpg",
            2,
            tags=[("dog", 0.9)],
            produced_at="2026-01-02T00:00:00Z",
            timings_ms={"fetch": 30, "wait": 0.1, "look": 0.2, "tag": 10},
            corrections={"added": ["dog"], "removed": [], "by": ["<i>zoe", "ann"]},
        ),
        photo("b.jpg", day=2),
        photo("c.jpg", day=3),
    )
    text = browse().get("/picture", params={"of": "photos/b.jpg"}).text
    assert re.findall(r'rel="(prev|next)" href="/picture\?of=photos%2F(.)', text) == [("prev", "c"), ("next", "a")]
    text = browse().get("/picture", params={"of": "photos/a.jpg"}).text
    for expected in (
        "dog",
        "0.90",
        "40 ms",
        "fetch 30.0",
        "rest 0.3",
        "+ dog",
        "− cat",
        "a person added “dog”",
        "corrected by &lt;i&gt;zoe, ann",
        "b" * 64,
        "images:0:1, index 0",
    ):
        assert expected in text, expected
    assert browse().get("/picture", params={"of": "photos/none.jpg"}).status_code == 410
    tables.execute("delete from history where subject = 'photos/b.jpg'")
    assert browse().get("/picture", params={"of": "photos/b.jpg"}).status_code == 200
    written(tables, retraction("a.jpg", 3))
    gone = browse().get("/picture", params={"of": "photos/a.jpg", "q": "x"})
    assert gone.status_code == 410
    assert not re.search("dog|cat|a.jpg", gone.text.partition("<main")[2].partition("</main>")[0])


def test_a_picture_shows_the_service_that_answered_and_all_that_is_missing(browse: Browse, tables: Connection) -> None:
    caption: dict[str, Any] = {"text": "a dog", "score": None, "method": "remote", "guided_by": [], "model": "<b>Qwen"}
    missing = [{"want": "ocr", "reason": "annotate-failed"}, {"want": None, "reason": "role-not-here"}]
    answered = photo("a.jpg", "dog").but(caption=caption, status="partial", reason="annotate-failed", missing=missing)
    written(tables, answered, photo("b.jpg", "dog").but(status="partial", reason="caption-failed"))
    text = browse().get("/picture", params={"of": "photos/a.jpg"}).text.partition("Raw event")[0]
    assert "method remote · answered by &lt;b&gt;Qwen" in text
    assert "partly: ocr annotate-failed, role-not-here<" in text
    assert "partly: caption-failed<" in browse().get("/picture", params={"of": "photos/b.jpg"}).text


def test_history_shows_changes_and_counts_repeats(browse: Browse, tables: Connection) -> None:
    def outcome(number: int, *names: str, **others: Any) -> Said:
        return photo("a.jpg", *names, **others).but(version=number, produced_at=f"2026-01-0{number}T00:00:00Z")

    first = outcome(1, "cat")
    same = [outcome(n, "cat", "dog") for n in (2, 3, 4)]
    written(tables, first, *same, outcome(5, "cat", "dog", caption="a cat and a dog"))

    def past() -> list[tuple[str, list[str]]]:
        text = browse().get("/picture", params={"of": "photos/a.jpg"}).text
        rows = re.findall(r'<li><time datetime="2026-01-0(\d)(.*?)</li>', text)
        return [(day, re.findall(r'class="par">([^<]+)', row)) for day, row in rows]

    assert past() == [
        ("5", ["caption: a cat and a dog"]),
        ("2", ["+ dog", "2 outcomes since changed nothing"]),
        ("1", []),
    ]
    source = {**first.fields["source"], "sha256": "c" * 64}
    written(tables, outcome(6, "cat", caption="a cat and a dog").but(source=source))
    assert past()[0] == ("6", ["− dog", "other content of the file"])
    assert past()[-1] == ("2", ["2 outcomes since changed nothing"]), "five are kept"


def test_thresholds_are_shown_where_a_bundle_is(tables: Connection, settings: IndexSettings) -> None:
    class Known(Bundles):
        def find(self, digest: str, thresholds: Any) -> tuple[tuple[str, ...], Profile]:
            return ("dog", "cat"), Profile("default", np.array([0.5, 0.25], np.float32), "t")

    written(tables, photo("a.jpg", "dog"))
    for bundles, threshold in ((Known(settings, None), 0.5), (Bundles(settings, None), None)):
        with searched(tables) as (searcher, _):
            found = one(searcher, "photos/a.jpg", bundles)
        assert found is not None
        assert found.tags[0].threshold == threshold
    with pytest.raises(Misconfigured, match="--bundles"):
        Bundles(settings, Path("/nowhere"))


def toward(*numbers: float, space: str = "clip-vit-b-16") -> Embedding:
    vector = np.array([*numbers, *[0] * (8 - len(numbers))])
    return Embedding(space, (vector / np.linalg.norm(vector)).astype("<f2"))


def meant(tables: Connection) -> None:
    written(
        tables,
        *(
            photo(key, *names, vector=toward(*numbers).vector.tobytes())
            for key, names, numbers in (
                ("word.jpg", ["dog"], (-1, 0.5)),
                ("both.jpg", ["cat", "dog"], (1, 0.1)),
                ("meaning.jpg", ["cat"], (1, 2)),
                ("neither.jpg", ["tree"], (-1, 0)),
            )
        ),
    )


def keys_found(client: TestClient, address: str) -> list[str]:
    return re.findall(r'data-subject="photos/(\w+)\.jpg"', client.get(address).text)


def test_words_rank_by_their_meaning_too_with_a_switch_for_each(browse: Browse, tables: Connection) -> None:
    meant(tables)
    client = browse(sentences=Sentences(lambda _: toward(1)))
    for address, expected in {
        "/?q=dog": ["both", "word", "meaning"],
        "/?q=zebra": ["both", "meaning"],
        "/?q=dog&by=meaning": ["both", "meaning"],
        "/?q=dog+-cat": ["word"],
        "/?q=zebra+-cat": [],
        "/?q=zebra+-tag:dog": ["meaning"],
        "/?q=dog+key:w*": ["word"],
        "/?q=dog&by=nonsense": ["both", "word", "meaning"],
    }.items():
        assert keys_found(client, address) == expected, address
    assert sorted(keys_found(client, "/?q=dog&by=words")) == ["both", "word"]
    assert "2 pictures" in client.get("/facets?q=zebra").text
    assert "3 pictures" in client.get("/facets?q=dog").text
    page = client.get("/?q=dog").text
    assert 'href="/?q=dog&amp;by=words"' in page
    assert 'href="/?q=dog&amp;by=meaning"' in page
    for address in ("/?q=dog&by=words", "/?q=dog&by=meaning"):
        assert 'href="/?q=dog"' in client.get(address).text, "back to both"
    for plain in (browse().get("/?q=dog").text, client.get("/?q=tag:dog").text, client.get("/").text):
        assert "Search by" not in plain


def test_pages_by_meaning_and_the_pictures_before_and_after_one(
    browse: Browse, tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    meant(tables)
    monkeypatch.setattr(server, "PAGE", 1)
    client = browse(sentences=Sentences(lambda _: toward(1)))
    address, seen = "/?q=dog", list[str]()
    while address and len(seen) < 5:
        (subject,) = keys_found(client, address)
        seen.append(subject)
        found = re.search(r'rel="next" href="([^"]+)"', client.get(address).text)
        address = found[1].replace("&amp;", "&") if found else ""
    assert seen == ["both", "word", "meaning"]
    page = client.get("/picture?of=photos/word.jpg&q=dog").text
    assert re.findall(r'rel="(?:prev|next)" href="[^"]*photos%2F(\w+)\.jpg', page) == ["both", "meaning"]
    last = client.get("/picture?of=photos/meaning.jpg&q=dog").text
    assert re.findall(r'rel="(?:prev|next)" href="[^"]*photos%2F(\w+)\.jpg', last) == ["word"]
    (back,) = re.findall(r'rel="up" href="([^"]+)"', page)
    assert keys_found(client, back.replace("&amp;", "&")) == ["word"]


def test_a_model_that_is_busy_or_of_another_space_leaves_the_words(
    browse: Browse, tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    meant(tables)
    monkeypatch.setattr(pool, "_READ_S", 0.1)
    free = threading.Event()

    def slow(_: str) -> Embedding:
        assert free.wait(30)
        return toward(1)

    client = browse(sentences=Sentences(slow))
    assert sorted(keys_found(client, "/?q=dog")) == ["both", "word"]
    page = client.get("/?q=dog").text
    assert 'role="status">The model is busy' in page
    assert 'href="/?q=dog"' in page
    free.set()
    monkeypatch.setattr(pool, "_READ_S", 30)
    assert keys_found(client, "/?q=dog") == ["both", "word", "meaning"]
    other = browse(sentences=Sentences(lambda _: toward(1, space="siglip2-b16-384")))
    assert sorted(keys_found(other, "/?q=dog")) == ["both", "word"]
    said = other.get("/?q=zebra").text
    assert "siglip2-b16-384" in said
    assert "clip-vit-b-16 (8 dimensions)" in said


def test_hostile_text_is_text(browse: Browse, tables: Connection) -> None:
    key = HOSTILE[:40] + "/../a&b=c#d%2e.jpg"
    written(
        tables,
        photo(key, HOSTILE, caption=HOSTILE, day=2).but(corrections={"added": [], "removed": [HOSTILE]}),
        photo("b.jpg", day=1),
    )
    subject = f"photos/{key}"
    client = browse(corrector=Deaf())
    client.post("/login", data={"token": TOKEN})
    for path, asked in (
        ("/", {"q": HOSTILE}),
        ("/", {"q": "", "counts": "1"}),
        ("/facets", {"q": ""}),
        ("/picture", {"of": "photos/b.jpg"}),  # whose copy it is
        ("/picture", {"of": subject, "q": HOSTILE, "said": HOSTILE}),
        ("/login", {"back": HOSTILE}),
        ("/nowhere", {"q": HOSTILE}),
    ):
        answer = client.get(path, params=asked)
        assert not re.search(r"<script>|<img src=x|49\u202e", answer.text), path
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert " style=" not in answer.text, "the policy forbids it"
    text = client.get("/", params={"q": ""}).text
    (link,) = re.findall(r'href="(/picture[^"]+)" ?>?[^>]*>\s*<img src="[^"]*%2F\.\.%2F', text)
    assert client.get(link.replace("&amp;", "&")).status_code == 200


def taken(key: str, at: str | None, stored: int = 9, **facts: Any) -> Said:
    """An image of a day, stored on one of January 2026."""
    own = photo(key, "dog", day=stored)
    return own.but(image={**own.fields["image"], **facts} | ({"taken_at": at} if at else {}))


def headed(client: TestClient, **asked: str) -> list[str]:
    """The months and pictures of a result, as they follow each other."""
    text = client.get("/", params=asked).text.partition('id="pages"')[2]
    found = re.findall(r'<h2>(\w+ \d{4})</h2>|data-subject="photos/(\w+)\.jpg', text)
    return [month or key for month, key in found]


def test_months_head_the_order_by_day_alone_and_go_on_over_pages(
    browse: Browse, tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PAGE", 3)
    written(
        tables,
        taken("stored.jpg", None),
        taken("late.jpg", "2025-12-31T23:30:00-08:00"),
        taken("early.jpg", "2025-12-01T00:00:00+14:00"),
        taken("middle.jpg", "2025-12-02T00:00:00"),
        taken("wrong_clock.jpg", "2031-01-01T00:00:00", stored=8),
    )
    client = browse()
    assert headed(client) == ["January 2026", "stored", "wrong_clock", "December 2025", "late"]
    (after,) = re.findall(r'rel="next" href="/\?after=([^"&]+)', client.get("/").text)
    assert headed(client, after=unquote(after)) == ["December 2025", "middle", "early"]
    assert len(headed(client, q="tag:dog", sort="best")) == 3


def test_a_date_is_shown_as_written_and_says_what_it_is(browse: Browse, tables: Connection) -> None:
    for at, expected in (
        ("2025-07-01T23:30:00", "Taken 1 Jul 2025, 23:30, local time"),
        ("2025-07-01T23:30:00-09:30", "Taken 1 Jul 2025, 23:30, UTC-09:30"),
        ("2025-07-01T23:30:00Z", "Taken 1 Jul 2025, 23:30, UTC<"),
        ("2031-01-01T00:00:00", "Last modified 9 Jan 2026, 00:00 UTC<"),
        (None, "Last modified 9 Jan 2026, 00:00 UTC<"),
    ):
        written(tables, taken(f"{at}.jpg", at))
        assert expected in browse().get("/picture", params={"of": f"photos/{at}.jpg"}).text, at


def test_a_picture_on_its_side_has_the_shape_of_the_upright_one(browse: Browse, tables: Connection) -> None:
    for orientation, shape in ((1, ("135", "640", "480")), (6, ("75", "480", "640"))):
        tables.execute("delete from image")
        written(tables, taken("a.jpg", None, orientation=orientation))
        found = re.search(r'class="cell r(\d+)".*?width="(\d+)" height="(\d+)"', browse().get("/").text, re.DOTALL)
        assert found is not None
        assert found.groups() == shape


def test_copies_are_counted_on_thumbnails_and_listed_with_the_largest(browse: Browse, tables: Connection) -> None:
    def of(key: str, phash: str, side: int, content: str) -> Said:
        made = taken(key, None, phash=phash, width=side, height=side)
        return made.but(source={**made.fields["source"], "sha256": content * 64})

    written(
        tables,
        of("a.jpg", "00000000000000ff", 400, "a"),
        of("equal.jpg", "00000000000000ff", 400, "a"),
        of("near.jpg", "0000000000000fff", 900, "b"),
        of("same.jpg", "00000000000000ff", 200, "c"),
        of("other.jpg", "ffffffff00000000", 2_000, "d"),
    )
    client = browse()
    text = client.get("/").text
    counted = re.findall(r'href="(/picture[^"]*)#copies">(\d+) copies', text)
    assert {number for _, number in counted} == {"4"}
    assert not [link for link, _ in counted if "other" in link]
    text = client.get(next(link for link, _ in counted if "a.jpg" in link)).text.partition('id="copies"')[2]
    rows = re.findall(r"photos/(\w+)\.jpg<span class=\"par\">([^·]+) · [^<]*(<b>largest</b>)?", text)
    assert rows == [
        ("near", "looks almost the same", "<b>largest</b>"),
        ("a", "this picture", ""),
        ("equal", "same file", ""),
        ("same", "looks the same", ""),
    ]
    assert "copies" not in client.get("/picture", params={"of": "photos/other.jpg"}).text.partition("<main")[2]


def test_bars_are_links_to_months_or_to_years_where_they_are_many(browse: Browse, tables: Connection) -> None:
    written(
        tables,
        taken("a.jpg", "2025-12-31T23:30:00"),
        taken("b.jpg", "2025-12-01T00:00:00"),
        taken("c.jpg", "2024-02-29T12:00:00"),
    )
    client = browse()

    def shown(asked: str) -> list[tuple[str, str, str]]:
        bar = r'href="([^"]*taken%3A[^"]*)"[^>]*><span>([^<]+)</span><svg[^>]*><rect[^>]*></svg><span class="n">(\d+)'
        return re.findall(bar, client.get("/facets", params={"q": asked}).text)

    (link, *december), february = shown("tag:dog")
    assert (december, february[1:]) == (["Dec 2025", "2"], ("Feb 2024", "1"))
    assert headed(client, q=unquote(link.partition("q=")[2]).replace("+", " ")) == ["December 2025", "a", "b"]
    assert shown("taken:2024") == [], "there is nothing to choose"
    assert [name for _, name, _ in shown("taken:2025-12")] == ["31 Dec", "1 Dec"]
    written(tables, *(taken(f"{n}.jpg", f"{1960 + n // 12}-{n % 12 + 1:02d}-01T00:00:00") for n in range(60)))
    assert [(name, number) for _, name, number in shown("")] == [
        ("2025", "2"), ("2024", "1"), *((f"{year}", "12") for year in range(1964, 1959, -1)),
    ]  # fmt: skip


def test_too_long_a_query_is_refused(browse: Browse, tables: Connection) -> None:
    client = browse()
    assert client.get("/", params={"q": "a" * 10_000}).status_code == 414
    assert client.get("/", params={"q": "a " * 900}).status_code == 200
    assert client.get("/picture", params={"of": "photos/" + "a" * 2_000}).status_code == 404
    assert client.get("/image", params={"of": ""}).status_code == 404
    assert client.post("/login", data={"token": "a" * 100_000}).status_code == 403
    assert client.put("/").status_code == 405


def test_only_the_token_corrects_and_only_from_our_form(browse: Browse, tables: Connection) -> None:
    written(tables, photo("a b.jpg", "dog"))
    deaf = Deaf()
    client = browse(corrector=deaf)
    page = {"of": "photos/a b.jpg", "q": "dog"}
    assert "/correct" not in client.get("/picture", params=page).text
    assert client.post("/correct", params=page, data={"add": "cat"}).status_code == 403
    wrong = client.post("/login", data={"token": "wrong"})
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (403, False)
    answer = client.post("/login", data={"token": TOKEN, "back": "/picture?of=a"}, follow_redirects=False)
    assert answer.headers["location"] == "/picture?of=a"
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    for back in ("//evil.example", "https://evil.example", "/\\evil.example"):
        answer = client.post("/login", data={"token": TOKEN, "back": back}, follow_redirects=False)
        assert answer.headers["location"] == "/"
    (key, *_) = re.findall(r'name="key" value="([0-9a-f]{64})"', client.get("/picture", params=page).text)
    assert client.post("/correct", params=page, data={"add": "cat", "key": "0" * 64}).status_code == 403
    other = {"sec-fetch-site": "cross-site"}
    assert client.post("/correct", params=page, data={"add": "cat", "key": key}, headers=other).status_code == 403
    assert deaf.sent == []
    shown = client.post("/correct", params=page, data={"add": " cat ", "key": key})
    client.post("/correct", params=page, data={"remove": "dog", "key": key})
    assert deaf.sent == [("photos/a b.jpg", "cat", True), ("photos/a b.jpg", "dog", False)]
    assert "data-pending" in shown.text
    assert "no correction" in client.post("/correct", params=page, data={"add": " ", "key": key}).text
    client.post("/logout", data={"key": key})
    assert "/correct" not in client.get("/picture", params=page).text


def test_editors_correct_by_the_word_of_the_proxy(browse: Browse, tables: Connection, tmp_path: Path) -> None:
    written(tables, photo("a.jpg", "dog"))
    (editors := tmp_path / "editors").write_text("ann\n")
    deaf, page = Deaf(), {"of": "photos/a.jpg"}
    client = browse(corrector=deaf, token="", people=People("X-Forwarded-User", editors))

    def seen(name: str) -> str:
        return client.get("/picture", params=page, headers={"x-forwarded-user": name}).text

    (key, *_) = re.findall(r'name="key" value="([0-9a-f]{64})"', seen("ann"))
    assert ">ann</span>" in seen("ann")
    for text in (seen("eve"), seen("<b>eve"), client.get("/picture", params=page).text):
        assert not re.search("/correct|/login|/logout|<b>", text)
    for name, sent in (("eve", key), ("", key), ("ann", ""), ("ann", key)):
        form = {"add": "cat", "key": sent}
        status = client.post("/correct", params=page, data=form, headers={"x-forwarded-user": name}).status_code
        assert (status == 403) == ((name, sent) != ("ann", key))
    assert (deaf.sent, deaf.by) == ([("photos/a.jpg", "cat", True)], ["ann"])
    both = browse(corrector=deaf, people=People("X-Forwarded-User", editors))
    form = {"add": "cat", "key": key_of(both)}
    both.post("/correct", params=page, data=form, headers={"x-forwarded-user": "eve"})
    both.post("/correct", params=page, data=form)
    assert deaf.by[1:] == ["eve", ""], "the token corrects, and the header says who"


def key_of(client: TestClient, page: str = "/") -> str:
    """The form key of a session that begins now."""
    assert client.post("/login", data={"token": TOKEN}).status_code == 200
    return str(re.findall(r'name="key" value="([0-9a-f]{64})"', client.get(page).text)[0])


def confirmed(client: TestClient, asked: dict[str, Any], text: str, **changed: Any) -> Any:
    """The answer to the form of a question."""
    hidden = re.findall(r'type="hidden" name="([a-z]+)" value="([^"]*)"', text.partition('class="ask"')[2])
    form: dict[str, Any] = {name: unescape(value) for name, value in hidden if name != "of"}
    form["of"] = [unescape(value) for name, value in hidden if name == "of"]
    return client.post("/many", params=asked, data=form | changed, follow_redirects=False)


def test_several_pictures_get_a_tag_after_a_question_that_says_how_many(browse: Browse, tables: Connection) -> None:
    written(tables, *(photo(f"{n} ü&.jpg", "dog") for n in range(4)), photo("has.jpg", "beach"))
    deaf, asked = Deaf(), {"q": "dog"}
    client = browse(corrector=deaf)
    form: dict[str, Any] = {"do": "add", "tag": " beach ", "of": [f"photos/{n} ü&.jpg" for n in range(3)]}
    form["of"] += ["photos/has.jpg", "photos/0 ü&.jpg", "photos/gone.jpg", "x" * 1_201, "\0"]
    assert client.post("/many", params=asked, data=form).status_code == 403
    form["key"] = key_of(client)
    assert client.post("/many", params=asked, data=form | {"key": "0" * 64}).status_code == 403
    question = client.post("/many", params=asked, data=form).text
    assert "Add “beach” to 3 pictures?" in question
    assert deaf.sent == []
    assert confirmed(client, asked, question, key="1" * 64).status_code == 403
    for changed in ({"sure": "0" * 32}, {"tag": "sea"}, {"do": "remove", "tag": "dog"}, {"of": ["photos/3 ü&.jpg"]}):
        assert "changed meanwhile" in confirmed(client, asked, question, **changed).text
    written(
        tables,
        photo("1 ü&.jpg", "dog", version=2).but(source=photo("1 ü&.jpg").fields["source"] | {"sha256": "c" * 64}),
    )
    again = confirmed(client, asked, question).text
    assert "changed meanwhile" in again
    assert deaf.sent == []
    answer = confirmed(client, asked, again)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sent?of=made&q=dog")
    assert deaf.sent == [(f"photos/{n} ü&.jpg", "beach", True) for n in range(3)]
    told = form | {"tag": "Beach"}
    assert "is a new tag" in client.post("/many", data=told).text
    eventually(lambda: 'name="tag" value="beach"' in client.post("/many", data=told).text, 10)
    assert "\ufffd" in client.post("/many", data=form | {"tag": "\0"}).text
    assert "Nothing to change" in client.post("/many", data=form | {"do": "remove", "tag": "cat"}).text


def test_all_of_an_answer_is_what_was_there_when_it_was_asked(
    browse: Browse, tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tables, *(photo(f"{n}.jpg", "dog", day=n) for n in range(1, 6)))
    deaf, asked = Deaf(), {"q": "tag:dog"}
    client = browse(corrector=deaf)
    form = {"do": "remove", "tag": "dog", "all": "on", "key": key_of(client)}
    question = client.post("/many", params=asked, data=form).text
    assert "Remove “dog” from 5 pictures?" in question
    written(tables, photo("new.jpg", "dog", day=9))
    assert confirmed(client, asked, question).status_code == 303
    assert [subject for subject, *_ in deaf.sent] == [f"photos/{n}.jpg" for n in (5, 4, 3, 2, 1)]
    monkeypatch.setattr(many, "MOST", 2)
    cut = client.post("/many", params=asked, data=form).text
    assert "from 2 pictures?" in cut
    assert "the first 2 of the answer" in cut


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"do": "add", "tag": "a"},
        {"do": "drop", "of": "photos/a.jpg"},
        {"do": "csv", "of": "x" * 2_000},
        {"do": "csv", "of": [f"photos/{n:040}.jpg" for n in range(400)]},
        {"do": "csv", "of": ["a"] * 600},
        {"do": "add", "tag": "", "of": "photos/a.jpg"},
        {"do": "add", "tag": "\ud7ff" * 3_000, "of": "photos/a.jpg"},
    ],
)
def test_a_form_that_wants_nothing_or_too_much_is_one_sentence(
    browse: Browse, tables: Connection, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tables, photo("a.jpg", "dog"))
    client = browse(corrector=Deaf())
    key = key_of(client)
    monkeypatch.setattr(Site, "about", None)  # a sentence's vector would take the event loop's time
    answer = client.post("/many", data=form | {"key": key})
    assert (answer.status_code, answer.text.count('role="alert"')) == (400, 1)


def test_corrections_on_the_way_are_shown_until_they_are_done(browse: Browse, tables: Connection) -> None:
    record = correction("photos", "a.jpg", added=["beach"])
    parts = {f"photos/{n}.jpg": Applying(record) for n in range(3)}
    deaf = Deaf()
    deaf.made = Sending("beach", True, parts, set(parts))
    client = browse(corrector=deaf)
    assert client.get("/sent?of=made").status_code == 403
    key_of(client)
    assert client.get("/sent?of=other").status_code == 404
    parts["photos/0.jpg"].version, parts["photos/1.jpg"].failure = 7, f"away {HOSTILE}"
    going = client.get("/sent?of=made")
    assert going.headers["refresh"] == "2"
    assert "1 done" in going.text
    assert "1 on the way, 1 failed" in going.text
    assert "<script>alert" not in going.text
    parts["photos/2.jpg"].version = 8
    assert "refresh" not in client.get("/sent?of=made").headers


def test_a_list_is_a_file_that_no_spreadsheet_runs(browse: Browse, tables: Connection) -> None:
    formulas = ["=1+1", "+1", "-1", "@x", "\tx", "\rx"]
    told = [photo(f"{n}.jpg", text, caption=text, day=n + 1) for n, text in enumerate(formulas)]
    written(tables, *told, photo("plain.jpg", "a;b", caption='say "x", ü', day=9))
    client = browse()
    answer = client.post("/many", data={"do": "csv", "all": "on"})
    assert answer.headers["content-disposition"] == 'attachment; filename="pictures.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline="")))
    assert [(row["tags"], row["caption"]) for row in rows[1:]] == [(f"'{each}",) * 2 for each in formulas[::-1]]
    assert (rows[0]["subject"], rows[0]["tags"], rows[0]["caption"]) == ("photos/plain.jpg", "a;b", 'say "x", ü')
    some = client.post("/many", data={"do": "json", "of": ["photos/gone.jpg", "photos/plain.jpg"]}).json()
    assert [(each["subject"], each["tags"]) for each in some] == [
        ("photos/plain.jpg", [{"name": "a;b", "score": 0.75}])
    ]
    assert client.post("/many", data={"do": "json", "of": "photos/gone.jpg"}).json() == []


@pytest.mark.parametrize(
    ("sort", "bound"), [("", (many, "_PART", 2)), ("best", (many, "_PART", 2)), ("", (finding, "_PART_BYTES", 250))]
)
def test_a_list_comes_in_parts_up_to_its_bound(
    browse: Browse, tables: Connection, monkeypatch: pytest.MonkeyPatch, sort: str, bound: tuple[Any, str, int]
) -> None:
    written(tables, *(photo(f"{n}.jpg", "dog", day=n) for n in range(1, 16)))
    monkeypatch.setattr(*bound)
    monkeypatch.setattr(many, "LISTED", 10)
    client, parts = browse(), list[int]()
    part = Result.part

    def seen_part(self: Result, limit: int, **places: Any) -> finding.Page:
        found = part(self, limit, **places)
        parts.append(len(found.found))
        return found

    monkeypatch.setattr(Result, "part", seen_part)
    listed = client.post("/many", params={"q": "tag:dog", "sort": sort}, data={"do": "json", "all": "on"}).json()
    assert len({each["subject"] for each in listed}) == len(listed) == 10
    assert parts == [2] * 5
    assert [each["key"] for each in listed[:2]] == ["15.jpg", "14.jpg"]


def test_another_address_needs_the_token_to_read(browse: Browse, tables: Connection) -> None:
    written(tables, photo("a.jpg", "dog"))
    client = browse(to_read=True)
    for path in ("/", "/facets", "/picture?of=photos/a.jpg", "/image?of=photos/a.jpg", "/original?of=photos/a.jpg"):
        answer = client.get(path, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    assert client.get("/static/page.css").status_code == 200
    client.post("/login", data={"token": TOKEN})
    assert "photos/a.jpg" in client.get("/").text
    session = client.cookies["tagstream"]
    client.cookies.clear()
    for cookie, status in ((session, 200), (session.replace(".", "0.", 1), 303), (session[:-1], 303), ("", 303)):
        answer = client.get("/", headers={"cookie": f"tagstream={cookie}"}, follow_redirects=False)
        assert answer.status_code == status
    name = ["photos.example"]
    for wrong, said in {
        ("0.0.0.0", "", False, ()): "--behind-proxy",
        ("0.0.0.0", TOKEN, True, ()): "--name photos.example",
        ("127.0.0.1", "", False, ("https://photos.example",)): "the host alone",
        ("127.0.0.1", "", False, ("photos.example:80",)): "the host alone",
        ("127.0.0.1", "short", False, ()): "16 characters",
    }.items():
        with pytest.raises(Misconfigured, match=said):
            require_safe(wrong[0], token=wrong[1], behind_proxy=wrong[2], names=wrong[3])
    require_safe("0.0.0.0", token=TOKEN, behind_proxy=False, names=())
    require_safe("0.0.0.0", token="", behind_proxy=True, names=name)


def test_on_this_machine_no_other_name_leads_to_the_page(browse: Browse) -> None:
    client = browse(hosts=(*LOOPBACK, "photos.example"))
    for host, status in {
        "127.0.0.1:8082": 200,
        "LOCALHOST": 200,
        "photos.example:443": 200,
        "photos.example.evil.example": 421,
        "[::1]:80": 200,
        "evil.example": 421,
        "": 421,
    }.items():
        assert client.get("/login", headers={"host": host}).status_code == status, host


def change(key: str, before: str, after: str, **others: Any) -> Changed:
    return Changed.between(f"photos/{key}", before.split(), after.split(), **others)


def file_of(path: Path, *changed: Changed) -> Path:
    with ChangesWriter() as writer:
        for each in changed:
            writer.take(each)
        writer.write(path, before=HOSTILE, after="today's settings", images=500, unknown=3)
    return path


def test_changes_are_shown_by_label_and_page(browse: Browse, tables: Connection, tmp_path: Path) -> None:
    written(tables, *(photo(f"{n}.jpg", "dog") for n in range(PAGE + 5)), photo("moved.jpg", "secret"))
    many = (change(f"{n}.jpg", "dog", "dog cat" if n % 2 else "cat") for n in range(PAGE + 5))
    captions = {"captions": ("a secret", None)}
    path = file_of(tmp_path / "changes", *many, change("moved.jpg", "secret old bus", "new", **captions))
    client = browse(changes=path)

    def keys_found(**asked: str | int) -> tuple[str, list[str]]:
        text = client.get("/changes", params=asked).text
        return text, re.findall(r'data-subject="photos/([^"]+).jpg"', text)

    text, first = keys_found()
    assert (first[0], len(first), f"{PAGE + 6} pictures" in text) == ("moved", PAGE, True)
    labels = re.findall(r"<span>(\w+)</span><span class=\"n\">([^<]*)</span>", text)
    assert labels[:2] == [("cat", "+65"), ("dog", " −33")], "the labels that change most come first"
    (more,) = re.findall(r'rel="next" href="([^"]+)"', text)
    rest = re.findall(r'data-subject="photos/([^"]+).jpg"', client.get(more).text)
    assert len({*first, *rest}) == PAGE + 6
    assert len(keys_found(label="dog")[1]) == len(keys_found(label="dog", side="lost")[1]) == 33
    assert keys_found(label="dog", side="gained")[1] == []
    assert len(keys_found(label="cat", side="gained", page=2)[1]) == 5
    for odd in (
        {"page": "-1"},
        {"page": "9" * 30},
        {"page": "0"},
        {"side": "odd"},
        {"label": HOSTILE},
        {"label": "\0"},
    ):
        assert client.get("/changes", params=odd).status_code == 200, odd
    written(tables, retraction("moved.jpg", 2))
    text, first = keys_found()
    assert "moved" not in first
    assert "a secret" not in text.partition("<section")[2], "of a removed picture nothing is told"
    assert 'href="/changes"' in client.get("/").text
    assert browse().get("/changes").status_code == 404
    assert 'href="/changes"' not in browse().get("/").text


def test_hostile_changes_are_text(browse: Browse, tables: Connection, tmp_path: Path) -> None:
    written(tables, photo(HOSTILE, HOSTILE, caption=HOSTILE))
    hostile = Changed.between(f"photos/{HOSTILE}", [HOSTILE, *map(str, range(100))], ["\0"], captions=(HOSTILE, None))
    text = browse(changes=file_of(tmp_path / "changes", hostile, change("\0", "a", "b"))).get("/changes").text
    assert not re.search(r"<script>|<img src=x|49\u202e| style=", text)
    assert text.count("&lt;script&gt;alert(1)") >= 3


def test_scores_and_thresholds_stand_beside_the_labels(browse: Browse, tables: Connection, tmp_path: Path) -> None:
    written(tables, photo("a.jpg", "dog"), photo("new.jpg", "dog"))
    known = {
        "dog": LabelNumbers(0.519, 0.519, 0.3, 0.35),
        "boat": LabelNumbers(0.31, 0.31, 0.3, 0.35),
        "sky": LabelNumbers(None, 0.14, None, 0.12),
        "sea": LabelNumbers(0.4, 0.2),
    }
    one = change(
        "a.jpg", "dog boat", "dog sky sea", numbers=known.get, sha256=photo("a.jpg").fields["source"]["sha256"]
    )
    other = change("new.jpg", "dog", "cat", sha256="f" * 64)
    text = browse(changes=file_of(tmp_path / "changes", one, other)).get("/changes").text
    assert re.findall('<span class="v">([^<]+)</span>', text) == [
        "0.31 / 0.30 → 0.35", "0.52 / 0.30", "0.14 / 0.12", "0.40 → 0.20", "0.52 / 0.35",
    ]  # fmt: skip
    assert text.count('class="cell ') == 1, "a picture of other content is not the one that would change"


def test_changes_are_judged_after_a_login_and_the_choices_are_kept(
    browse: Browse, tables: Connection, tmp_path: Path
) -> None:
    written(tables, *(photo(f"{n}.jpg", "dog") for n in range(PAGE + 5)), photo(HOSTILE, "dog"))
    many = (change(f"{n}.jpg", "dog", "cat") for n in range(PAGE + 5))
    plan, path = file_of(tmp_path / "changes", change(HOSTILE, "dog", "a b c"), *many), tmp_path / "choices"
    client = browse(changes=plan, choices=path)
    text = client.get("/changes").text
    assert "disabled" in text
    (draw,) = re.findall(r'name="draw" value="([0-9a-f]{64})"', text)
    assert client.post("/changes", data={"draw": draw, "v0": "rejected"}).status_code == 403
    assert not path.exists()
    key = key_of(client, "/changes")
    asked = {"label": "cat", "side": "gained", "page": "2"}
    said = {"v0": "rejected", "v1": "accepted", "v2": "odd", "v999999999": "accepted", "v-1": "accepted"}
    judged = client.post("/changes", data={"key": key, "draw": draw, **asked, **said})
    assert dict(judged.url.params) == asked, "the same part of the list comes again"
    assert "1 accepted, 1 rejected, 64 undecided; precision 50.0%" in judged.text
    verdicts = Choices.read(path, draw).verdicts
    assert (len(verdicts), verdicts[f"photos/{HOSTILE}"]) == (2, "rejected")
    quick = client.post("/changes", data={"key": key, "draw": draw, "script": "1", "v0": "accepted"})
    assert quick.headers["content-type"].startswith("text/plain")
    assert quick.text.startswith("2 accepted, 0 rejected, 64 undecided")
    assert client.get("/changes").text.count(" checked>") == 2
    another = client.post("/changes", data={"key": key, "draw": "0" * 64, "v5": "rejected"}).text
    assert "about other pictures" in another
    assert len(Choices.read(path, draw).verdicts) == 2
    only_shown = browse(changes=plan)
    assert 'type="radio"' not in only_shown.get("/changes").text
    with pytest.raises(Misconfigured, match="another plan"):
        browse(changes=file_of(tmp_path / "other", change("a.jpg", "a", "b")), choices=path)


def drawn(key: str, **others: Any) -> Drawn:
    facts = {"sha256": "b" * 64, "model": None, "score": 0.5, "chance": 0.5, "shows": True, **others}
    return Drawn(bucket="photos", key=key, **facts)


def test_a_review_is_shown_as_changes_are_and_judged_after_a_login_alone(
    browse: Browse, tables: Connection, tmp_path: Path
) -> None:
    many = [f"{n:03}.jpg" for n in range(PAGE)]
    written(tables, photo(HOSTILE, "dog", HOSTILE), photo("other.jpg", "dog"), *(photo(key, "dog") for key in many))
    path = tmp_path / "review.jsonl"
    pictures_drawn = [drawn(HOSTILE), drawn("other.jpg", sha256="a" * 64), drawn("gone.jpg"), *map(drawn, many)]
    review = Review.of("dog", 90, pictures_drawn)
    review.write(path)
    client = browse(review=path)
    text = client.get("/review").text
    assert text.count('class="cell ') == PAGE - 2, "a picture that is gone or has other content is not to be judged"
    assert len(re.findall('name="v[0-9]+" value="rejected"', text)) == PAGE - 2
    assert not re.search(r"<script>|<img src=x|49\u202e| style=", text)
    assert 'rel="next"' in text
    assert "disabled" in text
    draw = review.head.made_at
    assert client.post("/review", data={"draw": draw, "v0": "rejected"}).status_code == 403
    key = key_of(client, "/review")
    said = {
        "v0": "rejected",
        "v3": "accepted",
        "v4": "nonsense",
        "v9999": "rejected",
        "v-1": "rejected",
        "vx": "accepted",
    }
    judged = client.post("/review", data={"key": key, "draw": draw, **said}).text
    assert [each.verdict for each in Review.read(path).drawn[:5]] == ["rejected", None, None, "accepted", None]
    assert "2 of 63 pictures judged" in judged
    assert 'class="lost"' in judged, "a rejected tag is one that the picture loses"
    assert "precision 50.0%" in judged
    whole = {f"v{place}": "accepted" for place in range(PAGE + 3)}
    client.post("/review", data={"key": key, "draw": draw, **whole})
    assert all(each.verdict for each in Review.read(path).drawn)
    another = client.post("/review", data={"key": key, "draw": "2020-01-01T00:00:00Z", "v0": "rejected"}).text
    assert "about other pictures" in another
    assert Review.read(path).drawn[0].verdict == "accepted"
    path.write_text("{}")
    assert "line 1" in client.get("/review").text
    assert browse().get("/review").status_code == 404


@pytest.fixture
def stored(s3: SeaweedFS, unique: Unique) -> Iterator[Stored]:
    bucket = unique("photos")
    with closing(MinioObjectStore(s3.endpoint_url, s3.access_key, s3.secret_key, s3.region)) as store:
        store.make_bucket(bucket)
        own = {
            "s3_endpoint": s3.endpoint_url,
            "s3_region": s3.region,
            "s3_access_key": SecretUrl(s3.access_key),
            "s3_secret_key": SecretUrl(s3.secret_key),
            "buckets": (bucket,),
        }
        yield own, store, bucket


def jpeg(width: int, height: int, colour: str = "red", **others: Any) -> bytes:
    return encoded(Image.new("RGB", (width, height), colour), "jpeg", **others)


def lying(bucket: str, key: str, body: bytes) -> Said:
    said = photo(key)
    source = {**said.fields["source"], "bucket": bucket, "sha256": hashlib.sha256(body).hexdigest()}
    return said.but(subject=f"{bucket}/{key}", source=source)


def test_pictures_are_decoded_bounded_and_kept_by_content(browse: Browse, tables: Connection, stored: Stored) -> None:
    own, store, bucket = stored
    exif = Image.Exif()
    exif[0x0112] = 6
    bodies = {"a.jpg": jpeg(2000, 1000), "turned.jpg": jpeg(2000, 1000, exif=exif), "small.jpg": jpeg(40, 30)}
    bodies |= {"copy.jpg": bodies["a.jpg"], "broken.jpg": bodies["a.jpg"][:500], "no.jpg": b"<svg/>"}
    for key, body in bodies.items():
        store.put(bucket, key, body)
    outside = photo("a.jpg").but(subject="other/a.jpg", source={**photo("a.jpg").fields["source"], "bucket": "other"})
    changed = lying(bucket, "changed.jpg", b"what it was")
    store.put(bucket, "changed.jpg", jpeg(9, 9))
    written(tables, *(lying(bucket, key, body) for key, body in bodies.items()), changed, outside)
    written(tables, lying(bucket, "missing.jpg", b"x"))
    client = browse(**own)

    def size(key: str, which: str = "") -> tuple[int, int]:
        answer = client.get("/image", params={"of": f"{bucket}/{key}", "size": which})
        assert answer.headers["content-type"] == "image/jpeg"
        return Image.open(io.BytesIO(answer.content)).size

    side = SIDES["thumb"]
    assert size("a.jpg") == size("copy.jpg") == (side, side // 2)
    assert size("turned.jpg") == (side // 2, side)
    assert size("a.jpg", "view") == (1600, 800)
    assert size("a.jpg", "large") == (2000, 1000)
    assert size("small.jpg") == (40, 30)
    for subject in ("broken.jpg", "no.jpg", "changed.jpg", "missing.jpg", "nowhere.jpg"):
        answer = client.get("/image", params={"of": f"{bucket}/{subject}"})
        assert (answer.status_code, answer.headers["content-type"]) == (404, "image/svg+xml"), subject
    answer = client.get("/image", params={"of": "other/a.jpg"})
    assert "TAGSTREAM_BUCKETS" in answer.headers["x-tagstream-reason"]
    written(tables, removed(bucket, "a.jpg"))
    assert client.get("/image", params={"of": f"{bucket}/a.jpg"}).status_code == 404, "though it is kept"


def test_an_original_is_downloaded_by_a_short_link_made_when_asked_for(
    browse: Browse, tables: Connection, stored: Stored, s3: SeaweedFS
) -> None:
    own, store, bucket = stored
    body = jpeg(100, 80)
    keys = ["2026/a b.jpg", 'x";\r\n\u202eé/y";\r\n\u202eé.html']
    for key in keys:
        store.put(bucket, key, body)
    written(tables, *(lying(bucket, key, body) for key in (*keys, "a/../b.jpg")), lying("elsewhere", "b.jpg", body))
    client = browse(**own, index_store_url=s3.endpoint_url)

    def original(subject: str) -> tuple[int, str]:
        answer = client.get("/original", params={"of": subject}, follow_redirects=False)
        assert answer.headers["referrer-policy"] == "same-origin"
        if answer.status_code == 303:
            assert answer.headers["cache-control"] == "no-store"
        return answer.status_code, answer.headers.get("location", "")

    for key, expected in zip(keys, ("a_b.jpg", "y_.html.jpeg"), strict=True):
        status, link = original(f"{bucket}/{key}")
        assert (status, link.startswith(f"{s3.endpoint_url}/{bucket}/")) == (303, True)
        assert "X-Amz-Expires=300" in link
        with urllib.request.urlopen(link, timeout=30) as answer:
            assert answer.read() == body
            assert answer.headers["content-disposition"].startswith(f'attachment; filename="{expected}"; filename*=')
        page = client.get("/picture", params={"of": f"{bucket}/{key}"}).text
        assert 'href="/original?of=' in page
        assert "X-Amz" not in page
    for subject in (f"{bucket}/a/../b.jpg", f"{bucket}/nowhere.jpg", "elsewhere/b.jpg"):
        assert original(subject)[0] == 404, subject
    assert "/original" not in client.get("/picture", params={"of": "elsewhere/b.jpg"}).text
    client = browse(**own, index_store_url="http://127.0.0.1:9")
    assert original(f"{bucket}/{keys[0]}")[1].startswith("http://127.0.0.1:9/"), "no store is asked"
    client = browse(**own)
    assert original(f"{bucket}/{keys[0]}")[0] == 404, "it is off"
    assert "/original" not in client.get("/picture", params={"of": f"{bucket}/{keys[0]}"}).text
    with pytest.raises(Misconfigured, match="TAGSTREAM_S3_REGION"):
        browse(**own | {"s3_region": ""}, index_store_url=s3.endpoint_url)


def test_a_rendition_that_was_read_is_shown_and_named_while_it_is_that(
    browse: Browse, tables: Connection, stored: Stored, s3: SeaweedFS
) -> None:
    own, store, bucket = stored
    body, web = jpeg(90, 60), jpeg(30, 20)
    etag = store.put(bucket, "a.tif", body)
    store.put(bucket, "web/a.jpg", web)

    def told(version: int, of: bytes, **read: Any) -> Said:
        made = lying(bucket, "a.tif", of).but(version=version)
        return made.but(source={**made.fields["source"], "etag": etag, **read})

    read = {"bucket": bucket, "key": "web/a.jpg", "width": 30, "height": 20, "orientation": 1}
    written(tables, told(2, body))
    written(tables, told(3, web, read=read))
    client = browse(**own, index_store_url=s3.endpoint_url)

    def size(which: str) -> tuple[int, int]:
        answer = client.get("/image", params={"of": f"{bucket}/a.tif", "size": which})
        return Image.open(io.BytesIO(answer.content)).size

    assert size("thumb") == (30, 20)
    page = client.get("/picture", params={"of": f"{bucket}/a.tif"}).text
    assert f">{bucket}/web/a.jpg</a>" in page
    assert "other content of the file" not in page, "only another file of it was read"
    links = [
        client.get("/original", params={"of": f"{bucket}/a.tif", **more}, follow_redirects=False).headers["location"]
        for more in ({}, {"read": "1"})
    ]
    assert [f"/{bucket}/{key}?" in link for key, link in zip(("a.tif", "web/a.jpg"), links, strict=True)] == [True] * 2
    store.put(bucket, "web/a.jpg", jpeg(33, 22))
    assert size("view") == (90, 60), "of the original: the rendition is another by now"
    store.put(bucket, "a.tif", jpeg(99, 66))
    assert client.get("/image", params={"of": f"{bucket}/a.tif", "size": "large"}).status_code == 404


def removed(bucket: str, key: str) -> Said:
    source = {"bucket": bucket, "key": key, "version_id": None, "sequencer": None}
    return retraction(key, 2).but(subject=f"{bucket}/{key}", source=source)


def test_a_kept_picture_is_shown_for_its_own_subject_and_content_alone_and_goes_with_its_row(
    browse: Browse, tables: Connection, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, store, bucket = stored
    body = jpeg(100, 80)
    swept: list[list[str]] = []

    class Watched(Kept):
        def sweep(self, current: Current) -> None:
            super().sweep(current)
            super().sweep(lambda subjects: left(subjects) or current(subjects))

    def left(subjects: list[str]) -> dict[str, str]:
        swept.append(subjects)
        return {}

    monkeypatch.setattr(pictures, "Kept", Watched)
    monkeypatch.setattr(server, "_SWEEP_S", 0.1)
    for key in ("a.jpg", "stays.jpg"):
        store.put(bucket, key, body)
        written(tables, lying(bucket, key, body))
    client = browse(**own)
    for key in ("a.jpg", "stays.jpg"):
        assert client.get("/image", params={"of": f"{bucket}/{key}"}).status_code == 200
    store.remove(bucket, "a.jpg")
    written(tables, removed(bucket, "a.jpg"), lying(bucket, "forged.jpg", body), lying("elsewhere", "b.jpg", body))
    for subject in (f"{bucket}/a.jpg", f"{bucket}/forged.jpg", "elsewhere/b.jpg"):
        assert client.get("/image", params={"of": subject}).status_code == 404, subject
    eventually(lambda: bool(swept) and swept[-1] == [f"{bucket}/stays.jpg"], 10)
    assert client.get("/image", params={"of": f"{bucket}/stays.jpg"}).status_code == 200


def test_an_object_that_fails_or_trickles_hides_no_other(
    browse: Browse, tables: Connection, stored: Stored, s3: SeaweedFS
) -> None:
    own, store, bucket = stored
    bodies = {f"{number:02d}.jpg": jpeg(100, 80 + number) for number in range(19)}
    for key, body in bodies.items():
        store.put(bucket, key, body)
    written(tables, *(lying(bucket, key, body) for key, body in bodies.items()))
    with LyingStore(lambda: int(s3.endpoint_url.rpartition(":")[2])) as liar:
        client = browse(**own | {"s3_endpoint": liar.url})
        liar.lies = {"00.jpg": errs(500, "InternalError")} | {f"{n:02d}.jpg": drips(lambda: True) for n in range(1, 9)}

        def status(key: str) -> int:
            return client.get("/image", params={"of": f"{bucket}/{key}"}).status_code

        with ThreadPoolExecutor(len(bodies)) as readers:
            shown = dict(zip(bodies, readers.map(status, bodies), strict=True))
        assert [key for key, got in shown.items() if got == 200] == list(bodies)[9:]
        assert 'id="away" role="status" hidden' in client.get("/").text
        assert {got for got in shown.values() if got != 200} == {502}
        assert {status(key) for key in list(bodies)[1:9]} == {502}
        assert {liar.told[f"{n:02d}.jpg"] for n in range(1, 9)} == {1}, "slow ones are left alone"


def test_kept_pictures_are_of_a_subject_and_content_and_have_a_limit_and_an_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Kept(1_000_000) as made:

        def there(count: int, sha256: str = "b") -> list[int]:
            return [n for n in range(count) if made.read(f"photos/{n}", sha256, 480) is not None]

        made.write("photos/0", "b", 480, b"jpeg")
        assert made.read("photos/0", "b", 480) == b"jpeg"
        assert not any(made.read(*other) for other in (("photos/1", "b", 480), ("photos/0", "c", 480)))
        for number in range(300):
            made.write(f"photos/{number}", "b", 480, bytes(9_000))
        left = there(300)
        assert 299 in left
        assert 0 not in left
        assert len(left) * 9_000 < 1_000_000
        made.sweep(lambda subjects: {each: "b" if each == "photos/299" else "c" for each in subjects})
        assert there(300) == [299]
        monkeypatch.setattr(pictures, "KEPT_S", -1.0)
        assert there(300) == []
        made.sweep(lambda subjects: dict.fromkeys(subjects, "b"))
        monkeypatch.undo()
        assert there(300) == []


def test_while_the_store_is_away_there_are_boxes_and_it_is_left_alone(
    browse: Browse, tables: Connection, stored: Stored
) -> None:
    own, store, bucket = stored
    body = jpeg(100, 80)
    store.put(bucket, "a.jpg", body)
    written(tables, lying(bucket, "a.jpg", body), *(photo(f"{n}.jpg") for n in range(50)))
    written(tables, *(lying(bucket, f"{n}.jpg", body) for n in range(20)))
    client = browse(**own | {"s3_endpoint": "http://127.0.0.1:9"})
    assert 'id="away" role="status" hidden' in client.get("/").text
    started = time.monotonic()
    for number in range(20):
        answer = client.get("/image", params={"of": f"{bucket}/{number}.jpg"})
        assert (answer.status_code, answer.headers["content-type"]) == (502 if number < 2 else 503, "image/svg+xml")
    assert time.monotonic() - started < 10, "three of them tried"
    assert 'id="away" role="status">' in client.get("/").text
    assert browse(**own).get("/image", params={"of": f"{bucket}/a.jpg"}).status_code == 200


def test_while_the_database_is_away_one_page_says_so_and_tries_again(browse: Browse) -> None:
    client = browse(index_dsn=SecretUrl("postgresql://reader:sesame@127.0.0.1:9/x"))
    answer = client.get("/", params={"q": "dog"})
    assert (answer.status_code, answer.headers["refresh"]) == (503, "5")
    assert "sesame" not in answer.text
    assert 'value="dog"' in answer.text
    unready = client.get("/readyz")
    assert (unready.status_code, "127.0.0.1" in unready.text) == (503, False), "its address is not for readers"
    assert client.get("/livez").status_code == 200
    without = browse(index_schema="nowhere").get("/")
    assert without.status_code == 503
    assert "tagstream index init" in without.text


def test_connections_that_were_cut_off_are_replaced(
    browse: Browse, tables: Connection, settings: IndexSettings
) -> None:
    written(tables, photo("a.jpg"))
    reader = f"{settings.index_schema}_reader"
    tables.execute(f"create role {reader} superuser login".encode())
    client = browse(index_dsn=SecretUrl(settings.index_dsn.get_secret_value().replace("postgres@", f"{reader}@")))
    assert client.get("/").status_code == 200
    tables.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", (reader,))
    assert client.get("/").status_code == 200


def test_a_search_that_takes_too_long_is_one_page(
    browse: Browse, tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tables, photo("a.jpg"))
    monkeypatch.setattr(searching, "_SHOWN", f"{searching._SHOWN}, (select pg_sleep(60) is null) as slow")
    answer = browse().get("/")
    assert (answer.status_code, "refresh" in answer.headers) == (503, False)
    assert "takes too long" in answer.text


def test_the_pages_connections_only_read(settings: IndexSettings, tables: Connection) -> None:
    pool = Pool(settings)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), pool.lent() as connection, connection.transaction():
        connection.execute("delete from image")
    pool.close()


def test_closing_the_pool_waits_for_a_running_search_and_leaves_no_connection(
    settings: IndexSettings, tables: Connection
) -> None:
    pool = Pool(settings)
    with ThreadPoolExecutor(1) as other, pool.lent() as connection:
        closed = other.submit(pool.close)
        with pytest.raises(TimeoutError):
            closed.result(0.5)
    assert connection.closed


def test_a_correction_waits_until_its_row_shows_it(
    settings: IndexSettings, tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tagstream_index.page import correcting
    from tagstream_index.page.one import one

    class Instant:
        def __init__(self, settings: Any) -> None:
            if sent:
                raise Misconfigured("no broker")

        def add(self, batch: Sequence[Applying]) -> None:
            sent.extend(orjson.loads(each.record.value or b"") for each in batch)
            batch[0].version = 2

        def turn(self) -> bool:
            return False

        def __enter__(self) -> "Instant":
            return self

        def __exit__(self, *_: object) -> None: ...

    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(correcting, "Applier", Instant)
    written(tables, photo("a.jpg", "dog"))
    bundles = Bundles(settings, None)

    def shown() -> One:
        with searched(tables) as (searcher, _):
            found = one(searcher, "photos/a.jpg", bundles)
        assert found is not None
        return found

    def part(made: str) -> Applying:
        found = corrector.sending(made)
        assert found is not None
        return found.parts["photos/a.jpg"]

    with searched(tables) as (searcher, _):
        pictures = seen(searcher, ["photos/a.jpg", "photos/\0", "photos/gone.jpg", "photos/a.jpg"])
    assert [each.subject for each in pictures] == ["photos/a.jpg"]
    with closing(Corrector(settings)) as corrector:
        made = corrector.send(pictures, "cat", True, "ann")
        assert corrector.pending(shown()) == [("cat", True, "")]
        eventually(lambda: part(made).version, 10)
        assert corrector.pending(shown()) == [("cat", True, "")], "its row does not show it"
        written(tables, photo("a.jpg", "cat").but(version=2, corrections={"added": ["cat"], "removed": []}))
        assert corrector.pending(shown()) == []
        made = corrector.send(pictures, "dog", False)
        eventually(lambda: part(made).failure == "no broker", 10)
        assert corrector.pending(shown()) == [("dog", False, "no broker")]
        assert corrector.pending(shown()) == [], "a failure is told once"
        with pytest.raises(Refused, match="no correction"):
            corrector.send(pictures, "", True)
        monkeypatch.setattr(correcting, "MOST_PENDING", 2)
        assert corrector.sending(corrector.send(pictures, "cow", True)), "ended ones make room"
        monkeypatch.setattr(correcting, "MOST_PENDING", 0)
        with pytest.raises(Refused, match="wait"):
            corrector.send(pictures, "cow", True)
        monkeypatch.setattr(correcting, "_REMEMBERED_S", 0.0)
        assert corrector.sending(made) is None
    said = sent[0]
    assert (len(sent), said["added"], said["sha256"], said["by"]) == (1, ["cat"], "b" * 64, "ann")
    assert {"TAGSTREAM_CORRECTIONS_TOPIC", "TAGSTREAM_INDEX_PAGE_TOKEN"} <= {*missing(settings)}
    assert "TAGSTREAM_INDEX_PAGE_TOKEN" not in missing(settings, by_token=False)


def test_the_command_serves_until_a_signal_and_leaves_nothing(
    postgresql: PostgreSQL, settings: IndexSettings, tables: Connection, tmp_path: Path
) -> None:
    written(tables, photo("a.jpg", "dog"))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {
        "TMPDIR": str(temporary),
        "TAGSTREAM_INDEX_DSN": postgresql.dsn,
        "TAGSTREAM_INDEX_SCHEMA": settings.index_schema,
        "TAGSTREAM_S3_ENDPOINT": "http://127.0.0.1:9",
        "TAGSTREAM_BUCKETS": "photos",
        "TAGSTREAM_INDEX_PAGE_TOKEN": TOKEN,
    }
    (editors := tmp_path / "editors").write_text("ann\n")
    proxied = ("--behind-proxy", "--name", "127.0.0.1", "--user-header", "X-Forwarded-User", "--editors", str(editors))
    process = PageProcess(tmp_path / "page", environment, proxied)
    process.start()
    try:
        asked = urllib.request.Request(f"{process.url}/?q=dog", headers={"X-Forwarded-User": "ann"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            text = answer.read().decode()
        assert "photos/a.jpg" in text
        assert ">ann</span>" in text
        process.stop()
        process.must_have_ended_well()
    finally:
        process.kill()
    assert list(temporary.iterdir()) == []
    said = (tmp_path / "page" / "search page.log").read_text()
    assert "TAGSTREAM_CORRECTIONS_TOPIC not set" in said
    assert TOKEN not in said


def test_an_unsafe_or_taken_address_is_a_sentence(
    tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "start_logging", lambda *_, **__: None)  # to a stream that ends with this test
    given = {"INDEX_DSN": "postgresql://a@127.0.0.1:9/b", "S3_ENDPOINT": "http://s3", "BUCKETS": "b"}
    (plan := tmp_path / "plan").write_text('{"schema":"tagstream-plan/1"}\n')
    Review.of("dog", 1, [drawn("a.jpg")]).write(review := tmp_path / "review")
    for words, says in (
        (["--host", "0.0.0.0"], "--behind-proxy"),
        (["--behind-proxy"], "--name"),
        (["--user-header", "X-Forwarded-User"], "--behind-proxy"),
        (["--editors", str(tmp_path / "editors")], "--user-header"),
        (["--changes", str(plan)], "no file of changes"),
        (["--review", str(plan)], "line 1"),
        (["--review", str(review)], "TAGSTREAM_INDEX_PAGE_TOKEN"),
    ):
        assert says in tagstream("index", "serve", *words, **given).fails()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "can't be bound" in tagstream("index", "serve", "--port", taken.getsockname()[1], **given).fails()
