"""Asks a service for captions: turns, time limits, outages, and the day's tokens."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Final

from PIL import Image, ImageDraw

from tagstream_remote.answers import Away, Misplaced
from tagstream_remote.budget import Budget, Reserved
from tagstream_remote.caption_file import CaptionFile
from tagstream_remote.client import Endpoint, Spent, jpeg_of
from workers import metrics
from workers.breaker import Breaker
from workers.errors import TagstreamError, Unanswered, Unavailable
from workers.intake.geometry import unpadded
from workers.lanes import Precedence
from workers.types import DecodedImage, ImageAbout, Partition, Pixels, RemoteAnswer, TokenUsage, Transform

logger = logging.getLogger(__name__)

_CALL_S: Final = 120.0  # the most that a call takes, its repetitions included
_PROOF_S: Final = 180.0  # the most that a proof takes: a service may have to load its model first
_TRIES: Final = 2  # calls for one image that fail without a time to come back at
_PROMPT_TOKENS: Final = 3_000  # reserved for a prompt with its image before any answer said what it takes
_SPENT_S: Final = 10.0  # for so long no image waits after the day's tokens were found spent
_LOOK_S: Final = 1.0  # between looks at the key and the breaker while a service can't be asked
_PAID_S: Final = 600.0  # between proofs of a service that answers, but not as it must, which cost tokens


@dataclass(eq=False, slots=True)
class AskedImage:
    """An image to ask about until a time of the monotonic clock; `tries` are calls for it that failed."""

    jpeg: bytes
    text: str
    partition: Partition
    late: Callable[[RemoteAnswer], None]
    until: float
    background: bool = False
    tries: int = 0
    future: Future[RemoteAnswer] = field(default_factory=Future)

    def answer(self, answer: RemoteAnswer) -> None:
        """Give it its answer, to `late` if it has left."""
        try:
            self.future.set_result(answer)
        except InvalidStateError:
            self.late(answer)

    def leave(self, error: Exception) -> None:
        """Let it go without an answer, unless it has left."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)
            if isinstance(error, Unanswered):
                metrics.CAPTIONS_MISSING.add(reason=error.reason)


class PartitionTurns(dict[Partition, deque[AskedImage]]):
    """Partitions take turns, live ones before background ones; images of one go in order."""

    def __init__(self) -> None:
        super().__init__()
        self._precedence = Precedence()

    def add(self, image: AskedImage, *, first: bool = False) -> None:
        """Queue an image at its partition's end; `first`: at its beginning."""
        queue = self.setdefault(image.partition, deque())
        (queue.appendleft if first else queue.append)(image)

    def take(self) -> AskedImage:
        """Remove and return the next image; its partition's next turn is the last of all."""
        lanes = {queue[0].background for queue in self.values()}
        lane = True in lanes and (self._precedence.background_is_next or False not in lanes)
        self._precedence.had_turn(background=lane, background_waits=True in lanes)
        partition = next(each for each, queue in self.items() if queue[0].background is lane)
        queue = self.pop(partition)
        image = queue.popleft()
        if queue:
            self[partition] = queue
        return image

    def remove(self, image: AskedImage) -> None:
        """Take an image out, if it is there."""
        queue = self.get(image.partition, ())
        if queue and image in queue:
            queue.remove(image)
            if not queue:
                del self[image.partition]

    def ahead(self, partition: Partition, background: bool) -> int:
        """How many images have their turn before the partition's next one."""
        own = len(self.get(partition, ()))
        others = [queue for other, queue in self.items() if other != partition]
        return own + sum(min(len(queue), own + 1) for queue in others if background or not queue[0].background)


