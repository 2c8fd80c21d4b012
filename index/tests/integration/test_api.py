"""The addresses for programs on a real PostgreSQL: answers by their own document, errors, corrections, names."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from starlette.testclient import TestClient

from index.tests.support import enriched, photo, picture, retraction, vector_of, written
from schemas.enriched_image import EnrichedImage
from tagstream_index import Query, search
from tagstream_index.database import Connection
from tagstream_index.page import api, completing, pool
from tagstream_index.page.access import PROBLEM, Access, People
from tagstream_index.page.completing import Name, Names
from tagstream_index.page.correcting import Corrector, Crowded
from tagstream_index.page.one import Bundles
from tagstream_index.page.pictures import NoPicture, Pictures
from tagstream_index.page.pool import Pool
from tagstream_index.page.server import Site
from tagstream_index.settings import IndexSettings
from tests.support.waiting import eventually
from workers.errors import Unavailable

pytestmark = pytest.mark.servers

TOKEN = "correct horse battery"
BEARER = {"authorization": f"Bearer {TOKEN}"}
ODD = "2026/a?b%2Fc#d&e=ü.jpg"

Ask = Callable[..., "Client"]


class Client:
    """Checks each answer by the OpenAPI document."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.document = client.get("/api/openapi.json").json()

    def get(self, name: str, **parameters: Any) -> Any:
        return self.checked(name, "get", self.client.get(f"/api/{name}", params=parameters))

    def checked(self, name: str, method: str, answer: Any) -> Any:
        told = self.document["paths"][f"/api/{name}"][method]["responses"]
        content = told.get(str(answer.status_code), told["default"])["content"]
        kind = answer.headers["content-type"]
        assert kind in content, (answer.status_code, answer.text)
        if kind != "image/jpeg":
            schema = {**content[kind]["schema"], "components": self.document["components"]}
            jsonschema.Draft202012Validator(schema).validate(answer.json())
        return answer.json() if answer.is_success and kind != "image/jpeg" else answer


