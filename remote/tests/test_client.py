"""One question to a service, which answers in each known way."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from tagstream_remote.answers import LONGEST_PAUSE_S, Away, Misplaced, fault_of
from tagstream_remote.caption_file import CaptionFile
from tagstream_remote.client import MAX_TOKENS, Endpoint

from remote.tests.stub import (
    ANSWER_TOKENS,
    MODEL,
    ORDERS,
    PICTURE_TOKENS,
    TEXT_TOKENS,
    Behaviour,
    StubService,
    answer,
    caption_of,
    content_of,
    limited,
    refuse,
    refusing,
    said,
)
from tagstream_testing.local.ports import free_ports
from tests.support.logs import restored
from tests.support.worker_process import photo
from workers.errors import TagstreamError, Unanswered
from workers.service.logs import start_logging
from workers.types import RemoteAnswer, TokenUsage

KEY = "sk-secret"
FIELDS = {"mood": {"type": "enum", "values": ["calm", "wild"]}, "dogs": {"type": "number"}, "place": {"type": "string"}}
JPEG = photo(51)
SEEN = TokenUsage(TEXT_TOKENS + PICTURE_TOKENS, ANSWER_TOKENS)
FREE = TokenUsage(0, 0)

Costs = list[TokenUsage | None]


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService(key=KEY) as service:
        yield service


@pytest.fixture
def endpoint(stub: StubService) -> Endpoint:
    return Endpoint(stub.address, MODEL, lambda: KEY, CaptionFile())


def call(
    endpoint: Endpoint, jpeg: bytes | None = JPEG, costs: Costs | None = None, seconds: float = 20
) -> RemoteAnswer:
    spent = ([] if costs is None else costs).append
    return endpoint.call(jpeg, ORDERS, time.monotonic() + seconds, lambda _: spent)


def word(error: TagstreamError) -> str:
    return error.reason if isinstance(error, Unanswered) else type(error).__name__


FORMS = ["ok", "plain", "fence", "think", "unfinished", "whitespace-after", "revision", "tag", "dated", "no-usage"]
REFUSED = ["null", "empty", "refusal", "filtered", "tools", "no-choices", "half", "think-open", "unfinished-plain"]
CUT = ["length", "length-plain", "think-cut", "reasoning"]
WRONG = ["401", "402", "403", "404", "400-model", "429-money", "429-spent", "redirect", "other-model"]
OUTAGES = [
    "408",
    "429-odd",
    "500",
    "502",
    "503",
    "503-busy",
    "504",
    "reset",
    "error-in-200",
    "not-json",
    "deep",
    "gzip",
]
ENDS = {
    "Misplaced 1": WRONG,
    "Away 1": OUTAGES,
    "caption-refused 1": [*REFUSED, "long", "400-filter", "403-filter", "huge"],
    "caption-refused 2": [*CUT, "whitespace"],
    "caption-failed 1": ["400", "422", "400-in-200", "400-of-image"],
    "caption-failed 2": ["413", "context"],
}


@pytest.mark.parametrize(("end", "behaviour"), [(end, each) for end, some in ENDS.items() for each in some])
def test_where_no_caption_comes_it_is_known_whose_fault_that_is(
    stub: StubService, endpoint: Endpoint, end: str, behaviour: str
) -> None:
    stub.always(behaviour)
    with pytest.raises((Away, Misplaced, Unanswered)) as caught:
        call(endpoint)
    assert f"{word(caught.value)} {len(stub.asked)}" == end
    assert str(caught.value).isprintable()
    assert KEY not in str(caught.value)
    assert getattr(caught.value, "retry_after_s", None) is None


@pytest.mark.parametrize("behaviour", FORMS)
def test_a_caption_is_found_in_each_form(stub: StubService, endpoint: Endpoint, behaviour: str) -> None:
    stub.always(behaviour)
    assert call(endpoint).caption.text == caption_of(JPEG)
    assert len(stub.asked) == 1


def test_an_answer_says_its_model_and_tokens_and_whether_a_picture_counts(
    stub: StubService, endpoint: Endpoint
) -> None:
    costs: Costs = []
    stub.script("revision", "ok", "no-usage", "drops-images")
    one, blind, unknown, dropped = (call(endpoint, jpeg, costs).caption for jpeg in (JPEG, None, JPEG, JPEG))
    assert (one.method, one.model, one.usage, one.score) == ("remote", f"{MODEL}@main", SEEN, None)
    assert unknown.usage is None
    assert blind.usage == dropped.usage == TokenUsage(TEXT_TOKENS, ANSWER_TOKENS)
    assert costs == [SEEN, blind.usage, None, blind.usage]


@pytest.mark.parametrize("behaviour", [*CUT, "whitespace"])
def test_a_cut_answer_is_asked_for_once_more_with_twice_the_tokens_or_without_a_schema(
    stub: StubService, endpoint: Endpoint, behaviour: str
) -> None:
    costs: Costs = []
    stub.script(behaviour)
    for _ in range(2):
        assert call(endpoint, costs=costs).caption.text == caption_of(JPEG)
    again = (MAX_TOKENS, False) if behaviour == "whitespace" else (2 * MAX_TOKENS, True)
    sent = [(asked.limit, "response_format" in asked.body) for asked in stub.asked]
    assert sent == [(MAX_TOKENS, True), again, (MAX_TOKENS, True)]
    assert [cost and cost.completion for cost in costs] == [MAX_TOKENS, ANSWER_TOKENS, ANSWER_TOKENS]


@pytest.mark.parametrize("status", [400, 500, 200])
def test_an_image_without_room_is_sent_once_more_with_half_the_side(
    stub: StubService, endpoint: Endpoint, status: int
) -> None:
    stub.always(limited(len(JPEG) - 1, status))
    call(endpoint)
    (width, height), half = (Image.open(io.BytesIO(asked.jpeg or b"")).size for asked in stub.asked)
    assert half == ((width + 1) // 2, (height + 1) // 2)
    assert isinstance(fault_of(413, {}, {}, MODEL, ()), Unanswered)  # there is no image to send again


@pytest.mark.parametrize(
    ("behaviour", "least", "most"), [("429", 7, 7), ("429-date", 25, 30), ("429-far", LONGEST_PAUSE_S, LONGEST_PAUSE_S)]
)
def test_a_pause_is_of_seconds_or_a_date_and_bounded(
    stub: StubService, endpoint: Endpoint, behaviour: str, least: float, most: float
) -> None:
    stub.always(behaviour)
    with pytest.raises(Away) as error:
        call(endpoint)
    assert least <= (error.value.retry_after_s or 0) <= most


@pytest.mark.parametrize("behaviour", ["hang", "drip", "drip-headers"])
def test_a_call_ends_at_its_deadline(stub: StubService, endpoint: Endpoint, behaviour: str) -> None:
    costs: Costs = []
    stub.always(behaviour)
    began = time.monotonic()
    with pytest.raises(Away) as error:
        call(endpoint, costs=costs, seconds=1)
    assert 0.9 < time.monotonic() - began < 4
    assert (error.value.fault, costs) == ("too-slow", [None])


@pytest.mark.parametrize(
    ("behaviour", "cost"), [("500", FREE), ("408", None), ("504", None), ("absent", FREE), ("without TLS", FREE)]
)
def test_an_error_is_free_unless_the_service_may_have_worked(
    stub: StubService, behaviour: str, cost: TokenUsage | None
) -> None:
    """Guard: while a service is away, each try would take thousands of tokens from the day's."""
    costs: Costs = []
    address = {
        "absent": f"http://127.0.0.1:{free_ports(1)[0]}/v1",
        "without TLS": stub.address.replace("http:", "https:"),
    }.get(behaviour)
    if address is None:
        stub.script(behaviour)
    with pytest.raises(Away):
        call(Endpoint(address or stub.address, MODEL, lambda: KEY, CaptionFile()), costs=costs)
    assert costs == [cost]


