"""Asking a service for captions: turns, waits, outages, a wrong key, and what a call costs."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tagstream_remote import asking as module
from tagstream_remote.answers import Away, Misplaced
from tagstream_remote.asking import Asking
from tagstream_remote.budget import Budget, FileCounter
from tagstream_remote.caption_file import CaptionFile
from tagstream_remote.client import MAX_TOKENS, Endpoint

from schemas.dead_letter import CaptionReason
from tests.support.waiting import eventually
from workers.breaker import Breaker
from workers.errors import Unanswered, Unavailable
from workers.intake.transform import apply
from workers.types import Caption, ImageAbout, Partition, RemoteAnswer, TokenUsage

MODEL = "seer"
ONE, TWO, THREE = (Partition("images", number) for number in range(3))
IN_TIME_S = 20.0  # more than anything here takes
SEEN, BLIND, COST, NOTHING = TokenUsage(500, 5), TokenUsage(50, 5), TokenUsage(700, 30), TokenUsage(0, 0)
PROOF = sum(SEEN) + sum(BLIND)

Told = tuple[object, TokenUsage | None]


class KeptCounter(FileCounter):
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

    def sum(self, day: str) -> int:
        return self.total


class Scene(Endpoint):
    """A service that sees the proof's picture, and answers about images by what `answers` begins with for them."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Exception]] = {}
        self.usages: list[TokenUsage | None] = [COST]
        self.asked: list[str] = []
        self.proofs = self.faults = self.at_once = self.most_at_once = 0
        self.open = threading.Event()
        self.open.set()
        self.fault: Callable[[], Exception | None] = lambda: None
        self.seen: Told = ("a red disc", SEEN)
        self.blind: Told = ("no picture", BLIND)
        self.model, self.own_key, self.key = MODEL, "first", lambda: self.own_key
        self.counter = KeptCounter()
        self.made: list[Asking] = []
        self._lock = threading.Lock()

    def make(self, *, wait_s: float = IN_TIME_S, per_day: int = 0, again_s: float = 0.02, **file: Any) -> Asking:
        kept = CaptionFile.model_validate({"prompt": "{tags}", "requests": 1, "side": 64} | file)
        budget = Budget(per_day, self.counter if per_day else None)
        self.made.append(Asking(self, kept, budget, wait_s, Breaker(again_s, again_s)))
        return self.made[-1]

    def warm(self, **how: Any) -> Asking:
        """One that has proved the service and asked about an image."""
        asking = self.make(**how)
        assert caption(ask(asking, "warm"))
        return asking

    def hold(self, asking: Asking, name: str, late: list[RemoteAnswer] | None = None) -> Future[RemoteAnswer]:
        """Ask about an image whose call ends when the scene is open again."""
        self.open.clear()
        future = ask(asking, name, late=late)
        eventually(lambda: name in self.asked)
        return future

    def call(self, jpeg: bytes | None, text: str, deadline: float, reserve: Any = None) -> RemoteAnswer:
        spent = reserve(MAX_TOKENS)
        if fault := self.fault():
            self.faults += 1
            spent(NOTHING)
            raise fault
        if jpeg is None or jpeg.startswith(b"\xff\xd8"):
            self.proofs += jpeg is not None
            told, usage = self.blind if jpeg is None else self.seen
            assert self.open.wait(IN_TIME_S)
            spent(usage)
            if isinstance(told, Exception):
                raise told
            return RemoteAnswer(Caption(str(told), None, "remote", MODEL))
        name = jpeg.decode()
        with self._lock:
            self.asked.append(name)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.open.wait(IN_TIME_S)
        with self._lock:
            self.at_once -= 1
        for number, usage in enumerate(self.usages):
            if number:
                spent = reserve(2 * MAX_TOKENS)
            spent(usage)
        if self.answers.get(name):
            raise self.answers[name].pop(0)
        return RemoteAnswer(Caption(f"{name}: {text}", None, "remote", MODEL))


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(module, "_LOOK_S", 0.02)
    scene = Scene()
    yield scene
    scene.open.set()
    for each in scene.made:
        each.close()