class Asking:
    """`ports.RemoteCaptioner`. Its threads start with `start`, or the first `ask`.

    Before the first image, and after a wrong setting, a known picture is asked about with and without its pixels: the
    service must answer, and the picture must count. Until the first proof images wait; while the service is known to be
    away they leave at once. A changed key is tried at once.
    """

    def __init__(
        self, endpoint: Endpoint, file: CaptionFile, budget: Budget, wait_s: float, breaker: Breaker | None = None
    ) -> None:
        self.name, self.digest, self.guided = endpoint.model, file.digest(endpoint.model), file.guided
        self.transform = Transform(file.side, "pad", interpolation="bicubic", exif_transpose=True)
        self.fields = file.model() if file.fields else None
        self._endpoint, self._file, self._budget, self._wait_s = endpoint, file, budget, wait_s
        self._breaker = breaker or Breaker(1.0, 60.0)
        # For the asking threads. Its lock is held for whatever follows here, and never while a future is set.
        self._changed = threading.Condition(lock := threading.Lock())
        self._waiting_changed = threading.Condition(lock)
        self._turns = PartitionTurns()
        self._waiting: dict[AskedImage, None] = {}  # all that have not left, which leave in this order
        self._calls: dict[AskedImage, float] = {}  # since when each running call runs
        self._seconds: deque[float] = deque(maxlen=16)  # of the last calls: so long does the next one take
        self._largest_prompt = 0
        self._proved = self._proving = self._started = self._closed = False
        self._trouble: str | None = None  # why the service can't be asked; the breaker is open then
        self._unready: str | None = None
        self._failed_key = ""
        self._not_before = self._spent_until = 0.0

    def encode(self, pixels: Pixels, about: ImageAbout) -> bytes:
        return jpeg_of(Image.fromarray(unpadded(self.transform, DecodedImage({self.transform: pixels}), about)))

    def ask(
        self,
        jpeg: bytes,
        tags: Sequence[str],
        partition: Partition,
        late: Callable[[RemoteAnswer], None],
        *,
        background: bool = False,
    ) -> Future[RemoteAnswer]:
        now = time.monotonic()
        image = AskedImage(jpeg, self._file.text(tags), partition, late, now + self._wait_s, background)
        with self._changed:
            if self._closed:
                image.future.cancel()
                return image.future
            refusal = self._refusal(partition, now, background)
            if refusal is None:
                self._turns.add(image)
                self._waiting[image] = None
                self._changed.notify()
                self._waiting_changed.notify()
        self.start()
        if refusal is not None:
            image.leave(refusal)
        image.future.add_done_callback(partial(self._left, image))
        return image.future

    def start(self) -> None:
        with self._changed:
            begins, self._started = not (self._started or self._closed), True
        for work in (self._watch_waiting, *[self._work] * self._file.requests) if begins else ():
            threading.Thread(target=work, name="captioner", daemon=True).start()

    def unready(self) -> str | None:
        return self._unready

    def close(self) -> None:
        """Cancel what waits. Running calls go on without anyone who waits for them."""
        with self._changed:
            self._closed = True
            left = list(self._waiting)
            self._changed.notify_all()
            self._waiting_changed.notify_all()
        for image in left:
            image.future.cancel()

    def _refusal(self, partition: Partition, now: float, background: bool) -> Unanswered | None:
        """Why an image need not wait at all, if so."""
        if self._trouble is not None:
            return Unanswered("caption-unavailable", self._trouble)
        if now < self._spent_until:
            return self._spent()
        expected_s = self._expected_s(partition, now, background)
        if expected_s <= self._wait_s:
            return None
        detail = f"its turn would come in {expected_s:.0f} s, and TAGSTREAM_CAPTION_WAIT_S is {self._wait_s:g}"
        return Unanswered("caption-unavailable", detail)

    def _spent(self) -> Unanswered:
        detail = f"the {self._budget.per_day:,} tokens of TAGSTREAM_CAPTION_TOKENS_PER_DAY are spent for today (UTC)"
        return Unanswered("caption-budget", detail)

    def _expected_s(self, partition: Partition, now: float, background: bool) -> float:
        """Seconds to the turn of the partition's next image."""
        pause_s = max(0.0, self._not_before - now)
        if len(self._calls) < self._file.requests and not self._turns:
            return pause_s
        mean_s = max(fmean(self._seconds or [0.0]), fmean([now - since for since in self._calls.values()] or [0.0]))
        return pause_s + mean_s * (self._turns.ahead(partition, background) + 1) / self._file.requests

    def _must_prove(self, now: float) -> bool:
        if self._proving or now < self._spent_until:
            return False
        if self._trouble is None:
            return not self._proved
        due = self._breaker.may_probe(now) and now >= self._not_before
        return due or self._endpoint.key() != self._failed_key

    def _next(self) -> Callable[[], None] | None:
        """Wait for something to do; None: there is nothing any more."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._must_prove(now):
                    self._proving = True
                    if self._trouble is not None:
                        self._breaker.probe(now)
                    return self._prove
                well = self._proved and self._trouble is None
                if well and self._turns and now >= self._not_before:
                    image = self._turns.take()
                    self._calls[image] = now
                    return partial(self._call, image)
                pause_s = self._not_before - now if well and self._turns else _LOOK_S
                self._changed.wait(None if well and not self._turns else pause_s)
        return None

    def _work(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception as error:  # noqa: BLE001  # a bug of ours ends the worker, by an image's future
                self._all_leave(error)
                time.sleep(_SPENT_S)  # where no image waits: what failed may cost tokens

    def _watch_waiting(self) -> None:
        """Let go each image whose time is over."""
        detail = f"no answer within {self._wait_s:g} s (TAGSTREAM_CAPTION_WAIT_S)"
        while True:
            with self._waiting_changed:
                if self._closed:
                    return
                now = time.monotonic()
                first = next(iter(self._waiting), None)
                if first is None or first.until > now:
                    self._waiting_changed.wait(None if first is None else first.until - now)
                    continue
            first.leave(Unanswered("caption-unavailable", detail))

    def _left(self, image: AskedImage, _: Future[RemoteAnswer]) -> None:
        with self._changed:
            self._waiting.pop(image, None)
            self._turns.remove(image)

    def _all_leave(self, error: Exception) -> None:
        """Let go all images that are not being asked about."""
        with self._changed:
            images = [image for queue in self._turns.values() for image in queue]
            self._turns.clear()
        for image in images:
            image.leave(error)

    def _call(self, image: AskedImage) -> None:
        error: Exception | None = None
        try:
            answer = self._paid(image.jpeg, image.text, self._calls[image] + _CALL_S, [])
        except Exception as raised:  # noqa: BLE001  # as in `_work`
            error = raised
        now = time.monotonic()
        alive = error is None or (isinstance(error, Unanswered) and error.reason != "caption-budget")
        with self._changed:
            self._seconds.append(now - self._calls.pop(image))
            if alive and self._breaker.succeeded(now):
                self._trouble_ended()
        if error is None:
            image.answer(answer)
        elif isinstance(error, Unavailable):
            self._unanswered(image, error)
        elif isinstance(error, Misplaced):
            self._trouble_came(error)
            image.leave(Unanswered("caption-unavailable", error.detail))
        else:
            image.leave(error)

    def _paid(self, jpeg: bytes | None, text: str, deadline: float, usages: list[TokenUsage | None]) -> RemoteAnswer:
        """Call the service, and count what each request cost, in `usages` too."""
        began, result = time.monotonic(), "answered"
        try:
            return self._endpoint.call(jpeg, text, deadline, partial(self._reserve, usages))
        except Unanswered as error:
            result = "refused" if error.reason == "caption-budget" else error.reason.removeprefix("caption-")
            raise
        except TagstreamError as error:
            result = "misplaced" if isinstance(error, Misplaced) else "unavailable"
            raise
        finally:
            if usages:
                metrics.CAPTION_REQUESTS.add(result=result)
                metrics.CAPTION_SECONDS.record(time.monotonic() - began)

    def _reserve(self, usages: list[TokenUsage | None], tokens: int) -> Spent:
        """Take tokens for a request whose answer has at most so many. Raises as `_paid`."""
        most = max(_PROMPT_TOKENS, self._budget.per_day // 10)  # or one absurd usage would end all days to come
        reserved = self._budget.reserve(min(self._largest_prompt or _PROMPT_TOKENS, most) + tokens)
        if reserved is None:
            with self._changed:
                self._spent_until = time.monotonic() + _SPENT_S
            self._all_leave(self._spent())
            raise self._spent()
        return partial(self._settle, usages, reserved)

    def _settle(self, usages: list[TokenUsage | None], reserved: Reserved, usage: TokenUsage | None) -> None:
        """Count what a request has cost; an unknown one counts as reserved."""
        usages.append(usage)
        prompt, completion = usage or (0, 0)
        unknown = reserved.tokens if usage is None else 0
        with self._changed:
            self._largest_prompt = max(self._largest_prompt, prompt)
        self._budget.settle(reserved, prompt + completion + unknown)
        for kind, tokens in (("prompt", prompt), ("completion", completion), ("reserved", unknown)):
            metrics.CAPTION_TOKENS.add(tokens, kind=kind)

    def _unanswered(self, image: AskedImage, error: Unavailable) -> None:
        """Ask again for an image, or let it go."""
        now = time.monotonic()
        back_s = error.retry_after_s if isinstance(error, Away) else None
        with self._changed:
            if back_s is None:
                image.tries += 1
                opens = self._breaker.failed(image, now, at_once=not isinstance(error, Away))
            else:  # it is there, and says when to come back
                pause_s = max(back_s, _LOOK_S) * random.uniform(1.0, 1.25)
                self._not_before = max(self._not_before, now + pause_s)
                opens = False
            well = image.tries < _TRIES and not opens and self._trouble is None
            again = well and image.until > self._not_before and image in self._waiting
            if again:
                self._turns.add(image, first=True)
        if opens:
            self._trouble_came(error)
        if not again:
            image.leave(Unanswered("caption-unavailable", error.detail))

    def _trouble_came(self, error: Misplaced | Unavailable) -> None:
        """Stop asking: whatever waits leaves, and so does what comes."""
        unready, now = isinstance(error, Misplaced), time.monotonic()
        with self._changed:
            before, self._trouble = self._trouble, error.detail
            self._breaker.failed("service", now, at_once=True)
            if self._proving:
                self._breaker.probe_failed(now)
            self._unready = error.detail if unready else None
            self._failed_key = self._endpoint.key()
        if not unready and before is None:  # the worker says why it is unready
            logger.warning("no captions until the service answers: %s", error.detail)
        self._all_leave(Unanswered("caption-unavailable", error.detail))

    def _prove(self) -> None:
        """Find out whether the service can be asked."""
        try:
            until = time.monotonic() + _PROOF_S
            if self._proved and self._unready is None:  # after an outage a few words show enough, and cost little
                self._shown(None, until)
            else:
                seen, told = self._shown(_known_picture(self._file.side), until)
                blind, told_blind = self._shown(None, until)
                if (seen <= blind) if seen and blind else told == told_blind is not None:
                    advice = "name a model that sees in TAGSTREAM_CAPTION_MODEL"
                    raise Misplaced(f"{self.name!r} answers as if it got no image: {advice}", paid=True)
        except Unanswered:  # the day's tokens are spent
            with self._changed:
                self._breaker.probe_lost()
        except (Misplaced, Unavailable) as error:
            told_s = (error.retry_after_s or 0.0) if isinstance(error, Away) else 0.0
            self._not_before = time.monotonic() + (_PAID_S if isinstance(error, Misplaced) and error.paid else told_s)
            self._trouble_came(error)
        else:
            with self._changed:
                self._proved, self._not_before = True, 0.0
                if self._trouble is not None:
                    self._breaker.probe_answered(time.monotonic())
                    self._trouble_ended()
        finally:
            with self._changed:
                self._proving = False
                self._changed.notify_all()

    def _trouble_ended(self) -> None:
        """Ask again. With the lock."""
        self._trouble = self._unready = None
        self._changed.notify_all()
        logger.info("the service answers again: captions go on")

    def _shown(self, jpeg: bytes | None, until: float) -> tuple[int, str | None]:
        """Prompt tokens (0: unknown) and the caption (None: refused) of the known picture, or of none."""
        usages, caption = list[TokenUsage | None](), None
        try:
            caption = self._paid(jpeg, self._file.text(()), until, usages).caption.text
        except Unanswered as error:
            if error.reason == "caption-budget":
                raise
            if error.reason == "caption-failed" and jpeg is not None:
                raise Misplaced(f"the service does not take a picture: {error.detail}", paid=True) from None
        return max((each.prompt for each in usages if each is not None), default=0), caption


def _known_picture(side: int) -> bytes:
    """A red disc on white, as large as any other image."""
    picture = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(picture).ellipse((side // 4, side // 4, 3 * side // 4, 3 * side // 4), "red")
    return jpeg_of(picture)
