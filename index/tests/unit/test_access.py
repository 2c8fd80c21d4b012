"""Who may read and correct: people of a proxy, bearer tokens, forms."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from tagstream_index.page.access import Access, Guard, People, Person, people_of
from workers.errors import Misconfigured

TOKEN = "correct horse battery"
HEADER = "X-Forwarded-User"


def asking(*lines: bytes, path: str = "/", header: str = HEADER) -> Request:
    headers = [(header.lower().encode(), line) for line in lines]
    return Request({"type": "http", "path": path, "headers": headers, "method": "GET"})


@pytest.fixture
def editors(tmp_path: Path) -> Path:
    path = tmp_path / "editors"
    path.write_text("# who may correct\n\nann\n  Jürgen Groß \n", "utf-8")
    return path


def access_of(editors: Path | None, token: str = "") -> Access:
    return Access(token, to_read=False, people=People(HEADER, editors))


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ([b"ann"], "ann"),
        (["Jürgen Groß".encode()], "Jürgen Groß"),
        ([b"Ann"], "Ann"),
        (["аnn \uff41nn".encode()], "аnn \uff41nn"),
        ([b"# who may correct"], "# who may correct"),
        ([b"ann", b"ann"], ""),
        ([b"ann, bob"], "ann, bob"),
        ([b"ann\x1b[2J"], ""),
        (["ann\u202e".encode()], ""),
        (["an\u200bn".encode()], ""),
        (["ann\u2028bob".encode()], ""),
        ([b"\xff\xfe"], ""),
        ([b"a" * 257], ""),
        ([b"a" * 10_000], ""),
        ([], ""),
    ],
)
def test_a_name_is_one_line_that_hides_nothing(editors: Path, lines: Sequence[bytes], name: str) -> None:
    access = access_of(editors)
    person = access.person(asking(*lines))
    assert person == (Person(name, name in ("ann", "Jürgen Groß")) if name else None)
    assert access.may_correct(asking(*lines)) == bool(person and person.editor)


def test_only_the_header_that_was_named_counts_and_only_behind_a_proxy(editors: Path) -> None:
    assert Access(TOKEN, to_read=False).person(asking(b"ann")) is None
    assert access_of(editors).person(asking(b"ann", header="X_Forwarded_User")) is None
    assert access_of(None).person(asking(b"ann")) == Person("ann", editor=False)
    with pytest.raises(Misconfigured, match="--behind-proxy"):
        people_of(HEADER, None, behind_proxy=False)
    with pytest.raises(Misconfigured, match="--user-header"):
        people_of(None, editors, behind_proxy=True)
    with pytest.raises(Misconfigured, match="such as X-Forwarded-User"):
        people_of("a user", None, behind_proxy=True)
    with pytest.raises(Misconfigured, match="No such file"):
        people_of(HEADER, editors.with_name("other"), behind_proxy=True)
    assert people_of(None, None, behind_proxy=True) is None


def test_the_file_of_editors_is_read_again(editors: Path) -> None:
    access = access_of(editors)
    key = access.form_key(asking(b"ann"))
    assert access.may_send(asking(b"ann"), key)
    editors.write_text("bob\n")
    assert not access.may_correct(asking(b"ann"))
    assert not access.may_send(asking(b"ann"), key)
    assert access.may_correct(asking(b"bob"))
    editors.unlink()
    assert access.may_correct(asking(b"bob")), "as with secrets, the last content holds"


def test_a_form_is_of_one_person_and_of_one_secret(editors: Path) -> None:
    editors.write_text("ann\nbob\n")
    access, other = access_of(editors), access_of(editors)
    key = access.form_key(asking(b"ann"))
    assert len(key) == 64
    assert access.form_key(asking(b"eve")) == access.form_key(asking()) == ""
    for request, sent in ((b"bob", key), (b"eve", key), (b"ann", ""), (b"ann", other.form_key(asking(b"ann")))):
        assert not access.may_send(asking(request), sent)
    assert not access.may_send(asking(), "")
    again, same = access_of(editors, TOKEN), access_of(editors, TOKEN)
    assert again.may_send(asking(b"ann"), same.form_key(asking(b"ann"))), "replicas with one token share their forms"


def guarded(access: Access) -> TestClient:
    async def app(scope, receive, send):  # type: ignore[no-untyped-def]  # a stand-in
        said = str(access.may_send(Request(scope), ""))
        await PlainTextResponse(said)(scope, receive, send)

    return TestClient(Guard(app, access, ()), follow_redirects=False)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_programs_send_the_token_and_are_refused_with_a_problem() -> None:
    client = guarded(Access(TOKEN, to_read=True))
    assert client.get("/api/search", headers=bearer(TOKEN)).text == "True"
    for headers in ({}, {"authorization": f"Basic {TOKEN}"}, bearer("wrong"), bearer("")):
        answer = client.get("/api/search", headers=headers)
        told = (answer.status_code, answer.headers["content-type"], answer.headers["www-authenticate"])
        assert told == (401, "application/problem+json", "Bearer")
        assert answer.json()["status"] == 401
    twice = [("authorization", f"Bearer {TOKEN}")] * 2
    assert client.get("/api/search", headers=twice).status_code == 401
    assert client.get("/", headers=bearer(TOKEN)).headers["location"] == "/login"
    assert client.get(f"/api/?{'a' * 9_000}").json()["status"] == 414
    assert client.post("/api/corrections", headers=bearer(TOKEN), json={}).text == "True"
    assert client.post("/api/corrections", headers=bearer(TOKEN), data={"a": "b"}).status_code == 415


def test_a_wrong_token_is_an_error_where_none_is_needed_and_a_proxys_own_is_not(editors: Path) -> None:
    client = guarded(Access(TOKEN, to_read=False))
    assert client.get("/api/search").text == "False"
    assert client.get("/api/search", headers=bearer("wrong")).status_code == 401
    behind = guarded(access_of(editors, TOKEN))
    assert behind.get("/api/search", headers=bearer("of the proxy") | {HEADER: "ann"}).text == "False"
    assert behind.get("/api/search", headers=bearer(TOKEN) | {HEADER: "eve"}).text == "True"
    assert behind.get("/api/search", headers=bearer("wrong")).status_code == 401


def test_wrong_tokens_wait_together() -> None:
    guard = Guard(PlainTextResponse(), Access(TOKEN, to_read=True), ())
    scope = {"type": "http", "path": "/api/search", "raw_path": b"", "query_string": b"", "method": "GET"}
    scope |= {"headers": [(b"authorization", b"Bearer wrong")]}
    statuses: list[int] = []

    async def send(message):  # type: ignore[no-untyped-def]  # a stand-in
        statuses.extend([message["status"]] if "status" in message else [])

    async def ask() -> None:
        await asyncio.gather(*(guard(dict(scope), None, send) for _ in range(100)))  # type: ignore[arg-type]  # unread

    started = time.monotonic()
    asyncio.run(ask())
    assert 0.4 < time.monotonic() - started < 10
    assert statuses == [401] * 100