def test_a_caption_is_one_line_of_data(stub: StubService, endpoint: Endpoint) -> None:
    stub.script("control", "markup")
    assert [call(endpoint).caption.text for _ in range(2)] == ["a[31m red dog on a mat", ORDERS]
    system, user = stub.asked[-1].body["messages"]
    assert (system["role"], user["role"], ORDERS in str(system), ORDERS in str(user)) == ("system", "user", False, True)


@pytest.mark.parametrize(
    ("behaviour", "place"),
    [
        ("ok", "some place"),
        (answer(lambda asked: content_of(asked).replace("some place", "a\\u001b\\n b")), "a b"),
        (answer(lambda asked: content_of(asked).replace("calm", "mad")), None),
        (said(json.dumps({"caption": "a dog"})), None),
        ("plain", None),
    ],
)
def test_fields_are_of_the_schema_or_none(stub: StubService, behaviour: str | Behaviour, place: str | None) -> None:
    endpoint = Endpoint(stub.address, MODEL, lambda: KEY, CaptionFile.model_validate({"fields": FIELDS}))
    stub.always(behaviour)
    if place is None:
        with pytest.raises(Unanswered, match="caption-refused"):
            call(endpoint)
    else:
        assert call(endpoint).fields == {"mood": "calm", "dogs": 1, "place": place}


