"""The first step of an intake: reads an object in this process, which holds the store's credentials.

Only `Decoding.glance`, pure Python, looks into the bytes here. A sandboxed process decodes them (`decoding.py`).
"""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from schemas.image_event import ImageEvent
from schemas.text import version_or_none
from workers import metrics
from workers.errors import BucketGone, Gone, LargerThanReserved, Rejected, Superseded, Unavailable
from workers.intake.decoding import Decoding, facts_of
from workers.intake.first_bytes import FIRST_BYTES, read_first_bytes
from workers.intake.header import sniff
from workers.intake.heap import freed
from workers.intake.limits import Limits
from workers.ports import ObjectStore
from workers.rendition import NO_RENDITIONS, Rendition
from workers.types import Fetched, Job, Original, StoredObject

_SHARE: Final = 0.25
"""Of the time for an object, what its rendition may take: the object itself must still come in what is left."""


class EncodedBytes:
    """The handle of a `Fetched`: an object's bytes, which can be read until they are taken out. Thread-safe."""

    __slots__ = ("_body", "_lock")

    def __init__(self, body: bytes) -> None:
        self._lock = threading.Lock()
        self._body: bytes | None = body

    def read(self) -> bytes:
        """The bytes, which stay.

        Raises RuntimeError: they were decoded or discarded before, which is a bug of the caller.
        """
        with self._lock:
            return self._present()

    def take(self) -> bytes:
        """Hand the bytes over and forget them. Raises RuntimeError as `read` does."""
        with self._lock:
            body = self._present()
            self._body = None
            return body

    def drop(self) -> None:
        with self._lock:
            size, self._body = len(self._body or b""), None
        freed(size)

    def _present(self) -> bytes:
        if self._body is None:
            raise RuntimeError("this object was decoded or discarded before")
        return self._body

    def __repr__(self) -> str:
        return f"<EncodedBytes{'' if self._body is None else f' {len(self._body)}'}>"


