"""One question to a service, which answers in each known way."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator

import numpy as np
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
    Asked,
    Behaviour,
    StubService,
    answer,
    caption_of,
    content_of,
    limited,
    refuse,
    refusing,
)
from tagstream_testing.local.ports import free_ports
from tests.support.logs import restored
from workers.errors import Unanswered
from workers.service.logs import start_logging
from workers.types import TokenUsage

KEY = "sk-secret"
FIELDS = {"mood": {"type": "enum", "values": ["calm", "wild"]}, "dogs": {"type": "number"}, "place": {"type": "string"}}


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService(key=KEY) as service:
        yield service


@pytest.fixture
def endpoint(stub: StubService) -> Endpoint:
    return Endpoint(stub.address, MODEL, lambda: KEY, CaptionFile())


def soon(seconds: float = 20) -> float:
    return time.monotonic() + seconds


def picture(seed: int = 51) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


JPEG = picture()


@pytest.mark.parametrize(
    "behaviour",
    ["ok", "plain", "fence", "think", "unfinished", "whitespace-after", "revision", "tag", "dated", "no-usage"],
)
def test_a_caption_is_found_in_each_form(stub: StubService, endpoint: Endpoint, behaviour: str) -> None:
    stub.always(behaviour)
    assert endpoint.call(JPEG, "What is it?", soon()).caption.text == caption_of(JPEG)
    assert len(stub.asked) == 1


def test_an_answer_says_its_model_and_tokens(stub: StubService, endpoint: Endpoint) -> None:
    costs: list[TokenUsage | None] = []
    stub.script("revision", "no-usage")
    caption = endpoint.call(JPEG, "", soon(), costs.append).caption
    usage = TokenUsage(TEXT_TOKENS + PICTURE_TOKENS, ANSWER_TOKENS)
    assert (caption.method, caption.model, caption.usage, caption.score) == ("remote", f"{MODEL}@main", usage, None)
    assert endpoint.call(JPEG, "", soon(), costs.append).caption.usage is None
    assert costs == [usage, None]


@pytest.mark.parametrize(
    ("behaviour", "reason", "requests"),
    [
        *((name, "caption-refused", 1) for name in ("null", "empty", "refusal", "filtered", "tools", "no-choices")),
        *((name, "caption-refused", 1) for name in ("half", "think-open")),
        *((name, "caption-refused", 1) for name in ("unfinished-plain", "long", "400-filter", "huge")),
        *((name, "caption-refused", 2) for name in ("length", "length-plain", "whitespace", "think-cut", "reasoning")),
        *((name, "caption-failed", 1) for name in ("400", "422", "400-in-200")),
        *((name, "caption-failed", 2) for name in ("413", "context")),
    ],
)
def test_no_caption_is_made_of_what_is_none(
    stub: StubService, endpoint: Endpoint, behaviour: str, reason: str, requests: int
) -> None:
    stub.always(behaviour)
    with pytest.raises(Unanswered) as error:
        endpoint.call(JPEG, "", soon())
    assert (error.value.reason, len(stub.asked)) == (reason, requests)
    assert "\n" not in error.value.detail


@pytest.mark.parametrize("behaviour", ["length", "length-plain", "think-cut", "reasoning"])
def test_a_cut_answer_is_asked_for_once_more_with_twice_the_tokens(
    stub: StubService, endpoint: Endpoint, behaviour: str
) -> None:
    costs: list[TokenUsage | None] = []
    stub.script(behaviour)
    assert endpoint.call(JPEG, "", soon(), costs.append).caption.text == caption_of(JPEG)
    assert [asked.limit for asked in stub.asked] == [MAX_TOKENS, 2 * MAX_TOKENS]
    assert [cost and cost.completion for cost in costs] == [MAX_TOKENS, ANSWER_TOKENS]


def test_a_model_that_writes_whitespace_to_the_limit_is_asked_without_a_schema(
    stub: StubService, endpoint: Endpoint
) -> None:
    stub.script("whitespace")
    assert endpoint.call(JPEG, "", soon()).caption.text == caption_of(JPEG)
    assert [(asked.limit, "response_format" in asked.body) for asked in stub.asked] == [
        (MAX_TOKENS, True),
        (MAX_TOKENS, False),
    ]
    endpoint.call(JPEG, "", soon())
    assert "response_format" in stub.asked[-1].body


@pytest.mark.parametrize("status", [400, 500, 200])
def test_an_image_without_room_is_sent_once_more_with_half_the_side(
    stub: StubService, endpoint: Endpoint, status: int
) -> None:
    stub.always(limited(len(JPEG) - 1, status))
    endpoint.call(JPEG, "", soon())
    sides = [Image.open(io.BytesIO(asked.jpeg or b"")).size for asked in stub.asked]
    assert sides == [(64, 48), (32, 24)]


@pytest.mark.parametrize(
    ("behaviour", "no_money"),
    [
        *((name, False) for name in ("401", "403", "404", "400-model", "redirect", "other-model")),
        *((name, True) for name in ("402", "429-money", "429-spent")),
    ],
)
def test_wrong_settings_and_spent_money_are_misplaced(
    stub: StubService, endpoint: Endpoint, behaviour: str, no_money: bool
) -> None:
    stub.always(behaviour)
    with pytest.raises(Misplaced) as error:
        endpoint.call(JPEG, "", soon())
    assert (error.value.no_money, len(stub.asked)) == (no_money, 1)
    assert KEY not in error.value.detail
    assert "\n" not in error.value.detail


@pytest.mark.parametrize(
    ("behaviour", "least", "most"), [("429", 7, 7), ("429-date", 25, 30), ("429-far", LONGEST_PAUSE_S, LONGEST_PAUSE_S)]
)
def test_a_pause_is_of_seconds_or_a_date_and_bounded(
    stub: StubService, endpoint: Endpoint, behaviour: str, least: float, most: float
) -> None:
    stub.always(behaviour)
    with pytest.raises(Away) as error:
        endpoint.call(JPEG, "", soon())
    assert error.value.retry_after_s is not None
    assert least <= error.value.retry_after_s <= most


@pytest.mark.parametrize(
    "behaviour",
    ["408", "429-odd", "500", "502", "503", "503-busy", "504", "reset", "error-in-200", "not-json", "deep", "gzip"],
)
def test_an_outage_is_no_fault_of_the_image(stub: StubService, endpoint: Endpoint, behaviour: str) -> None:
    stub.always(behaviour)
    with pytest.raises(Away) as error:
        endpoint.call(JPEG, "", soon())
    assert (error.value.dependency, error.value.retry_after_s, len(stub.asked)) == ("captioner", None, 1)


@pytest.mark.parametrize("behaviour", ["hang", "drip", "drip-headers"])
def test_a_call_ends_at_its_deadline(stub: StubService, endpoint: Endpoint, behaviour: str) -> None:
    costs: list[TokenUsage | None] = []
    stub.always(behaviour)
    began = time.monotonic()
    with pytest.raises(Away) as error:
        endpoint.call(JPEG, "", began + 1, costs.append)
    assert 0.9 < time.monotonic() - began < 4
    assert (error.value.fault, costs) == ("too-slow", [None])


@pytest.mark.parametrize(("behaviour", "cost"), [("500", TokenUsage(0, 0)), ("408", None), ("504", None)])
def test_an_error_is_free_unless_the_service_may_have_worked(
    stub: StubService, endpoint: Endpoint, behaviour: str, cost: TokenUsage | None
) -> None:
    costs: list[TokenUsage | None] = []
    stub.script(behaviour)
    with pytest.raises(Away):
        endpoint.call(JPEG, "", soon(), costs.append)
    assert costs == [cost]


def test_a_service_that_is_not_there_costs_nothing() -> None:
    costs: list[TokenUsage | None] = []
    endpoint = Endpoint(f"http://127.0.0.1:{free_ports(1)[0]}/v1", MODEL, str, CaptionFile())
    with pytest.raises(Away):
        endpoint.call(JPEG, "", soon(), costs.append)
    assert costs == [TokenUsage(0, 0)]


def test_a_service_that_never_got_the_request_costs_nothing(stub: StubService) -> None:
    """Guard: while its certificate is over, each try would take thousands of tokens from the day's."""
    costs: list[TokenUsage | None] = []
    endpoint = Endpoint(stub.address.replace("http:", "https:"), MODEL, str, CaptionFile())
    with pytest.raises(Away):
        endpoint.call(JPEG, "", soon(), costs.append)
    assert costs == [TokenUsage(0, 0)]


