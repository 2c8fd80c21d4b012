"""Asking a service for captions: turns, waits, outages, a wrong key, and what a call costs."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from tagstream_remote import asking as module
from tagstream_remote.answers import Away, Misplaced
from tagstream_remote.asking import Asking
from tagstream_remote.budget import Budget, Counter
from tagstream_remote.caption_file import CaptionFile
from tagstream_remote.client import MAX_TOKENS, Endpoint

from schemas.dead_letter import CaptionReason
from workers.breaker import Breaker
from workers.errors import TagstreamError, Unanswered, Unavailable
from workers.intake.transform import apply
from workers.types import Caption, ImageAbout, Partition, RemoteAnswer, TokenUsage

MODEL = "seer"
ONE, TWO, THREE = (Partition("images", number) for number in range(3))
IN_TIME_S = 20.0
"""More than anything here takes."""
SEEN, BLIND, COST, NOTHING = TokenUsage(500, 5), TokenUsage(50, 5), TokenUsage(700, 30), TokenUsage(0, 0)

Told = tuple[object, TokenUsage | None]


class ScriptedEndpoint(Endpoint):
    """Answers the proof as a service that sees; images by `answers`, which begin with what is scripted for them."""

    def __init__(self) -> None:
        self.answers: dict[str, list[TagstreamError | Exception]] = {}
        self.usages: list[TokenUsage | None] = [COST]
        self.asked: list[str] = []
        self.proofs = self.faults = 0
        self.most_at_once = self._at_once = 0
        self.open = threading.Event()
        self.open.set()
        self.fault: Callable[[], Exception | None] = lambda: None
        self.blind: Callable[[], Told] = lambda: ("no picture", BLIND)
        self.seen: Callable[[], Told] = lambda: ("a red disc", SEEN)
        self._lock = threading.Lock()

    def call(
        self,
        jpeg: bytes | None,
        text: str,
        deadline: float,
        spent: Callable[[TokenUsage | None], None] = lambda usage: None,
        reserve: Callable[[int], None] = lambda tokens: None,
    ) -> RemoteAnswer:
        reserve(MAX_TOKENS)
        if fault := self.fault():
            self.faults += 1
            spent(NOTHING)
            raise fault
        if jpeg is None or jpeg.startswith(b"\xff\xd8"):
            self.proofs += jpeg is not None
            told, usage = self.blind() if jpeg is None else self.seen()
            spent(usage)
            if isinstance(told, Exception):
                raise told
            return answer(str(told))
        name = jpeg.decode()
        with self._lock:
            self.asked.append(name)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        assert self.open.wait(IN_TIME_S)
        with self._lock:
            self._at_once -= 1
            error = self.answers[name].pop(0) if self.answers.get(name) else None
        for number, usage in enumerate(self.usages):
            if number:
                reserve(2 * MAX_TOKENS)
            spent(usage)
        if error is not None:
            raise error
        return answer(f"{name}: {text}")


def answer(text: str) -> RemoteAnswer:
    return RemoteAnswer(Caption(text, None, "remote", MODEL))


class KeptCounter:
    def __init__(self) -> None:
        self.total = self.refused = 0
        self.added: list[int] = []
        self.away = False

    def add(self, day: str, tokens: int, *, least: int, most: int | None) -> bool:
        if self.away:
            raise Unavailable("redis", "the day's tokens can't be counted")
        if most is not None and self.total + tokens > most:
            self.refused += 1
            return False
        self.total += tokens
        self.added.append(tokens)
        return True


@pytest.fixture
def endpoint() -> ScriptedEndpoint:
    return ScriptedEndpoint()


@pytest.fixture
def key() -> list[str]:
    return ["first"]


@pytest.fixture
def make(
    endpoint: ScriptedEndpoint, key: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Asking]]:
    monkeypatch.setattr(module, "_LOOK_S", 0.02)
    made: list[Asking] = []

    def build(
        *,
        wait_s: float = IN_TIME_S,
        requests: int = 1,
        prompt: str = "{tags}",
        per_day: int = 0,
        counter: Counter | None = None,
        again_s: float = 0.02,
    ) -> Asking:
        file, budget = CaptionFile(prompt=prompt, requests=requests, side=64), Budget(per_day, counter)
        breaker = Breaker(again_s, again_s)
        made.append(Asking(endpoint, file, budget, model=MODEL, key=lambda: key[0], wait_s=wait_s, breaker=breaker))
        return made[-1]

    yield build
    endpoint.open.set()
    for each in made:
        each.close()


def ask(
    asking: Asking, name: str, partition: Partition = ONE, late: list[RemoteAnswer] | None = None
) -> Future[RemoteAnswer]:
    return asking.ask(name.encode(), ["a cat"], partition, ([] if late is None else late).append)


def caption(future: Future[RemoteAnswer]) -> str:
    return future.result(IN_TIME_S).caption.text


def reason(future: Future[RemoteAnswer]) -> str:
    error = future.exception(IN_TIME_S)
    assert isinstance(error, Unanswered), error
    return error.reason


def until(holds: Callable[[], object]) -> None:
    ends = time.monotonic() + IN_TIME_S
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)


def warm(asking: Asking) -> None:
    """Ask about an image, so that the service is proved."""
    assert caption(ask(asking, "warm"))


def test_an_image_gets_its_caption_for_the_prompt_with_its_tags(make: Callable[..., Asking]) -> None:
    asking = make(prompt="Tags: {tags}.")
    text = caption(ask(asking, "one"))
    assert text.startswith("one: Tags: a cat.")
    assert (asking.name, asking.guided, make(prompt="plain").guided) == (MODEL, True, False)


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (30, 20)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_jpeg_has_the_picture_without_margins_and_without_metadata(
    make: Callable[..., Asking], size: tuple[int, int], turned: bool
) -> None:
    asking = make()
    scale = min(1.0, 64 / max(size))
    pixels = apply(asking.transform, Image.new("RGB", size, "orange"))
    about = ImageAbout("jpeg", *(size[::-1] if turned else size))
    with Image.open(io.BytesIO(asking.encode(pixels, about))) as image:
        assert image.size == (round(size[0] * scale), round(size[1] * scale))
        assert "exif" not in image.info
        assert np.abs(np.asarray(image).astype(int) - (255, 165, 0)).max() < 4


def test_partitions_take_turns_and_each_keeps_its_order(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint
) -> None:
    asking = make()
    warm(asking)
    endpoint.open.clear()
    first = ask(asking, "0")
    until(lambda: "0" in endpoint.asked)
    futures = [
        ask(asking, name, partition)
        for name, partition in (("1a", ONE), ("1b", ONE), ("1c", ONE), ("2a", TWO), ("2b", TWO), ("3a", THREE))
    ]
    endpoint.open.set()
    for future in (first, *futures):
        future.result(IN_TIME_S)
    assert endpoint.asked[2:] == ["1a", "2a", "3a", "1b", "2b", "1c"]


def test_so_many_requests_as_the_file_says_run_at_once(make: Callable[..., Asking], endpoint: ScriptedEndpoint) -> None:
    asking = make(requests=3)
    warm(asking)
    endpoint.open.clear()
    futures = [ask(asking, str(number)) for number in range(6)]
    until(lambda: len(endpoint.asked) == 4)
    time.sleep(0.05)
    endpoint.open.set()
    for future in futures:
        future.result(IN_TIME_S)
    assert endpoint.most_at_once == 3


def test_an_image_leaves_when_its_time_is_over_and_its_answer_comes_late(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint
) -> None:
    asking, late = make(wait_s=0.2), list[RemoteAnswer]()
    until(lambda: ask(asking, "warm").exception(IN_TIME_S) is None)
    endpoint.open.clear()
    asked, queued = ask(asking, "asked", late=late), ask(asking, "queued")
    assert [reason(asked), reason(queued)] == ["caption-unavailable"] * 2
    endpoint.open.set()
    until(lambda: late)
    assert late[0].caption.text.startswith("asked")
    until(lambda: ask(asking, "next").exception(IN_TIME_S) is None)
    assert "queued" not in endpoint.asked


def test_a_cancelled_image_is_not_asked_about_and_a_late_answer_is_kept(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint
) -> None:
    asking, late = make(), list[RemoteAnswer]()
    warm(asking)
    endpoint.open.clear()
    running = ask(asking, "running", late=late)
    until(lambda: "running" in endpoint.asked)
    queued = ask(asking, "queued")
    assert queued.cancel()
    assert running.cancel()
    endpoint.open.set()
    assert caption(ask(asking, "next"))
    assert "queued" not in endpoint.asked
    assert late[0].caption.text.startswith("running")


def test_an_image_leaves_at_once_where_its_turn_would_not_come_in_time(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = make(wait_s=300.0)
    warm(asking)
    endpoint.open.clear()
    ask(asking, "running")
    until(lambda: "running" in endpoint.asked)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 110.0))
    waits = [ask(asking, "second"), ask(asking, "third"), ask(asking, "fourth")]
    assert [future.done() for future in waits] == [False, False, True]
    assert reason(waits[2]) == "caption-unavailable"
    assert not ask(asking, "of a partition with its turn", TWO).done()


def test_images_wait_until_the_service_has_seen_the_known_picture(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint
) -> None:
    proved = threading.Event()

    def seen() -> Told:
        assert proved.wait(IN_TIME_S)
        return "a red disc", SEEN

    endpoint.seen = seen
    future = ask(make(requests=2), "one")
    until(lambda: endpoint.proofs)
    time.sleep(0.05)
    assert not future.done()
    assert not endpoint.asked
    proved.set()
    assert caption(future)
    assert endpoint.proofs == 1


@pytest.mark.parametrize(
    ("seen", "blind", "unready"),
    [
        (("a disc", SEEN), ("a disc", BLIND), False),
        (("a disc", BLIND), ("none", BLIND), True),
        (("a disc", BLIND), (Unanswered("caption-refused", "no picture"), BLIND), True),
        (("the same", None), ("the same", None), True),
        (("the same", TokenUsage(0, 0)), ("the same", TokenUsage(0, 0)), True),
        (("the same", SEEN), ("the same", None), True),
        (("a disc", None), ("none", None), False),
        ((Unanswered("caption-refused", "no"), None), (Unanswered("caption-refused", "no"), None), False),
        (("a disc", None), ("none", BLIND), False),
        (("a disc", SEEN), (Unanswered("caption-failed", "no"), NOTHING), False),
        ((Unanswered("caption-failed", "no picture is taken"), NOTHING), ("none", BLIND), True),
        ((Misplaced("another model has answered", paid=True), SEEN), ("none", BLIND), True),
    ],
)
def test_a_service_that_drops_or_refuses_pictures_is_unready(
    make: Callable[..., Asking],
    endpoint: ScriptedEndpoint,
    key: list[str],
    seen: Told,
    blind: Told,
    unready: bool,
) -> None:
    endpoint.seen, endpoint.blind = lambda: seen, lambda: blind
    asking = make()
    future = ask(asking, "one")
    assert (future.exception(IN_TIME_S) is not None) is unready
    assert (asking.unready() is not None) is unready
    assert ask(asking, "two").done() is unready
    if unready:
        assert reason(future) == "caption-unavailable"
        assert not endpoint.asked
        time.sleep(0.1)  # each further proof would cost tokens
        assert endpoint.proofs == 1
        key[0] = "of a model that sees"
        endpoint.seen, endpoint.blind = lambda: ("a disc", SEEN), lambda: ("none", BLIND)
        until(lambda: asking.unready() is None)
        assert caption(ask(asking, "three"))


def test_a_wrong_key_is_unready_until_another_one_is_in_the_file(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint, key: list[str]
) -> None:
    endpoint.fault = lambda: Misplaced("401: set TAGSTREAM_CAPTION_KEY") if key[0] == "first" else None
    asking = make(again_s=1000.0)
    asking.start()
    until(lambda: asking.unready() == "401: set TAGSTREAM_CAPTION_KEY")
    assert reason(ask(asking, "one")) == "caption-unavailable"
    assert ask(asking, "two").done()
    key[0] = "second"
    until(lambda: asking.unready() is None)
    assert caption(ask(asking, "three"))


def test_a_service_that_takes_the_key_after_all_is_asked_again(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint
) -> None:
    asking = make()
    warm(asking)
    endpoint.fault = lambda: Misplaced("no money")
    assert reason(ask(asking, "one")) == "caption-unavailable"
    assert asking.unready() == "no money"
    endpoint.fault = lambda: None
    until(lambda: asking.unready() is None)
    assert caption(ask(asking, "two"))
    assert endpoint.proofs == 2


def test_after_three_images_that_fail_all_leave_at_once_until_the_service_is_back(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="tagstream_remote.asking")
    asking = make()
    warm(asking)
    endpoint.fault = lambda: Away("refused")
    assert [reason(ask(asking, name)) for name in "123"] == ["caption-unavailable"] * 3
    until(lambda: ask(asking, "4").done())
    until(lambda: endpoint.faults >= 12)  # by proofs, after short pauses
    assert asking.unready() is None
    endpoint.fault = lambda: None
    until(lambda: ask(asking, "5").exception(IN_TIME_S) is None)
    assert endpoint.proofs == 1  # an outage ends by a few words
    told = [record.levelname for record in caplog.records]
    assert told == ["WARNING", "INFO"]


def test_an_answer_that_comes_in_an_outage_ends_it(make: Callable[..., Asking], endpoint: ScriptedEndpoint) -> None:
    asking = make(requests=2, again_s=1000.0)
    warm(asking)
    endpoint.open.clear()
    slow = ask(asking, "slow")
    until(lambda: "slow" in endpoint.asked)
    endpoint.fault = lambda: Away("refused")
    assert [reason(ask(asking, name)) for name in "123"] == ["caption-unavailable"] * 3
    assert ask(asking, "4").done()
    endpoint.fault = lambda: None
    endpoint.open.set()
    assert caption(slow)
    assert caption(ask(asking, "5"))


def test_an_image_that_always_fails_leaves_alone(make: Callable[..., Asking], endpoint: ScriptedEndpoint) -> None:
    asking = make()
    endpoint.answers["poison"] = [Away("500") for _ in range(9)]
    endpoint.answers["once"] = [Away("reset")]
    assert reason(ask(asking, "poison")) == "caption-unavailable"
    assert endpoint.asked == ["poison"] * 2
    assert caption(ask(asking, "once"))
    assert endpoint.asked[2:] == ["once"] * 2


def test_a_service_that_says_when_to_come_back_is_left_alone_so_long(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint
) -> None:
    asking = make(wait_s=1000.0)
    warm(asking)
    endpoint.answers["one"] = [Away("429", retry_after_s=0.1) for _ in range(4)]
    began = time.monotonic()
    futures = [ask(asking, "one"), ask(asking, "two")]
    for future in futures:
        future.result(IN_TIME_S)
    assert time.monotonic() - began >= 0.4
    assert endpoint.asked[1:] == ["one"] * 5 + ["two"]
    endpoint.answers["soon"], began = [Away("429", retry_after_s=0.0) for _ in range(10)], time.monotonic()
    assert caption(ask(asking, "soon"))
    assert time.monotonic() - began >= 10 * module._LOOK_S
    endpoint.answers["far"] = [Away("429", retry_after_s=1000.0)]
    assert reason(ask(asking, "far")) == "caption-unavailable"
    assert ask(asking, "later").done()


@pytest.mark.parametrize("word", get_args(CaptionReason)[:3:2])
def test_a_refusal_is_an_answer_of_a_service_that_is_there(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint, word: CaptionReason
) -> None:
    asking = make()
    for name in "1234":
        endpoint.answers[name] = [Unanswered(word, "no")]
        assert reason(ask(asking, name)) == word
        endpoint.answers["fails " + name] = [Away("reset"), Away("reset")]
        assert reason(ask(asking, "fails " + name)) == "caption-unavailable"
    assert caption(ask(asking, "5"))


def test_once_the_days_tokens_are_spent_no_image_is_asked_about(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint
) -> None:
    counter = KeptCounter()
    asking = make(per_day=sum(SEEN) + sum(BLIND) + 3 * sum(COST) + COST.prompt + MAX_TOKENS, counter=counter)
    assert [ask(asking, name).exception(IN_TIME_S) for name in "1234"] == [None] * 4
    assert reason(ask(asking, "5")) == "caption-budget"
    assert ask(asking, "6").done()
    assert reason(ask(asking, "7")) == "caption-budget"
    assert endpoint.asked == ["1", "2", "3", "4"]
    assert asking.unready() is None
    assert counter.total == sum(SEEN) + sum(BLIND) + 4 * sum(COST)


def test_every_request_of_a_call_is_paid_and_an_unknown_one_as_reserved(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint
) -> None:
    counter = KeptCounter()
    asking = make(per_day=10**6, counter=counter)
    warm(asking)
    before, reserved = counter.total, COST.prompt + 2 * MAX_TOKENS
    endpoint.usages = [COST, None]
    endpoint.answers["one"] = [Away("time-out")]
    assert caption(ask(asking, "one"))  # two calls
    assert counter.total - before == 2 * (sum(COST) + reserved)
    assert counter.added[0] == module._PROMPT_TOKENS + MAX_TOKENS
    assert counter.added[-2] == reserved
    endpoint.usages = [SEEN]
    for name in "23":
        assert caption(ask(asking, name))
    assert counter.added[-2] == COST.prompt + MAX_TOKENS


def test_a_repetition_spends_no_more_than_the_day_has_left(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint
) -> None:
    """Guard: only the first request of a call was reserved, so that workers went beyond the limit together."""
    counter = KeptCounter()
    asking = make(per_day=sum(SEEN) + sum(BLIND) + 2 * sum(COST) + COST.prompt + 2 * MAX_TOKENS - 1, counter=counter)
    warm(asking)
    endpoint.usages = [COST, COST]
    assert reason(ask(asking, "one")) == "caption-budget"
    assert counter.total == sum(SEEN) + sum(BLIND) + 2 * sum(COST)


def test_nothing_is_spent_while_the_days_tokens_can_not_be_counted(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint
) -> None:
    counter = KeptCounter()
    asking = make(per_day=10**6, counter=counter)
    for name in ("start", "later"):
        counter.away = True
        assert reason(ask(asking, name)) == "caption-unavailable"
        assert ask(asking, "next").done()
        assert name not in endpoint.asked
        assert asking.unready() is None
        counter.away = False
        until(lambda: ask(asking, "back").exception(IN_TIME_S) is None)


def test_a_day_without_tokens_left_at_the_start_brings_no_proof(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint
) -> None:
    counter = KeptCounter()
    asking = make(per_day=1, counter=counter)
    assert reason(ask(asking, "one")) == "caption-budget"
    time.sleep(0.1)
    assert reason(ask(asking, "two")) == "caption-budget"
    assert (endpoint.proofs, counter.refused) == (0, 1)


def test_a_new_key_brings_no_proof_while_the_days_tokens_are_spent(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint, key: list[str]
) -> None:
    counter = KeptCounter()
    asking = make(per_day=10**4, counter=counter, again_s=1000.0)
    warm(asking)
    endpoint.fault = lambda: Misplaced("no such key")
    assert reason(ask(asking, "one")) == "caption-unavailable"
    counter.total, key[0] = 10**4, "second"
    until(lambda: counter.refused)
    time.sleep(0.1)
    assert counter.refused == 1


def test_a_service_that_needs_longer_than_an_image_waits_is_asked_where_it_is_idle(
    make: Callable[..., Asking], endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, late = make(wait_s=100.0), list[RemoteAnswer]()
    warm(asking)
    endpoint.open.clear()
    slow = ask(asking, "slow", late=late)
    until(lambda: "slow" in endpoint.asked)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 9000.0))
    assert ask(asking, "queued").done()
    endpoint.open.set()
    assert caption(slow)
    assert caption(ask(asking, "next"))


def test_a_bug_reaches_the_image_that_it_hits(make: Callable[..., Asking], endpoint: ScriptedEndpoint) -> None:
    asking = make()
    endpoint.answers["one"] = [ZeroDivisionError()]
    assert isinstance(ask(asking, "one").exception(IN_TIME_S), ZeroDivisionError)
    assert caption(ask(asking, "two"))
    endpoint.fault = ZeroDivisionError
    assert isinstance(ask(make(), "proof").exception(IN_TIME_S), ZeroDivisionError)


def test_what_waits_at_the_end_is_cancelled(make: Callable[..., Asking], endpoint: ScriptedEndpoint) -> None:
    asking = make()
    warm(asking)
    endpoint.open.clear()
    futures = [ask(asking, name) for name in "12"]
    asking.close()
    assert all(future.cancelled() for future in (*futures, ask(asking, "3")))
