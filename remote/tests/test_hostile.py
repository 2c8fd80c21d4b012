"""A service that is hostile: calls stay bounded in time and memory, and what it says is data."""

from __future__ import annotations

import gzip
import json
import socket
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from tagstream_remote.answers import Misplaced
from tagstream_remote.caption_file import CaptionField, CaptionFile
from tagstream_remote.client import Endpoint

from tests.support.loopback import loopback
from tests.support.worker_process import photo
from workers.errors import TagstreamError, Unanswered, Unavailable
from workers.pipeline.answers import result_in
from workers.pipeline.cache_entries import pack_caption, unpack_caption
from workers.types import RemoteAnswer

KEY = "MARKED-key"
CALL_S = 1.0
BOUNDED_S = 10.0
BOUNDED_BYTES = 16 << 20
FIELDS = {"people": CaptionField(type="number"), "place": CaptionField(type="string")}
FILE = CaptionFile(side=64, fields=FIELDS)

JPEG = photo(520_000)

Speak = Callable[[socket.socket, bytes], None]


def call(speak: Speak) -> RemoteAnswer:
    with loopback(speak) as server:
        return endpoint_of(server.port).call(JPEG, "What is it?", time.monotonic() + CALL_S)


def endpoint_of(port: int) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{port}/v1", "vlm", lambda: KEY, FILE)


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def says(body: bytes, *headers: str, status: str = "200 OK") -> Speak:
    return lambda connection, chunk: connection.sendall(http(body, *headers, status=status))


def completion(content: Any, **more: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"model": "vlm", "choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 5}, **more}


def caption(text: str = "a dog", **fields: Any) -> str:
    return json.dumps({"caption": text, "people": 2, "place": "a park", **fields})


def repeat(head: bytes, piece: bytes, every_s: float) -> Speak:
    def speak(connection: socket.socket, chunk: bytes) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(every_s)

    return speak


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "a drip within a header": repeat(HEAD + b"X-More: ", b"1", 0.05),
    "whitespace in chunks": repeat(CHUNKED, b"5\r\n     \r\n", 0.05),
    "interim answers": repeat(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "early hints": repeat(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 0.01),
}


@pytest.mark.slow
@pytest.mark.parametrize("speak", ENDLESS.values(), ids=ENDLESS)
def test_a_call_ends_at_its_deadline_however_the_answer_drips(speak: Speak) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable):
        call(speak)
    assert time.monotonic() - began < BOUNDED_S


def piled(head: bytes, piece: bytes, tail: bytes = b"") -> Speak:
    """Sends a piece 200 times, as fast as it is taken."""

    def speak(connection: socket.socket, chunk: bytes) -> None:
        for part in (head, *[piece] * 200, tail):
            connection.sendall(part)

    return speak


