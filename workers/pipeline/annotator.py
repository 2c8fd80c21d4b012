"""The device's step: run a batch through the model of each role; find out whose fault a failure is."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from schemas.dead_letter import Failure
from workers import metrics
from workers.errors import Broken
from workers.pipeline import tracing
from workers.pipeline.batching import SafeBatch, run_halving
from workers.pipeline.roles import ModelRole, Roles
from workers.pipeline.task import Task, TaskNames

_log = logging.getLogger(__name__)


class Ceiling:
    """Counts rejected images in a row: too many mean that the device is broken, whatever the self-test image says.

    Args:
        run: so many in a row.
        share: or this share of the last `window` images, once the window is full.
    """

    def __init__(self, run: int = 20, share: float = 0.5, window: int = 100) -> None:
        self._run_limit = run
        self._share = share
        self._last: deque[bool] = deque(maxlen=window)
        self._run = 0

    def note(self, blamed: bool) -> None:
        """Raises:
        Broken: a ceiling is reached.
        """
        self._last.append(blamed)
        self._run = self._run + 1 if blamed else 0
        full = len(self._last) == self._last.maxlen
        if self._run >= self._run_limit or (full and sum(self._last) > self._share * len(self._last)):
            raise Broken(
                f"{sum(self._last)} of the last {len(self._last)} images made the model fail: "
                "that is the device or the model, not the images; replay those that were dead-lettered until now"
            )


class Annotator:
    """Runs all roles' models on a batch, and isolates a failing image. For the device thread."""

    def __init__(self, roles: Roles) -> None:
        self.roles = roles
        self.safe = SafeBatch(min((role.model.max_batch for role in roles.models), default=1))
        self._ceilings = {role.name: Ceiling() for role in roles.models}
        self._essential = {role.name for role in roles.models if role.essential}

    def annotate(self, tasks: Sequence[Task]) -> None:
        """Fill in `answers`, `results` where another role needs them now, or `failures`."""
        with tracing.batch([task.span for task in tasks]) as span:
            if span is not None and span.is_recording():
                span.set_attribute("tagstream.event_ids", [task.event.id for task in tasks])
            for role in self.roles.models:
                self._run(role, [task for task in tasks if role in self.roles.missing(task)])
        self.safe.ran(len(tasks))

    def _run(self, role: ModelRole, tasks: Sequence[Task]) -> None:
        ready = [task for task in tasks if self._is_ready(role, task)]
        if not ready:
            return

        def forward(some: Sequence[Task]) -> Sequence[Any]:
            answers = role.run(some)
            if some[0].alone:
                # An image under suspicion is postprocessed here, where the self-test image can answer for the device.
                for task, answer in zip(some, answers, strict=True):
                    task.results[role.name] = role.finish(answer)
            return answers

        for task, answer in zip(ready, run_halving(forward, ready, self._failed), strict=True):
            if isinstance(answer, Exception):
                self._blame(role, task, answer)
            else:
                task.answers[role.name] = answer
                if not task.known_good:
                    self._ceilings[role.name].note(False)

    def _is_ready(self, role: ModelRole, task: Task) -> bool:
        """Settle the results that the role needs. False: they are not to be had, and the task says why."""
        needed = role.needs(task.event.options)
        for other in self.roles.models:
            if other.name in needed and other.name not in task.results and other.name in task.answers:
                try:
                    task.results[other.name] = other.finish(task.answers[other.name])
                except ValueError as error:
                    del task.answers[other.name]
                    self._blame(other, task, error)
        return self._essential.isdisjoint(task.failures)

    def _failed(self, tasks: Sequence[Task], error: Exception) -> None:
        out_of_memory = isinstance(error, MemoryError)
        metrics.BATCH_FAILURES.add(cause="memory" if out_of_memory else "error")
        _log.warning("the model failed (%s) on a batch of %d: %s", type(error).__name__, len(tasks), TaskNames(tasks))
        if out_of_memory:
            self.safe.ran_out_of_memory(len(tasks))

    def _blame(self, role: ModelRole, task: Task, error: Exception) -> None:
        """Run the same step on a good image before blaming the task.

        Raises:
            Broken: the good image fails too, or too many images were blamed of late.
        """
        try:
            role.self_test(task)
        except Exception as second:  # noqa: BLE001  # whatever it is, it is not the image
            raise Broken(
                f"the device fails on an image that is known to be good ({type(second).__name__}: {second}),"
                f" tried after it failed on {task.job.coordinates}"
            ) from error
        if not task.known_good:
            self._ceilings[role.name].note(True)
        detail = f"the model raised {type(error).__name__} on this image alone, not on one known to be good"
        task.failures[role.name] = Failure(
            index=task.job.coordinates.index, stage=role.stage, reason=role.reason, detail=detail, want=role.name
        )