def ask(
    asking: Asking,
    name: str,
    partition: Partition = ONE,
    late: list[RemoteAnswer] | None = None,
    *,
    background: bool = False,
) -> Future[RemoteAnswer]:
    kept = [] if late is None else late
    return asking.ask(name.encode(), ["a cat"], partition, kept.append, background=background)


def caption(future: Future[RemoteAnswer]) -> str:
    return future.result(IN_TIME_S).caption.text


def reason(future: Future[RemoteAnswer]) -> str:
    error = future.exception(IN_TIME_S)
    assert isinstance(error, Unanswered), error
    return error.reason


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + seconds))


def test_an_image_gets_its_caption_for_the_prompt_with_its_tags(scene: Scene) -> None:
    asking = scene.make(prompt="Tags: {tags}.")
    assert caption(ask(asking, "one")).startswith("one: Tags: a cat.")
    assert (asking.name, asking.guided, scene.make(prompt="plain").guided) == (MODEL, True, False)


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (30, 20)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_jpeg_has_the_picture_without_margins_and_without_metadata(
    scene: Scene, size: tuple[int, int], turned: bool
) -> None:
    asking, scale = scene.make(), min(1.0, 64 / max(size))
    pixels = apply(asking.transform, Image.new("RGB", size, "orange"))
    about = ImageAbout("jpeg", *(size[::-1] if turned else size))
    with Image.open(io.BytesIO(asking.encode(pixels, about))) as image:
        assert image.size == (round(size[0] * scale), round(size[1] * scale))
        assert "exif" not in image.info
        assert np.abs(np.asarray(image).astype(int) - (255, 165, 0)).max() < 4


def test_partitions_take_turns_and_each_keeps_its_order(scene: Scene) -> None:
    asking = scene.warm()
    first = scene.hold(asking, "0")
    names = (("1a", ONE), ("1b", ONE), ("1c", ONE), ("2a", TWO), ("2b", TWO), ("3a", THREE))
    futures = [first, *(ask(asking, name, partition) for name, partition in names)]
    scene.open.set()
    assert all(map(caption, futures))
    assert scene.asked[2:] == ["1a", "2a", "3a", "1b", "2b", "1c"]


def test_live_images_are_asked_about_before_background_ones_which_have_every_ninth_turn(scene: Scene) -> None:
    asking = scene.warm()
    futures = [scene.hold(asking, "0")]
    futures += [ask(asking, f"late{number}", Partition("late", number), background=True) for number in range(3)]
    futures += [ask(asking, f"{number}") for number in range(1, 10)]
    scene.open.set()
    assert all(map(caption, futures))
    assert scene.asked[2:] == [*map(str, range(1, 9)), "late0", "9", "late1", "late2"]


def test_no_live_image_is_refused_because_of_background_ones_that_wait(scene: Scene) -> None:
    asking = scene.warm()
    held = scene.hold(asking, "0")
    asking._seconds.extend([0.6 * IN_TIME_S] * 16)
    behind = ask(asking, "late", TWO, background=True)
    assert reason(ask(asking, "later", THREE, background=True)) == "caption-unavailable"
    live = ask(asking, "live", THREE)
    scene.open.set()
    assert all(map(caption, (held, behind, live)))