MEGABYTE = b"x" * (1 << 20)
LENGTH = HEAD + b"Content-Length: %d\r\n\r\n"
BOMBS: dict[str, Callable[[], Speak]] = {
    "gzip": lambda: says(gzip.compress(bytes(100 << 20), 9), "Content-Encoding: gzip"),
    "chunks": lambda: piled(CHUNKED, b"100000\r\n" + MEGABYTE + b"\r\n"),
    "100 MB": lambda: piled(LENGTH % (100 << 20), MEGABYTE),
    "headers": lambda: piled(HEAD, b"X: " + b"y" * 60_000 + b"\r\n"),
    "nested": lambda: says(b'{"choices":' + b"[" * 500_000),
    "a number": lambda: says(b'{"usage":{"prompt_tokens":' + b"9" * 500_000 + b"}}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_an_answer_takes_little_memory_however_large_it_is(bomb: Callable[[], Speak]) -> None:
    speak = bomb()
    tracemalloc.start()
    try:
        with pytest.raises((Unanswered, Unavailable)):
            call(speak)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BOUNDED_BYTES, f"{peak >> 20} MiB"


STRANGE: dict[str, Any] = {
    "no object": [],
    "choices of another kind": {"choices": {"0": "x"}},
    "a null choice": {"choices": [None]},
    "no message": {"choices": [{"finish_reason": "stop"}]},
    "content in parts": completion([{"type": "text", "text": caption()}]),
    "a number as content": completion(7),
    "a lone surrogate": completion('{"caption": "\\ud800", "people": 1, "place": "x"}'),
    "controls": completion(caption("a\u0000b\u001b[2J\u202ec\u0085d\ufeff", place="\u0000\n")),
    "markup": completion(caption("<script>alert(1)</script>{{7*7}}${HOME}")),
    "a long field": completion(caption(place="x" * 500_000)),
    "not a number": completion('{"caption": "a", "people": NaN, "place": "x"}'),
    "too large a number": completion('{"caption": "a", "people": 1e999, "place": "x"}'),
    "many digits": completion('{"caption": "a", "people": ' + "9" * 400 + ', "place": "x"}'),
    "a field too many": completion(caption(other="x", __class__="y")),
    "caption of another kind": completion('{"caption": {"a": 1}, "people": 1, "place": "x"}'),
    "another model": completion(caption(), model="x\u0000\n" * 50_000),
    "a model that is no text": completion(caption(), model={"a": 1}),
    "negative usage": completion(caption(), usage={"prompt_tokens": -5, "completion_tokens": -(10**30)}),
    "endless usage": completion(caption(), usage={"prompt_tokens": 10**30, "completion_tokens": True}),
    "usage of another kind": completion(caption(), usage="free"),
    "usage in fractions": completion(caption(), usage={"prompt_tokens": 1.5, "completion_tokens": None}),
    "a strange finish": {"choices": [{"message": {"content": caption()}, "finish_reason": []}]},
    "thoughts without an end": completion("<think>" * 1000 + caption()),
    "fences in fences": completion("```" * 1000 + caption()),
}


@pytest.mark.parametrize("document", STRANGE.values(), ids=STRANGE)
def test_an_answer_is_refused_or_can_be_published_and_cached(document: Any) -> None:
    try:
        answer = call(says(json.dumps(document).encode()))
    except (Unanswered, Unavailable, Misplaced) as error:
        assert_one_line(str(error))
        return
    kept = answer.caption
    assert unpack_caption(pack_caption(kept)) == replace(kept, usage=None)
    orjson.dumps([kept.text, kept.model, *(kept.usage or ()), dict(answer.fields or {})])
    assert len(kept.text) <= 10_000
    assert kept.model is None or (kept.model.isprintable() and len(kept.model) < 300)
    assert kept.usage is None or all(0 <= each < 2**31 for each in kept.usage)


def assert_one_line(text: str) -> None:
    assert text.isprintable(), text
    assert len(text) < 600, text


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 503])
def test_an_error_is_one_line_without_the_key(status: int) -> None:
    words = f"\u001b[31m{KEY}\n\n<b>{'no ' * 5_000}"
    body = json.dumps({"error": {"message": words, "code": words, "type": [words]}}).encode()
    with pytest.raises(TagstreamError) as caught:
        call(says(body, "Retry-After: 1", status=f"{status} No"))
    assert_one_line(str(caught.value))
    assert KEY not in str(caught.value)


WAITS = ["-1", "1e308", "nan", "inf", "9" * 400, "٣", "soon", ""]
DATES = ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT"]


@pytest.mark.parametrize("said", WAITS + DATES)
def test_a_strange_time_to_wait_is_bounded(said: str) -> None:
    with pytest.raises(Unavailable) as caught:
        call(lambda connection, chunk: connection.sendall(http(b"{}", f"Retry-After: {said}", status="429 Wait")))
    wait_s = getattr(caught.value, "retry_after_s", None)
    assert wait_s is None or 0 <= wait_s <= 3600


def test_no_redirect_is_followed_and_no_cookie_is_kept() -> None:
    with loopback(says(orjson.dumps(completion(caption())))) as elsewhere:
        moved = f"Location: http://127.0.0.1:{elsewhere.port}/v1/chat/completions"
        with loopback(says(b"{}", moved, "Set-Cookie: a=b", status="307 Moved")) as server:
            endpoint = endpoint_of(server.port)
            for _ in range(2):
                with pytest.raises(TagstreamError):
                    endpoint.call(JPEG, "What is it?", time.monotonic() + CALL_S)
        assert elsewhere.accepted == 0
    assert b"cookie:" not in b"".join(server.received).lower()


def test_fields_of_the_cache_are_bounded_and_cleaned_as_those_of_an_answer() -> None:
    poisoned = {"people": 2, "place": "a\x1b[31m\n park\u202e"}
    assert result_in(FILE.model(), orjson.dumps(poisoned)) == {"people": 2, "place": "a[31m park"}
    assert result_in(FILE.model(), orjson.dumps(poisoned | {"place": "x" * 1_001})) is None
