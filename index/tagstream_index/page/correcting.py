"""Corrections that the page sends, as `tagstream correct --apply` does; pending until an outcome shows them."""

from __future__ import annotations

import logging
import queue
import re
import secrets
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from schemas.correction import correction
from tagstream_index.page.one import One
from tagstream_index.query import storable
from tagstream_index.searching import LIVE, Searcher
from tagstream_index.settings import IndexSettings
from workers.assembly.corrections import Applier, Applying
from workers.errors import TagstreamError

logger = logging.getLogger(__name__)

MOST_PENDING: Final = 5_000
"""Corrections that are remembered; more are refused."""
_REMEMBERED_S: Final = 600.0
_SEEN: Final = f"""
select subject, bucket, key, sha256, etag, provenance #>> '{{models,tagger,digest}}', names from image
where subject = any(%(subjects)s::text[]) and {LIVE}
"""


class Refused(Exception):
    """An invalid correction; the text is a sentence for the user."""


class Crowded(Refused):
    """Too many corrections are on their way."""


class Seen(NamedTuple):
    """A picture as a person saw it; `model` is its tagger's digest."""

    subject: str
    bucket: str
    key: str
    sha256: str
    etag: str
    model: str | None
    names: Sequence[str]


class Pending(NamedTuple):
    """A correction on its way: `failure` says why it did not arrive."""

    name: str
    present: bool
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Sending:
    """The corrections of one tag that were sent together, by subject."""

    name: str
    present: bool
    parts: Mapping[str, Applying]
    unseen: set[str]
    """Subjects whose rows don't show the tag yet."""
    since: float = field(default_factory=time.monotonic)


def seen(searcher: Searcher, subjects: Sequence[str]) -> list[Seen]:
    """Pictures in the order of their subjects, each once; removed ones are left out."""
    known = [subject for subject in subjects if storable(subject) == subject]
    found = {each[0]: Seen(*each) for each in searcher.execute(_SEEN, {"subjects": known}).fetchall()}
    return [found[subject] for subject in dict.fromkeys(subjects) if subject in found]


class Corrector:
    """Sends corrections in the background, all by one thread. Thread-safe."""

    def __init__(self, settings: IndexSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._sendings: dict[str, Sending] = {}
        self._new = queue.SimpleQueue[Sequence[Applying]]()
        self._thread = ThreadPoolExecutor(1, "tagstream-correct")
        self._closing = False

    def send(self, pictures: Sequence[Seen], name: str, present: bool, by: str = "") -> str:
        """Say that pictures have a tag, or have it not; returns an id for `sending`.

        Raises:
            Refused: the correction is invalid.
            Crowded: too many are on their way.
        """
        parts = {each.subject: _applying(each, name, present, by) for each in pictures}
        with self._lock:
            self._forget_old(len(parts))
            if len(parts) + sum(len(each.parts) for each in self._sendings.values()) > MOST_PENDING:
                raise Crowded(f"{MOST_PENDING:,} corrections are on their way: wait for some of them.")
            for other in self._sendings.values():
                if other.name == name:
                    other.unseen.difference_update(parts)
            self._sendings[made := secrets.token_hex(8)] = Sending(name, present, parts, set(parts))
        self._new.put(list(parts.values()))
        self._thread.submit(self._run)
        return made

    def sending(self, made: str) -> Sending | None:
        """What was sent under an id; None: it is ten minutes old, or there was none."""
        with self._lock:
            self._forget_old()
            return self._sendings.get(made)

    def pending(self, picture: One) -> list[Pending]:
        """Corrections of a picture that its row does not show yet; failed ones come once."""
        subject, shown = picture.tile.subject, {True: picture.added, False: picture.removed}
        found = []
        with self._lock:
            self._forget_old()
            for each in self._sendings.values():
                if subject not in each.unseen:
                    continue
                failure, there = each.parts[subject].failure, each.name in shown[each.present]
                if not there:
                    found.append(Pending(each.name, each.present, failure))
                if there or failure:
                    each.unseen.discard(subject)
        return found

    def close(self) -> None:
        self._closing = True
        self._thread.shutdown(cancel_futures=True)

    def _forget_old(self, wanted: int = 0) -> None:
        """Forget what is old, or has ended where `wanted` more need room."""
        began = time.monotonic() - _REMEMBERED_S
        over = wanted + sum(len(each.parts) for each in self._sendings.values()) - MOST_PENDING
        for made, each in [*self._sendings.items()]:
            if each.since <= began or (over > 0 and all(part.ended for part in each.parts.values())):
                over -= len(self._sendings.pop(made).parts)

    def _waiting(self) -> list[Sequence[Applying]]:
        return [self._new.get_nowait() for _ in range(self._new.qsize())]

    def _run(self) -> None:
        """Apply all that waits, and what comes meanwhile."""
        taken = self._waiting()
        failure = "the page ended, or failed: its log tells"
        try:
            if taken:
                with Applier(self._settings) as applier:
                    for batch in taken:
                        applier.add(batch)
                    while applier.turn() and not self._closing:
                        for batch in self._waiting():
                            taken.append(batch)
                            applier.add(batch)
        except TagstreamError as error:
            logger.warning("corrections did not arrive: %s", error)
            failure = str(error)
        except Exception:  # the pool would keep it to itself
            logger.exception("corrections did not arrive: the page failed")
        finally:
            for each in (each for batch in taken for each in batch if not each.ended):
                each.failure = failure


def _applying(picture: Seen, name: str, present: bool, by: str) -> Applying:
    model = picture.model if re.fullmatch("[0-9a-f]{64}", picture.model or "") else None
    added, removed = ([name], []) if present else ([], [name])
    facts = {"sha256": picture.sha256, "etag": picture.etag, "model": model, "by": by or None}
    try:
        record = correction(picture.bucket, picture.key, added=added, removed=removed, **facts)
    except ValueError as error:
        raise Refused(f"This is no correction: {error}.") from error
    return Applying(record)


def missing(settings: IndexSettings, *, by_token: bool = True) -> Collection[str]:
    """The settings without which nothing can be corrected; not `by_token`: a proxy says who may."""
    wanted = ("kafka_servers", "s3_endpoint", "corrections_topic", *(("index_page_token",) if by_token else ()))
    return [f"TAGSTREAM_{name.upper()}" for name in wanted if not getattr(settings, name)]
