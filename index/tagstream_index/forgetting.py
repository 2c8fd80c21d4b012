"""The retention of removed images."""

from __future__ import annotations

import logging
import time
from typing import Final

from tagstream_index.database import Connection, limited
from tagstream_index.settings import FOR_EVER, IndexSettings
from workers.backends.kafka import TopicState, describe_topics
from workers.backends.kafka.client import Security
from workers.errors import Misconfigured, Unavailable

logger = logging.getLogger(__name__)

_EVERY_S: Final = 60.0
_ROWS: Final = 10_000
"""The most rows of one turn."""

_FORGET: Final = (
    b"""delete from image where subject in (
        select subject from image where gone and changed_at < now() - make_interval(secs => %s) limit %s)""",
    b"""delete from gone_version where document in (
        select document from gone_version where changed_at < now() - make_interval(secs => %s) limit %s)""",
)


class Forgetting:
    """Deletes the rows of removed images after TAGSTREAM_INDEX_FORGET_AFTER."""

    def __init__(self, settings: IndexSettings, servers: str, security: Security | None) -> None:
        self._settings = settings
        self._servers = servers
        self._security = security
        self._after_s = settings.index_forget_after
        self._next_at = 0.0

    def due(self) -> bool:
        """Once a minute."""
        return time.monotonic() >= self._next_at

    def turn(self, connection: Connection) -> None:
        """Forget some rows."""
        self._next_at = time.monotonic() + _EVERY_S
        if self._after_s is None:
            self._after_s = self.longest_s()
        if self._after_s is None or self._after_s == FOR_EVER:
            return
        with limited(connection):
            for statement in _FORGET:
                connection.execute(statement, (self._after_s, _ROWS))

    def longest_s(self) -> float | None:
        """The longest retention of the input and dead letter topics; None if no broker answers."""
        topics = [*self._settings.input_topics, self._settings.dead_letter_topic]
        try:
            found = describe_topics(
                self._servers, dict.fromkeys(topics, ("retention.ms", "cleanup.policy")), security=self._security
            )
        except Unavailable:
            return None
        except Misconfigured as error:
            logger.warning("removed images are remembered for ever: %s", error)
            return FOR_EVER
        longest = max(_retention_s(found.get(topic)) for topic in topics)
        logger.info("removed images are remembered for %s", "ever" if longest == FOR_EVER else f"{longest:,.0f} s")
        return longest


def _retention_s(topic: TopicState | None) -> float:
    """How long a topic keeps records, in seconds; without a setting for ever."""
    told = {} if topic is None else topic.settings
    kept_ms = int(told.get("retention.ms", "-1"))
    return kept_ms / 1000 if kept_ms >= 0 and "delete" in told.get("cleanup.policy", "delete") else FOR_EVER