class Sent(Corrector):
    """Records the sent corrections."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bool, str]] = []
        self.full = False

    def send(self, pictures: object, name: str, present: bool, by: str = "") -> str:
        if self.full:
            raise Crowded("Many are on their way.")
        self.said.append((name, present, by))
        return ""

    def pending(self, picture: object) -> list[Any]:
        return []

    def close(self) -> None: ...


@pytest.fixture
def ask(settings: IndexSettings, tables: Connection) -> Iterator[Ask]:
    cleanup = ExitStack()

    def made(corrector: Corrector | None = None, *, to_read: bool = False, people: People | None = None) -> Client:
        access = Access(TOKEN, to_read=to_read, people=people)
        site = Site(Pool(settings), Pictures(settings, 1_000_000), Bundles(settings, None), access, corrector)
        cleanup.callback(site.close)
        client = TestClient(site.application(), headers=BEARER if to_read else {}, raise_server_exceptions=False)
        return Client(cleanup.enter_context(client))

    with cleanup:
        yield made


def test_a_search_gives_the_commands_documents_page_by_page(ask: Ask, tables: Connection) -> None:
    written(tables, *(photo(f"{day}.jpg", "dog", "cat" if day % 2 else "bus", day=day) for day in range(1, 10)))
    client = ask()
    first = client.get("search", q="tag:dog", limit=4, counts="true")
    second = client.get("search", q="tag:dog", limit=4, cursor=first["next"])
    third = client.get("search", q="tag:dog", limit=4, cursor=second["next"])
    back = client.get("search", q="tag:dog", limit=4, cursor=second["previous"])
    assert (first["previous"], third["next"], back["images"]) == (None, None, first["images"])
    shown = [each for page in (first, second, third) for each in page["images"]]
    told = [each.document() for each in search(Query(tags=["dog"]), tables)]
    assert [{name: each[name] for name in of} for each, of in zip(shown, told, strict=True)] == told
    assert (first["counts"]["total"], first["counts"]["tags"]) == (9, {"dog": 9, "cat": 5, "bus": 4})


def test_an_empty_answer_tells_what_finds_something(ask: Ask, tables: Connection) -> None:
    written(tables, photo("a.jpg", "dog"), photo("b.jpg", "cat"))
    client = ask()
    assert client.get("search", q="tag:dgo")["instead"] == ["tag:dog"]
    assert client.get("search", q="tag:dog tag:cat")["instead"] == ["tag:cat", "tag:dog"]
    assert client.get("search", q="dog cat")["instead"][0] == "dog or cat"
    assert client.get("search", q="tag:dog")["instead"] == []


def test_a_picture_has_the_facts_of_its_events_wherever_it_lies(
    ask: Ask, tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = enriched(ODD, vector=vector_of(1)).with_facts(phash="f" * 16, taken_at="2025-06-01T10:00:00-03:30")
    near = picture("near.jpg", 0xFFFF_FFFF_FFFF_FFFE)
    written(tables, odd, near, enriched("alike.jpg", vector=vector_of(1)))
    answer = ask().get("picture", subject=odd.subject)
    (outcome,) = answer["outcomes"]
    assert EnrichedImage.model_validate(outcome).image.taken_at == answer["image"]["taken_at"]
    assert [(each["key"], each["hash_distance"]) for each in answer["copies"] if "hash_distance" in each] == [
        ("near.jpg", 1)
    ]
    assert [each["key"] for each in answer["similar"]] == ["alike.jpg"]
    monkeypatch.setattr(api, "COPIES", 1)
    assert len(answer["copies"]) > len(ask().get("picture", subject=odd.subject)["copies"]) == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("search?q=a&colour=red", 400),
        ("search?q=a&q=b", 400),
        ("search?limit=0", 400),
        ("search?limit=1e1", 400),
        ("search?counts=1", 400),
        ("search?sort=best", 400),
        ("search?cursor=%3Ewhat", 400),
        ("search?q=score%3Eabc", 400),
        ("search?q=dog&by=meaning", 400),
        ("search?q=" + "a" * 9_000, 414),
        ("picture", 400),
        ("picture?subject=photos/none.jpg", 404),
        ("picture?subject=photos/gone.jpg", 410),
        ("picture?subject=%00", 400),
        ("thumbnail?subject=photos/none.jpg", 404),
        ("nowhere", 404),
        ("corrections", 405),
    ],
)
def test_an_error_is_a_problem(ask: Ask, tables: Connection, path: str, status: int) -> None:
    written(tables, enriched("gone.jpg"), retraction("gone.jpg", 2))
    answer = ask().client.get(f"/api/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    assert answer.json()["status"] == status
    assert len(answer.json()["detail"]) > 10


def test_a_thumbnail_is_a_jpeg_or_says_why_not(ask: Ask, tables: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tables, enriched(ODD))
    client, subject = ask(), f"photos/{ODD}"
    monkeypatch.setattr(Pictures, "make", lambda *_: b"\xff\xd8")
    assert client.get("thumbnail", subject=subject, size="view").content == b"\xff\xd8"

    def fails(*_: object) -> bytes:
        raise NoPicture("the object store does not answer", HTTPStatus.SERVICE_UNAVAILABLE)

    monkeypatch.setattr(Pictures, "make", fails)
    answer = client.get("thumbnail", subject=subject)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_who_finds_no_turn_is_told_when_to_come_again(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    client = ask()
    monkeypatch.setattr(pool, "AT_ONCE", 0)
    monkeypatch.setattr(pool, "WAITING", 0)
    answer = client.get("search")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert client.get("tags").keys() == {"tags"}


def test_a_failure_tells_programs_no_more_than_people(
    ask: Ask, tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tables, enriched("a.jpg"))
    client = ask()
    monkeypatch.setattr(api, "similar", None)
    assert client.get("picture", subject="photos/a.jpg").status_code == 500

    def away(*_: object) -> None:
        raise Unavailable("postgresql", "db.internal refuses connections")

    monkeypatch.setattr(Pool, "searching", away)
    answer = client.get("search")
    assert (answer.status_code, answer.headers["retry-after"], "internal" in answer.text) == (503, "5", False)


def test_without_the_token_nothing_is_told(ask: Ask, tables: Connection) -> None:
    written(tables, enriched("a.jpg", tags=[("secret", 0.9)]))
    client = ask(Sent(), to_read=True).client
    secret = {"name": "secret", "count": 1}
    eventually(lambda: client.get("/api/tags?prefix=secret").json()["tags"] == [secret])
    client.headers["authorization"] = ""
    for path in ("search", "picture?subject=photos/a.jpg", "tags", "openapi.json"):
        answer = client.get(f"/api/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (401, PROBLEM), path
    assert "secret" not in client.get("/login").text


def test_a_correction_is_of_the_content_that_a_person_saw(ask: Ask, tables: Connection) -> None:
    written(tables, enriched(ODD), enriched("gone.jpg"), retraction("gone.jpg", 2))
    sent = Sent()
    client = ask(sent)
    wish = {"subject": f"photos/{ODD}", "sha256": "b" * 64, "added": ["zebra"], "removed": ["dog"]}

    def status(authorization: str = BEARER["authorization"], **others: Any) -> int:
        headers = {"authorization": authorization, **others.pop("headers", {})}
        answer = client.client.post("/api/corrections", json=wish | others, headers=headers)
        client.checked("corrections", "post", answer)
        return answer.status_code

    assert status() == 202
    assert sent.said == [("dog", False, ""), ("zebra", True, "")]
    assert status("") == 401
    assert status(headers={"sec-fetch-site": "cross-site"}) == 403
    assert status(headers={"content-type": "text/plain"}) == 415
    assert status(sha256="c" * 64) == 409
    assert status(subject="photos/none.jpg") == 404
    assert status(subject="photos/gone.jpg") == 410
    assert status(added=[], removed=[]) == 400
    assert status(added=["dog"]) == 400
    assert status(added=[" a\n"]) == 400
    assert status(colour="red") == 400
    assert status(added=["a" * 100] * 700) == 413
    sent.full = True
    assert status() == 429
    assert len(sent.said) == 2
    sent.full = False
    client.client.post("/login", data={"token": TOKEN})
    assert status("") == 202


def test_an_editor_of_the_proxy_corrects_under_their_name(ask: Ask, tables: Connection, tmp_path: Path) -> None:
    written(tables, enriched("a.jpg"))
    (editors := tmp_path / "editors").write_text("ann\n")
    sent = Sent()
    client = ask(sent, people=People("X-Forwarded-User", editors)).client
    wish = {"subject": "photos/a.jpg", "sha256": "b" * 64, "added": ["zebra"]}
    for person, status in {"eve": 403, "": 401, "ann": 202}.items():
        answer = client.post("/api/corrections", json=wish, headers={"x-forwarded-user": person})
        assert answer.status_code == status, person
    assert sent.said == [("zebra", True, "ann")]


class Listed:
    """Bundles with these labels and wider names."""

    def __init__(self, labels: Sequence[str] = (), wider: Sequence[str] = ()) -> None:
        self._names = dict.fromkeys(labels), dict.fromkeys(wider)

    def names(self) -> tuple[dict[str, None], dict[str, None]]:
        return self._names


@pytest.fixture
def names(settings: IndexSettings, tables: Connection) -> Iterator[Callable[..., Names]]:
    with ExitStack() as cleanup:

        def counted(*labels: str, wider: Sequence[str] = ()) -> Names:
            pool = Pool(settings)
            cleanup.callback(pool.close)
            made = Names(pool, Listed(labels, wider))  # type: ignore[arg-type]
            cleanup.callback(made.close)
            made.begun("", 1)
            eventually(lambda: any(each.count for each in made.begun("", 1)))
            return made

        yield counted


def test_names_begin_with_the_text_or_have_a_word_that_does(names: Callable[..., Names], tables: Connection) -> None:
    written(tables, *(photo(f"{n}.jpg", "Fire truck", "tree", *(["truck"] if n else [])) for n in range(3)))
    tables.execute("insert into wider values ('transport', '{}', false), ('truck', '{transport}', true)")
    known = names("tree", "tricycle", "tow truck", wider=("trees", "animal"))
    assert known.begun("TR", 5) == [
        Name("tree", 3), Name("truck", 2), Name("tricycle", 0), Name("transport", None), Name("trees", None),
    ]  # fmt: skip
    assert [each.name for each in known.begun("truck", 9)] == ["truck", "Fire truck", "tow truck"]
    assert [each.name for each in known.begun("fire tr", 9)] == ["Fire truck"]
    assert known.begun("ruck", 9) == []
    assert known.spellings("fire trucks") == ["Fire truck"]
    assert known.spellings("TREES") == ["trees", "tree"]
    assert known.spellings("tricycel") == ["tricycle"]
    assert known.spellings("Fire-Truck") == ["Fire truck"]


def test_hostile_names_take_bounded_memory(
    names: Callable[..., Names], tables: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completing, "_COUNTS", completing._COUNTS.replace(f"limit {completing.MOST}", "limit 2"))
    tags = [("a" * 200, 0.9), ("\u202ea", 0.9), ("dog", 0.9), ("dogs", 0.5), ("doge", 0.5)]
    written(tables, enriched("a.jpg", tags=tags), enriched("b.jpg", tags=tags[:3]))
    known = names("\ufdfa" * 100)
    assert [each.name for each in known.begun("", 9)] == ["dog", "\ufdfa" * 100]
    assert sum(len(key) for key, _ in known._known) < 300, "NFKC makes 1,800 characters of them"


def test_counts_are_read_again_once_they_are_old(names: Callable[..., Names], tables: Connection) -> None:
    written(tables, photo("a.jpg", "dog"))
    known = names()
    written(tables, photo("b.jpg", "dog"))
    known._count_at = 0.0
    eventually(lambda: known.begun("d", 1) == [Name("dog", 2)])


def test_a_new_tag_is_asked_once_and_known_spellings_are_offered(ask: Ask, tables: Connection) -> None:
    written(tables, photo("a.jpg", "lamp"), photo("b.jpg", "zebra"))
    sent = Sent()
    client = ask(sent).client
    client.post("/login", data={"token": TOKEN})
    eventually(lambda: client.get("/api/tags", params={"prefix": "zebra"}).json()["tags"])

    def add(name: str, **others: str) -> str:
        (key, *_) = re.findall('name="key" value="([^"]+)"', client.get("/picture?of=photos/a.jpg").text)
        form = {"key": key, "add": name, **others}
        return client.post("/correct?of=photos/a.jpg&q=lamp", data=form).text

    assert 'id="new"' not in add("zebra")
    asked = add("Zebras")
    assert sent.said == [("zebra", True, "")]
    assert re.findall('<button class="button" name="add" value="([^"]+)"', asked) == ["zebra", "Zebras"]
    assert 'id="new"' not in add("Zebras", sure="1")
    assert sent.said[1:] == [("Zebras", True, "")]
