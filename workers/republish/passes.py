"""Publishes groups of messages in transactions, in passes until nothing is left."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from workers.errors import Unpublished
from workers.ports import Publisher
from workers.types import Message, Transaction

_log = logging.getLogger(__name__)
_PASSES: Final = 5
"""The most passes. Another producer could cause one more after each pass."""

Group: TypeAlias = tuple[Message, ...]
"""Messages of one transaction."""


class Bounds(NamedTuple):
    """The limits of a transaction, and whether the run is stopped."""

    records: int
    bytes: int
    stopped: Callable[[], bool] = lambda: False


class Groups:
    """Publishes the groups of one pass."""

    def __init__(self, publisher: Publisher, bounds: Bounds, done: Callable[[list[Group]], object]) -> None:
        self._publisher, self._bounds, self._done = publisher, bounds, done
        self._groups: list[Group] = []
        self._records = self._bytes = 0
        self.published = False

    def add(self, group: Group) -> None:
        """Queue a group, and publish the queue if it is full. Raises Unpublished: a transaction failed."""
        size = sum(message.size for message in group)
        if self._records + len(group) > self._bounds.records or self._bytes + size > self._bounds.bytes:
            self.send()
        self._groups.append(group)
        self._records += len(group)
        self._bytes += size

    def send(self) -> None:
        """Publish the queue, unless the run is stopped; raises as `add`."""
        if self._groups and not self._bounds.stopped():
            self._publisher.publish(Transaction(tuple(chain.from_iterable(self._groups)), {}))
            self._done(self._groups)
            self._groups, self._records, self._bytes, self.published = [], 0, 0, True


def in_passes(
    add: Callable[[Groups], object], publisher: Publisher, bounds: Bounds, done: Callable[[list[Group]], object]
) -> None:
    """Repeat a pass until it publishes nothing, five times at most."""
    passes = 0
    while not bounds.stopped():
        groups = Groups(publisher, bounds, done)
        try:
            add(groups)
            groups.send()
        except Unpublished:
            publisher.recover()
            continue
        if not groups.published:
            break
        passes += 1
        if passes == _PASSES:
            _log.warning("others still write older outcomes of these images: run this again once they have ended")
            break
