"""Images that wait for a service, by partition."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from workers import metrics
from workers.errors import Unanswered
from workers.types import Partition, RemoteAnswer


@dataclass(eq=False, slots=True)
class AskedImage:
    """An image to ask about.

    Args:
        until: when it leaves without an answer, by the monotonic clock.
        tries: calls for it that failed.
    """

    jpeg: bytes
    text: str
    partition: Partition
    late: Callable[[RemoteAnswer], None]
    until: float
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


class PartitionTurns:
    """Partitions take turns; images of one go in order. Not thread-safe."""

    def __init__(self) -> None:
        self._queues: dict[Partition, deque[AskedImage]] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, image: AskedImage, *, first: bool = False) -> None:
        """Queue an image at its partition's end; `first`: at its beginning."""
        queue = self._queues.setdefault(image.partition, deque())
        (queue.appendleft if first else queue.append)(image)

    def take(self) -> AskedImage:
        """Remove and return the next image; its partition's next turn is the last of all."""
        partition, queue = next(iter(self._queues.items()))
        del self._queues[partition]
        image = queue.popleft()
        if queue:
            self._queues[partition] = queue
        return image

    def remove(self, image: AskedImage) -> None:
        """Take an image out, if it is there."""
        queue = self._queues.get(image.partition)
        if queue is not None and image in queue:
            queue.remove(image)
            if not queue:
                del self._queues[image.partition]

    def ahead(self, partition: Partition) -> int:
        """How many images have their turn before the partition's next one."""
        own = len(self._queues.get(partition, ()))
        others = (len(queue) for other, queue in self._queues.items() if other != partition)
        return own + sum(min(length, own + 1) for length in others)

    def drain(self) -> Iterator[AskedImage]:
        """Take out all images."""
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            yield from queue