@dataclass(frozen=True)
class Fetching:
    """Reads objects, or their renditions. Thread-safe."""

    store: ObjectStore
    limits: Limits
    decoding: Decoding
    rendition: Rendition = NO_RENDITIONS

    def fetch(self, job: Job, max_bytes: int) -> Fetched:
        """Errors as in `ports.Intake.fetch`."""
        most, event = self.limits.max_object_bytes, job.event
        if event.action == "retract":
            now = self.store.head(event.bucket, event.key, deadline_s=self.limits.fetch_s)
            raise Superseded("the removed object exists again", now.last_modified)
        place = None if job.original else self.rendition.place(event.bucket, event.key)
        if place is None:
            self._check(event.size)
        if job.only_newest:
            self._check_newest(event)
        until = time.monotonic() + self.limits.fetch_s
        if place is not None:
            fetched = self._through(place, job, min(max_bytes, most), until)
            if fetched is not None:
                return fetched
            self._check(event.size)
        try:
            stored = self.store.get(
                event.bucket,
                event.key,
                version_id=event.version_id,
                etag=event.etag,
                max_bytes=min(max_bytes, most),
                deadline_s=until - time.monotonic(),
            )
        except Unavailable:
            freed(min(max_bytes, most))  # the most that was read before the answer broke off
            raise
        except LargerThanReserved as error:
            if error.size is None:  # the bound was read before the size was known
                freed(min(max_bytes, most))
            self._check(error.size)
            if max_bytes < most:
                raise
            raise Rejected("fetch", "object-too-large", f"more than the {most} bytes that are allowed") from None
        return self._fetched(job, stored)

    def _fetched(
        self, job: Job, stored: StoredObject, original: Original | None = None, shapes: tuple[float, ...] = ()
    ) -> Fetched:
        size = len(stored.body)
        fetched = Fetched(
            job=job,
            sha256=hashlib.sha256(stored.body).hexdigest(),
            etag=stored.etag,
            version_id=stored.version_id,
            last_modified=stored.last_modified,
            size=size,
            handle=EncodedBytes(stored.body),
            # a child reads a copy
            inspect_bytes=size + self.limits.inspect_held_bytes(sniff(stored.body), size),
            date=stored.date,
            original=original,
            shapes=shapes,
        )
        header = self.decoding.glance(stored.body)
        return fetched if header is None else replace(fetched, facts=facts_of(fetched, header))

    def _through(self, place: tuple[str, str], job: Job, max_bytes: int, until: float) -> Fetched | None:
        """The image by its rendition, or all of a small original; None: read the original."""
        first = self._first_bytes(job.event, max_bytes, until)
        if first is None:
            return None
        if not first.rest:
            return self._fetched(job, first)
        size, told = len(first.body) + first.rest, read_first_bytes(first.body, self.limits.facts)
        first = replace(first, body=b"")
        answer, copy = self._copy(place, first.last_modified, max_bytes, until)
        if copy is not None and not self._is_still(job.event, first, copy, until):
            freed(len(copy.body))
            answer, copy = "older", None
        metrics.RENDITIONS.add(answer=answer)
        if copy is None:
            return None
        original = Original(*place, size, told.format, told.width, told.height, told.told, self.limits.facts)
        shapes = told.shapes_of(read_first_bytes(copy.body, "off"))
        return self._fetched(job, replace(first, body=copy.body), original, shapes)

    def _first_bytes(self, event: ImageEvent, max_bytes: int, until: float) -> StoredObject | None:
        """The original's first bytes; None: the event names an older version of it, which has no rendition.

        Errors as of a GET of the original.
        """
        versioned = event.version_id is not None
        try:
            first = self.store.get(
                event.bucket,
                event.key,
                version_id=None,
                etag=None if versioned else event.etag,
                max_bytes=max_bytes,
                deadline_s=until - time.monotonic(),
                first_bytes=min(FIRST_BYTES, max_bytes),
            )
        except Gone:
            if versioned:
                return None
            raise
        named = event.etag is None or event.etag.strip('"') == first.etag
        current = not versioned or (named and version_or_none(event.version_id) == first.version_id)
        return first if current else None

    def _copy(
        self, place: tuple[str, str], since: str, max_bytes: int, until: float
    ) -> tuple[str, StoredObject | None]:
        """The rendition, and the metric's word for what came; None: it can't be used.

        Args:
            since: RFC 3339; an older rendition is of an earlier original.
        """
        seconds = min(until - time.monotonic(), _SHARE * self.limits.fetch_s)
        try:
            copy = self.store.get(
                *place, version_id=None, etag=None, max_bytes=max_bytes, deadline_s=seconds, patient=False
            )
        except (Gone, BucketGone):
            return "absent", None
        except (Rejected, LargerThanReserved):
            return "broken", None
        except Unavailable as error:
            if error.fault not in ("service", "too-slow"):
                return "refused", None
            freed(max_bytes)
            return "failed", None
        if copy.last_modified >= since:
            return "read", copy
        freed(len(copy.body))
        return "older", None

    def _is_still(self, event: ImageEvent, first: StoredObject, copy: StoredObject, until: float) -> bool:
        """Whether a rendition of this second may be of the object; a newer one could have been stored meanwhile."""
        if first.date is not None and copy.last_modified < first.date:
            return True
        with suppress(Gone, Unavailable):
            now = self.store.head(event.bucket, event.key, deadline_s=until - time.monotonic())
            return (now.etag, now.last_modified) == (first.etag, first.last_modified)
        return False

    def _check_newest(self, event: ImageEvent) -> None:
        """Raise Superseded if the key has another object than the event names."""
        now = self.store.head(event.bucket, event.key, deadline_s=self.limits.fetch_s)
        if event.version_id is not None and now.version_id is not None:
            same = event.version_id == now.version_id
        else:  # an event that names neither fits any object
            same = event.etag is None or event.etag.strip('"') == now.etag
        if not same:
            raise Superseded("the object's content has changed since the event")

    def _check(self, size: int | None) -> None:
        """Raise Rejected if an object of this size is too large."""
        most = self.limits.max_object_bytes
        if size is not None and size > most:
            raise Rejected("fetch", "object-too-large", f"{size} bytes; the limit is {most}")


def encoded(fetched: Fetched) -> EncodedBytes:
    """The bytes of a fetched object; TypeError if another intake fetched it."""
    if not isinstance(fetched.handle, EncodedBytes):
        raise TypeError("this object was fetched by another intake")
    return fetched.handle