def test_so_many_requests_as_the_file_says_run_at_once(scene: Scene) -> None:
    asking = scene.warm(requests=3)
    scene.open.clear()
    futures = [ask(asking, str(number)) for number in range(6)]
    eventually(lambda: len(scene.asked) == 4)
    time.sleep(0.05)
    scene.open.set()
    assert all(map(caption, futures))
    assert scene.most_at_once == 3


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_image_that_has_left_is_not_asked_about_and_a_late_answer_is_kept(scene: Scene, cancelled: bool) -> None:
    asking, late = scene.make(wait_s=IN_TIME_S if cancelled else 0.3), list[RemoteAnswer]()
    eventually(lambda: ask(asking, "warm").exception(IN_TIME_S) is None)
    futures = [scene.hold(asking, "asked", late), ask(asking, "queued")]
    if cancelled:
        assert all(future.cancel() for future in futures)
    else:
        assert [reason(future) for future in futures] == ["caption-unavailable"] * 2
    scene.open.set()
    eventually(lambda: late)
    assert late[0].caption.text.startswith("asked")
    eventually(lambda: ask(asking, "next").exception(IN_TIME_S) is None)
    assert "queued" not in scene.asked


def test_an_image_leaves_at_once_where_its_turn_would_not_come_in_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = scene.warm(wait_s=300.0)
    scene.hold(asking, "running")
    later(monkeypatch, 110.0)
    waits = [ask(asking, name) for name in ("second", "third", "fourth")]
    assert [future.done() for future in waits] == [False, False, True]
    assert reason(waits[2]) == "caption-unavailable"
    assert not ask(asking, "of a partition with its turn", TWO).done()


