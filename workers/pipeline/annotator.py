"""Runs the models on batches, and finds a batch's failing image."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from schemas.dead_letter import Failure
from workers import metrics
from workers.errors import Broken
from workers.pipeline import tracing
from workers.pipeline.roles import ModelRole, Roles
from workers.pipeline.task import Attempt, Task, TaskNames

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class SafeBatch:
    """The largest batch that fits the device's memory, in images.

    Args:
        quiet: number of full batches without an error after which a halved size doubles again.
    """

    def __init__(self, largest: int, quiet: int = 100) -> None:
        self.largest = max(1, largest)
        self.size = self.largest
        self._quiet = quiet
        self._good = 0

    def ran(self, images: int) -> None:
        if self.size < self.largest and images >= self.size:
            self._good += 1
            if self._good >= self._quiet:
                self.size = min(self.largest, self.size * 2)
                self._good = 0

    def ran_out_of_memory(self, images: int) -> None:
        self.size = max(1, min(self.size, images // 2))
        self._good = 0


def run_halving(
    step: Callable[[Sequence[Item]], Sequence[Answer]],
    items: Sequence[Item],
    failed: Callable[[Sequence[Item], Exception], None],
) -> list[Answer | Exception]:
    """Run `step` on all items; if it raises, run it on each half again.

    Args:
        step: returns one answer for each item, in the same order.
        failed: called with the items and the error of each failed call.

    Returns:
        The answer for each item, or the error of the call with this item alone.

    Raises:
        Broken: `step` raised it. Then the items are not divided further.
    """
    if not items:
        return []
    try:
        return list(step(items))
    except Broken:
        raise
    except Exception as error:  # noqa: BLE001  # a model may raise any exception
        failed(items, error)
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        return run_halving(step, items[:middle], failed) + run_halving(step, items[middle:], failed)


_log = logging.getLogger(__name__)


class Ceiling:
    """Counts rejected images. Too many of them mean that the device is broken.

    Args:
        run: allowed number of rejected images in a row.
        share: allowed share of rejected images among the last `window`.
    """

    def __init__(self, run: int = 20, share: float = 0.5, window: int = 100) -> None:
        self._run_limit = run
        self._share = share
        self._last: deque[bool] = deque(maxlen=window)
        self._run = 0

    def note(self, blamed: bool) -> None:
        """Raises Broken: too many images were rejected."""
        self._last.append(blamed)
        self._run = self._run + 1 if blamed else 0
        full = len(self._last) == self._last.maxlen
        if self._run >= self._run_limit or (full and sum(self._last) > self._share * len(self._last)):
            raise Broken(
                f"{sum(self._last)} of the last {len(self._last)} images made the model fail. The cause is "
                "the device or the model, not the images; replay those that were dead-lettered until now"
            )


class Annotator:
    """Runs the models of all roles on a batch. Not thread-safe.

    A role with a smaller safe batch runs the images in pieces.
    """

    def __init__(self, roles: Roles) -> None:
        self.roles = roles
        self.safe = {role.name: SafeBatch(role.model.max_batch) for role in roles.models}
        self._ceilings = {role.name: Ceiling() for role in roles.models}

    @property
    def most_images(self) -> int:
        """The largest safe batch of tagger and captioner together, in images."""
        return min((self.safe[role.name].size for role in self.roles.own), default=1)

    def annotate(self, attempts: Sequence[Attempt]) -> None:
        """Fill in the answers and failures of each attempt. Raises Broken: the device is broken."""
        tasks = _tasks(attempts)
        with tracing.batch([task.span for task in tasks]) as span:
            if span is not None and span.is_recording():
                span.set_attribute("tagstream.event_ids", [task.event.id for task in tasks])
            for role in self.roles.models:
                if lacking := [each for each in attempts if role in self.roles.missing(each.annotation)]:
                    self._run(role, lacking)
                    self.safe[role.name].ran(len(attempts))

    def _run(self, role: ModelRole, attempts: Sequence[Attempt]) -> None:
        ready = [attempt for attempt in attempts if self._is_ready(role, attempt)]

        def forward(some: Sequence[Attempt]) -> Sequence[Any]:
            answers = role.run(some)
            if any(task.alone for task in _tasks(some)):
                # An error in the postprocessing of an image that runs alone must lead to the self-test below.
                for attempt, answer in zip(some, answers, strict=True):
                    attempt.annotation.results[role.name] = role.finish(answer)
            return answers

        answers: list[Any] = []
        while rest := ready[len(answers) :]:
            answers += run_halving(forward, rest[: self.safe[role.name].size], partial(self._failed, role))
        for attempt, answer in zip(ready, answers, strict=True):
            if isinstance(answer, Exception):
                self._blame(role, attempt, answer)
            else:
                attempt.answers[role.name] = answer
                if not attempt.known_good:
                    self._ceilings[role.name].note(False)

    def _is_ready(self, role: ModelRole, attempt: Attempt) -> bool:
        """Postprocess the answers of other roles that this role needs; False: one of them failed."""
        image, answers = attempt.annotation, attempt.answers
        needed, results = role.needs(image.event.options), image.results
        for other in self.roles.models:
            if other.name in needed and other.name not in results and other.name in answers:
                try:
                    results[other.name] = other.finish(answers[other.name])
                except ValueError as error:
                    del answers[other.name]
                    self._blame(other, attempt, error)
        return self.roles.essential.isdisjoint(attempt.failures)

    def _failed(self, role: ModelRole, attempts: Sequence[Attempt], error: Exception) -> None:
        out_of_memory = isinstance(error, MemoryError)
        metrics.BATCH_FAILURES.add(cause="memory" if out_of_memory else "error")
        names = TaskNames(_tasks(attempts))
        _log.warning("the model failed (%s) on a batch of %d: %s", type(error).__name__, len(attempts), names)
        if out_of_memory:
            self.safe[role.name].ran_out_of_memory(len(attempts))

    def _blame(self, role: ModelRole, attempt: Attempt, error: Exception) -> None:
        """Reject an image, after a self-test of the model. Raises Broken: that failed, or too many images did."""
        image = attempt.annotation
        where = "a self-test image" if attempt.task is None else attempt.task.job.coordinates
        try:
            role.self_test(attempt)
        except Exception as second:  # noqa: BLE001  # any error here means a broken device
            raise Broken(
                f"the device fails on an image that is known to be good ({type(second).__name__}: {second}),"
                f" tried after it failed on {where}"
            ) from error
        if not attempt.known_good:
            self._ceilings[role.name].note(True)
        if not self.roles.wants(image, role):
            return  # the event is complete without this role
        detail = f"the model raised {type(error).__name__} on this image alone, not on one known to be good"
        attempt.failures[role.name] = Failure(
            index=image.event.index, stage=role.stage, reason=role.reason, detail=detail, want=role.name
        )


def _tasks(attempts: Sequence[Attempt]) -> list[Task]:
    """The tasks of these attempts; a self-test has none."""
    return [attempt.task for attempt in attempts if attempt.task is not None]
