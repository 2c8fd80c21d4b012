"""The periodic self-test of the models.

A faulty device can return wrong numbers without an error. So every few minutes a self-test image joins a batch. Each
model compares its answer with the right one, with the same tolerance as in the warm-up.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from schemas.image_event import ImageEvent
from schemas.options import Options
from workers import metrics
from workers.errors import Broken
from workers.metrics import Reading
from workers.pipeline.annotation import Annotation
from workers.pipeline.annotator import Annotator
from workers.pipeline.commit.ledger import Ledger
from workers.pipeline.known_results import KnownResults
from workers.pipeline.profiles import make_profile
from workers.pipeline.roles import ModelRole
from workers.pipeline.task import AnnotatedTask, Attempt, DecodedTask
from workers.ports import Clock

_log = logging.getLogger(__name__)

_NAME = "self-test"


@dataclass(eq=False)
class DeviceSelfTest:
    """Runs the models on batches, and tests those of some roles. Only gauges are thread-safe.

    After a wrong answer the ledger publishes nothing, and the test is repeated at once. The repetition fills a batch of
    the same size with self-test images, because other sizes run other code. If all answers are right, the real batch
    runs again and the ledger continues. If an answer is wrong again, the device is broken: the cache entries since the
    last right answer are invalidated, and the process ends.

    Args:
        roles: those that are tested. Only a test of all roles proves what the cache holds.
        every_s: seconds between self-tests; 0: no self-tests.
    """

    annotator: Annotator
    roles: Sequence[ModelRole]
    ledger: Ledger
    results: KnownResults
    clock: Clock
    every_s: float

    def __post_init__(self) -> None:
        self._tested_at = self._right_at = self.clock.monotonic()  # the warm-up is the first self-test
        for result in ("right", "wrong"):
            metrics.SELF_TESTS.begin(result=result)

    @property
    def due(self) -> bool:
        return self.every_s > 0 and self.clock.monotonic() - self._tested_at >= self.every_s

    @property
    def most_images(self) -> int:
        """Most images of a batch; a due self-test takes one place."""
        return max(1, self.annotator.most_images - self.due)

    def age(self) -> list[Reading]:
        """Gauge: seconds since the last right answer."""
        return [(self.clock.monotonic() - self._right_at, {})] if self.every_s else []

    def safe_batch(self) -> list[Reading]:
        """Gauge: the largest safe batch by role, in images."""
        return [(safe.size, {"role": name}) for name, safe in self.annotator.safe.items()]

    def annotate(self, batch: Sequence[DecodedTask]) -> list[AnnotatedTask]:
        """Run the models on a batch; if a test is due, a self-test image joins."""
        full = len(batch) >= self.annotator.most_images
        if self.due and not full and not any(decoded.task.alone for decoded in batch):
            attempts = [decoded.attempt() for decoded in batch]
            wrong = self._test(attempts, copies=1)
            if wrong is None:
                return list(map(AnnotatedTask, batch, attempts))
            self._test_again(len(batch) + 1, wrong)
        attempts = [decoded.attempt() for decoded in batch]
        self.annotator.annotate(attempts)
        return list(map(AnnotatedTask, batch, attempts))

    def _test(self, attempts: Sequence[Attempt], copies: int) -> str | None:
        """Run these attempts with self-test images; returns a wrong answer's error."""
        tests = [known_good(self.roles) for _ in range(copies)]
        self.annotator.annotate([*attempts, *tests])
        self._tested_at = self.clock.monotonic()
        wrong = next((reason for test in tests if (reason := _wrong(self.roles, test))), None)
        metrics.SELF_TESTS.add(result="right" if wrong is None else "wrong")
        if wrong is None:
            self._right_at = self._tested_at
            if len(self.roles) == len(self.annotator.roles.models):
                self.results.prove()
        return wrong

    def _test_again(self, images: int, wrong: str) -> None:
        self.ledger.hold()
        _log.warning("wrong self-test answer: repeating the test before anything is published: %s", wrong)
        proved_s = self.clock.monotonic() - self._right_at
        since = datetime.fromtimestamp(self.clock.wall() - proved_s, UTC).isoformat(timespec="seconds")
        try:
            again = self._test((), copies=images)
        except Broken as error:
            again = str(error)
        if again is not None:
            self.results.disown()
            raise Broken(
                f"the device failed its self-test twice in a row ({again}): nothing more is published; "
                f"outcomes published since the last right answer, at {since}, may be wrong"
            )
        _log.warning("the repeated self-test passed: the batch is annotated again")
        self.ledger.release()


def known_good(roles: Sequence[ModelRole]) -> Attempt:
    """A self-test of these roles' models. It has no task, so nothing is published."""
    options = Options(want=tuple(role.name for role in roles))
    event = ImageEvent(id=_NAME, dialect="own", action="enrich", index=0, bucket=_NAME, key=_NAME, options=options)
    annotation = Annotation(event, make_profile(_NAME, ()), "")
    return Attempt(annotation, lambda model: model.self_test_image(), known_good=True)


def _wrong(roles: Sequence[ModelRole], test: Attempt) -> str | None:
    """The first error in the answers of a self-test; None: all are right."""
    for role in roles:
        if role.name in test.failures:
            return f"{role.model.name} failed on the self-test image in a batch, but not when it ran alone"
        try:
            role.check_self_test(test.answers[role.name])
        except (ValueError, Broken) as error:
            return str(error).rstrip(".")
    return None
