"""The three steps of an intake, done in the caller's thread: what the forms without child processes run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from workers.errors import Rejected
from workers.intake.decoding import Decoding, facts_of
from workers.intake.fetching import Fetching, encoded
from workers.intake.limits import Limits
from workers.ports import ObjectStore
from workers.types import DecodedImage, Facts, Fetched, Job, Transform

Answer = TypeVar("Answer")


class Stages:
    """Fetch, inspect, decode. Thread-safe; holds no bytes of its own.

    Args:
        store: where the objects are.
        transforms: every distinct Transform of the models in use.
        limits: what an object and its image may be.
        reducing_gap: as in `geometry.scale_of`.
    """

    def __init__(
        self, store: ObjectStore, transforms: Sequence[Transform], limits: Limits, reducing_gap: float = 0.0
    ) -> None:
        self._decoding = Decoding(transforms, limits, reducing_gap)
        self._fetching = Fetching(store, limits, self._decoding)

    def fetch(self, job: Job, max_bytes: int) -> Fetched:
        """Errors as in `ports.Intake.fetch`."""
        return _light(lambda: self._fetching.fetch(job, max_bytes))

    def inspect(self, fetched: Fetched) -> Facts:
        """Errors as in `ports.Intake.inspect`.

        Raises:
            Broken: the header of an image known to be good can't be read either.
        """
        return _light(lambda: facts_of(fetched, self._decoding.inspect(encoded(fetched).read())))

    def decode(self, fetched: Fetched, facts: Facts) -> DecodedImage:
        """Errors as in `ports.Intake.decode`.

        Raises:
            Broken: an image known to be good can't be decoded either.
        """
        return _light(lambda: self._decoding.decode(encoded(fetched).take(), facts.format))

    def check(self, name: str | None) -> None:
        """As `Decoding.check`."""
        self._decoding.check(name)

    def discard(self, fetched: Fetched) -> None:
        encoded(fetched).drop()


def _light(work: Callable[[], Answer]) -> Answer:
    """What this answers. A rejection is raised without the frames that it came through: they hold an image's bytes."""
    try:
        return work()
    except Rejected as error:
        error.__cause__ = error.__context__ = None
        light = error.with_traceback(None)
    raise light