def test_a_service_that_needs_longer_than_an_image_waits_is_asked_where_it_is_idle(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = scene.warm(wait_s=100.0)
    slow = scene.hold(asking, "slow")
    later(monkeypatch, 9000.0)
    assert ask(asking, "queued").done()
    scene.open.set()
    assert caption(slow)
    assert caption(ask(asking, "next"))


def test_images_wait_until_the_service_has_seen_the_known_picture(scene: Scene) -> None:
    scene.open.clear()
    future = ask(scene.make(requests=2), "one")
    eventually(lambda: scene.proofs)
    time.sleep(0.05)
    assert not future.done()
    assert not scene.asked
    scene.open.set()
    assert caption(future)
    assert scene.proofs == 1


NO = Unanswered("caption-refused", "no picture")
FAILED = Unanswered("caption-failed", "no picture is taken")
OTHER = Misplaced("another model has answered", paid=True)


@pytest.mark.parametrize(
    ("seen", "blind", "unready"),
    [
        (("a disc", SEEN), ("a disc", BLIND), False),
        (("a disc", BLIND), ("none", BLIND), True),
        (("a disc", BLIND), (NO, BLIND), True),
        (("the same", None), ("the same", None), True),
        (("the same", NOTHING), ("the same", NOTHING), True),
        (("the same", SEEN), ("the same", None), True),
        (("a disc", None), ("none", None), False),
        ((NO, None), (NO, None), False),
        (("a disc", None), ("none", BLIND), False),
        (("a disc", SEEN), (FAILED, NOTHING), False),
        ((FAILED, NOTHING), ("none", BLIND), True),
        ((OTHER, SEEN), ("none", BLIND), True),
    ],
)
def test_a_service_that_drops_or_refuses_pictures_is_unready(
    scene: Scene, seen: Told, blind: Told, unready: bool
) -> None:
    scene.seen, scene.blind = seen, blind
    asking = scene.make()
    future = ask(asking, "one")
    assert (future.exception(IN_TIME_S) is not None) is unready
    assert (asking.unready() is not None) is unready
    assert ask(asking, "two").done() is unready
    if unready:
        assert reason(future) == "caption-unavailable"
        assert not scene.asked
        time.sleep(0.1)  # each further proof would cost tokens
        assert scene.proofs == 1
        scene.seen, scene.blind, scene.own_key = ("a disc", SEEN), ("none", BLIND), "of a model that sees"
        eventually(lambda: asking.unready() is None)
        assert caption(ask(asking, "three"))


@pytest.mark.parametrize("again_s", [1000.0, 0.02])
def test_a_wrong_key_is_unready_until_another_one_is_in_the_file_or_it_is_taken(scene: Scene, again_s: float) -> None:
    scene.fault = lambda: Misplaced("set TAGSTREAM_CAPTION_KEY") if scene.own_key == "first" else None
    asking = scene.make(again_s=again_s)
    asking.start()
    eventually(lambda: asking.unready() == "set TAGSTREAM_CAPTION_KEY")
    assert reason(ask(asking, "one")) == "caption-unavailable"
    assert ask(asking, "two").done()
    if again_s > 1:
        scene.own_key = "second"
    else:
        scene.fault = lambda: None
    eventually(lambda: asking.unready() is None)
    assert caption(ask(asking, "three"))


def test_after_three_images_that_fail_all_leave_at_once_until_the_service_is_back(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="tagstream_remote.asking")
    asking = scene.warm()
    scene.fault = lambda: Away("refused")
    assert [reason(ask(asking, name)) for name in "123"] == ["caption-unavailable"] * 3
    eventually(lambda: ask(asking, "4").done())
    eventually(lambda: scene.faults >= 12, IN_TIME_S)  # by proofs, after short pauses
    assert asking.unready() is None
    scene.fault = lambda: None
    eventually(lambda: ask(asking, "5").exception(IN_TIME_S) is None)
    assert scene.proofs == 1  # an outage ends by a few words
    scene.fault = lambda: Misplaced("no money")
    assert reason(ask(asking, "6")) == "caption-unavailable"
    assert asking.unready() == "no money"
    scene.fault = lambda: None
    eventually(lambda: asking.unready() is None)
    assert scene.proofs == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO"]


def test_an_answer_that_comes_in_an_outage_ends_it(scene: Scene) -> None:
    asking = scene.warm(requests=2, again_s=1000.0)
    slow = scene.hold(asking, "slow")
    scene.fault = lambda: Away("refused")
    assert [reason(ask(asking, name)) for name in "123"] == ["caption-unavailable"] * 3
    assert ask(asking, "4").done()
    scene.fault = lambda: None
    scene.open.set()
    assert caption(slow)
    assert caption(ask(asking, "5"))


def test_an_image_that_always_fails_leaves_alone(scene: Scene) -> None:
    asking = scene.make()
    scene.answers = {"poison": [Away("500") for _ in range(9)], "once": [Away("reset")]}
    assert reason(ask(asking, "poison")) == "caption-unavailable"
    assert caption(ask(asking, "once"))
    assert scene.asked == ["poison"] * 2 + ["once"] * 2


def test_a_service_that_says_when_to_come_back_is_left_alone_so_long(scene: Scene) -> None:
    asking = scene.warm(wait_s=1000.0)
    for said_s, times, least_s in ((0.1, 4, 0.4), (0.0, 10, 10 * module._LOOK_S)):
        scene.asked.clear()
        scene.answers["one"] = [Away("429", retry_after_s=said_s) for _ in range(times)]
        began = time.monotonic()
        futures = [ask(asking, "one"), ask(asking, "two")]
        assert all(map(caption, futures))
        assert time.monotonic() - began >= least_s
        assert scene.asked == ["one"] * (times + 1) + ["two"]
    scene.answers["far"] = [Away("429", retry_after_s=1000.0)]
    assert reason(ask(asking, "far")) == "caption-unavailable"
    assert ask(asking, "later").done()


@pytest.mark.parametrize("word", ["caption-refused", "caption-failed"])
def test_a_refusal_is_an_answer_of_a_service_that_is_there(scene: Scene, word: CaptionReason) -> None:
    asking = scene.make()
    for name in "1234":
        scene.answers = {name: [Unanswered(word, "no")], "fails " + name: [Away("reset"), Away("reset")]}
        assert reason(ask(asking, name)) == word
        assert reason(ask(asking, "fails " + name)) == "caption-unavailable"
    assert caption(ask(asking, "5"))


def test_once_the_days_tokens_are_spent_no_image_is_asked_about(scene: Scene) -> None:
    asking = scene.make(per_day=PROOF + 3 * sum(COST) + COST.prompt + MAX_TOKENS)
    assert [ask(asking, name).exception(IN_TIME_S) for name in "1234"] == [None] * 4
    assert reason(ask(asking, "5")) == "caption-budget"
    assert ask(asking, "6").done()
    assert reason(ask(asking, "7")) == "caption-budget"
    assert scene.asked == ["1", "2", "3", "4"]
    assert asking.unready() is None
    assert scene.counter.total == PROOF + 4 * sum(COST)


def test_every_request_of_a_call_is_paid_and_an_unknown_one_as_reserved(scene: Scene) -> None:
    asking = scene.warm(per_day=10**6)
    added, before = scene.counter.added, scene.counter.total
    scene.usages, scene.answers["one"] = [COST, None], [Away("time-out")]
    assert caption(ask(asking, "one"))  # two calls
    reserved = COST.prompt + 2 * MAX_TOKENS
    assert scene.counter.total - before == 2 * (sum(COST) + reserved)
    assert (added[0], added[-2]) == (module._PROMPT_TOKENS + MAX_TOKENS, reserved)
    scene.usages = [SEEN]
    for name in "23":
        assert caption(ask(asking, name))
    assert added[-2] == COST.prompt + MAX_TOKENS
    scene.usages = [TokenUsage(400_000, 9)]
    for name in "45":
        assert caption(ask(asking, name))
    assert added[-2] == 100_000 + MAX_TOKENS


def test_a_repetition_spends_no_more_than_the_day_has_left(scene: Scene) -> None:
    """Guard: only the first request of a call was reserved, so that workers went beyond the limit together."""
    asking = scene.warm(per_day=PROOF + 2 * sum(COST) + COST.prompt + 2 * MAX_TOKENS - 1)
    scene.usages = [COST, COST]
    assert reason(ask(asking, "one")) == "caption-budget"
    assert scene.counter.total == PROOF + 2 * sum(COST)


def test_nothing_is_spent_while_the_days_tokens_can_not_be_counted(scene: Scene) -> None:
    asking = scene.make(per_day=10**6)
    for name in ("start", "later"):
        scene.counter.away = True
        assert reason(ask(asking, name)) == "caption-unavailable"
        assert ask(asking, "next").done()
        assert name not in scene.asked
        assert asking.unready() is None
        scene.counter.away = False
        eventually(lambda: ask(asking, "back").exception(IN_TIME_S) is None)


@pytest.mark.parametrize("new_key", [False, True])
def test_no_proof_follows_while_the_days_tokens_are_spent(scene: Scene, new_key: bool) -> None:
    if new_key:
        asking = scene.warm(per_day=10**4, again_s=1000.0)
        scene.fault = lambda: Misplaced("no such key")
        assert reason(ask(asking, "one")) == "caption-unavailable"
        scene.counter.total, scene.own_key = 10**4, "second"
    else:
        asking = scene.make(per_day=1)
        assert reason(ask(asking, "one")) == "caption-budget"
    eventually(lambda: scene.counter.refused)
    time.sleep(0.1)
    assert reason(ask(asking, "two")) == ("caption-unavailable" if new_key else "caption-budget")
    assert (scene.proofs, scene.counter.refused) == (int(new_key), 1)


def test_a_bug_reaches_the_image_that_it_hits(scene: Scene) -> None:
    asking = scene.make()
    scene.answers["one"] = [ZeroDivisionError()]
    assert isinstance(ask(asking, "one").exception(IN_TIME_S), ZeroDivisionError)
    assert caption(ask(asking, "two"))
    scene.fault = ZeroDivisionError
    assert isinstance(ask(scene.make(), "proof").exception(IN_TIME_S), ZeroDivisionError)


def test_what_waits_at_the_end_is_cancelled(scene: Scene) -> None:
    asking = scene.warm()
    futures = [scene.hold(asking, "1"), ask(asking, "2")]
    asking.close()
    assert all(future.cancelled() for future in (*futures, ask(asking, "3")))