def test_a_caption_is_one_line_of_data(stub: StubService, endpoint: Endpoint) -> None:
    stub.script("control", "markup")
    assert endpoint.call(JPEG, "", soon()).caption.text == "a[31m red dog on a mat"
    assert endpoint.call(JPEG, ORDERS, soon()).caption.text == ORDERS
    system, user = stub.asked[-1].body["messages"]
    assert (system["role"], user["role"], ORDERS in str(system), ORDERS in str(user)) == ("system", "user", False, True)


@pytest.mark.parametrize(
    ("behaviour", "places"),
    [
        ("ok", "some place"),
        (answer(lambda asked: content_of(asked).replace("some place", "a\\u001b\\n b")), "a b"),
        (answer(lambda asked: content_of(asked).replace("calm", "mad")), None),
        (answer(lambda asked: json.dumps({"caption": "a dog"})), None),
        ("plain", None),
    ],
)
def test_fields_are_of_the_schema_or_none(stub: StubService, behaviour: str | Behaviour, places: str | None) -> None:
    endpoint = Endpoint(stub.address, MODEL, lambda: KEY, CaptionFile.model_validate({"fields": FIELDS}))
    stub.always(behaviour)
    if places is None:
        with pytest.raises(Unanswered, match="caption-refused"):
            endpoint.call(JPEG, "", soon())
    else:
        assert endpoint.call(JPEG, "", soon()).fields == {"mood": "calm", "dogs": 1, "place": places}