def test_a_field_that_a_service_does_not_take_is_left_out_from_then_on(stub: StubService, endpoint: Endpoint) -> None:
    stub.always(refusing("reasoning_effort", "seed", "max_tokens"))
    for _ in range(2):
        call(endpoint)
    assert ["seed" in asked.body for asked in stub.asked] == [True, True, False, False, False]
    assert stub.asked[-1].body["max_completion_tokens"] == MAX_TOKENS


def test_a_key_is_read_before_each_request_and_never_shown(stub: StubService) -> None:
    keys = ["old", KEY, f"{KEY}\nx"]
    endpoint = Endpoint(stub.address, MODEL, lambda: keys.pop(0), CaptionFile())
    with pytest.raises(Misplaced, match="401"):
        call(endpoint)
    call(endpoint)
    with pytest.raises(Misplaced) as error:
        call(endpoint)
    assert KEY not in str(error.value)


def test_a_word_in_place_of_a_key_hides_nothing_of_an_error() -> None:
    with StubService(key="e") as stub:
        stub.always("400")
        with pytest.raises(Unanswered, match="cannot identify image file"):
            call(Endpoint(stub.address, MODEL, lambda: "e", CaptionFile()))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_proxy_is_used_for_other_machines_alone(
    stub: StubService, endpoint: Endpoint, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    if elsewhere:
        monkeypatch.setenv("HTTP_PROXY", stub.address.removesuffix("/v1"))
        with pytest.raises(Misplaced, match="404"):  # of the stub, which is no proxy
            call(Endpoint("http://captions.invalid/v1", MODEL, lambda: KEY, CaptionFile()))
    else:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_ports(1)[0]}")
        call(Endpoint(stub.address, MODEL, lambda: KEY, CaptionFile()))


def test_a_request_writes_no_line_at_info(stub: StubService, endpoint: Endpoint) -> None:
    out = io.StringIO()
    with restored():
        start_logging("info", "text", stream=out)
        call(endpoint)
    assert out.getvalue() == ""


@pytest.mark.parametrize("code", ["400-odd", "400.5", 10**30, ["400"], None])
def test_an_error_may_have_any_code(stub: StubService, endpoint: Endpoint, code: Any) -> None:
    stub.always(refuse(200, {"message": "broken", "code": code}))
    with pytest.raises((Away, Unanswered), match="broken"):
        call(endpoint)