def test_a_field_that_a_service_does_not_take_is_left_out_from_then_on(stub: StubService, endpoint: Endpoint) -> None:
    stub.always(refusing("reasoning_effort", "seed"))
    for _ in range(2):
        endpoint.call(JPEG, "", soon())
    assert ["seed" in asked.body for asked in stub.asked] == [True, True, False, False]


def test_a_limit_has_the_name_that_the_service_takes(stub: StubService, endpoint: Endpoint) -> None:
    def reply(asked: Asked) -> Behaviour:
        said = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        return refuse(400, {"message": said, "param": "max_tokens"}) if "max_tokens" in asked.body else answer()

    stub.always(lambda asked: reply(asked)(asked))
    endpoint.call(JPEG, "", soon())
    assert stub.asked[-1].body["max_completion_tokens"] == MAX_TOKENS


def test_a_key_is_read_before_each_request_and_never_shown(stub: StubService) -> None:
    keys = ["old", KEY, f"{KEY}\nx"]
    endpoint = Endpoint(stub.address, MODEL, lambda: keys.pop(0), CaptionFile())
    with pytest.raises(Misplaced, match="401"):
        endpoint.call(JPEG, "", soon())
    endpoint.call(JPEG, "", soon())
    with pytest.raises(Misplaced) as error:
        endpoint.call(JPEG, "", soon())
    assert KEY not in str(error.value)


def test_a_word_in_place_of_a_key_hides_nothing_of_an_error() -> None:
    with StubService(key="e") as stub:
        stub.always("400")
        with pytest.raises(Unanswered, match="cannot identify image file"):
            Endpoint(stub.address, MODEL, lambda: "e", CaptionFile()).call(JPEG, "", soon())


def test_a_service_on_this_machine_is_reached_by_no_proxy(stub: StubService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    Endpoint(stub.address, MODEL, lambda: KEY, CaptionFile()).call(JPEG, "", soon())
    assert len(stub.asked) == 1


def test_a_proxy_of_the_environment_is_used_for_other_machines(
    stub: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", stub.address.removesuffix("/v1"))
    with pytest.raises(Misplaced, match="404"):  # of the stub, which is no proxy
        Endpoint("http://captions.invalid/v1", MODEL, lambda: KEY, CaptionFile()).call(JPEG, "", soon())


def test_tokens_show_whether_a_picture_counts(stub: StubService, endpoint: Endpoint) -> None:
    stub.script("ok", "ok", "drops-images", "drops-images")
    usages = [endpoint.call(jpeg, "", soon()).caption.usage for jpeg in (JPEG, None, JPEG, None)]
    seen, unseen, dropped, also = (usage and usage.prompt for usage in usages)
    assert (seen, unseen) == (TEXT_TOKENS + PICTURE_TOKENS, TEXT_TOKENS)
    assert dropped == also
    assert stub.tokens == sum(usage.prompt + usage.completion for usage in usages if usage)


def test_a_request_writes_no_line_at_info(stub: StubService, endpoint: Endpoint) -> None:
    out = io.StringIO()
    with restored():
        start_logging("info", "text", stream=out)
        endpoint.call(JPEG, "", soon())
    assert out.getvalue() == ""


@pytest.mark.parametrize("code", ["400-odd", "400.5", 10**30, ["400"], None])
def test_an_error_may_have_any_code(stub: StubService, endpoint: Endpoint, code: object) -> None:
    stub.always(refuse(200, {"message": "broken", "code": code}))
    with pytest.raises((Away, Unanswered), match="broken"):
        endpoint.call(JPEG, "", soon())


def test_models_are_listed(stub: StubService, endpoint: Endpoint) -> None:
    assert endpoint.models(soon()) == [MODEL]
    assert isinstance(fault_of(413, {}, {}, MODEL, ()), Unanswered)  # there is no image to send again
