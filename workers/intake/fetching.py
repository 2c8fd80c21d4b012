"""The first step of an intake: reads an object in this process, which holds the store's credentials.

Only `Decoding.glance`, pure Python, looks into the bytes here. A sandboxed process decodes them (`decoding.py`).
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from typing import NoReturn

from schemas.image_event import ImageEvent
from workers.errors import LargerThanReserved, Rejected, Superseded, Unavailable
from workers.intake.decoding import Decoding, facts_of
from workers.intake.header import sniff
from workers.intake.heap import freed
from workers.intake.limits import Limits
from workers.ports import ObjectStore
from workers.types import Fetched, Job


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


class Fetching:
    """Reads objects. Thread-safe."""

    def __init__(self, store: ObjectStore, limits: Limits, decoding: Decoding) -> None:
        self._store = store
        self._limits = limits
        self._decoding = decoding

    def fetch(self, job: Job, max_bytes: int) -> Fetched:
        """Errors as in `ports.Intake.fetch`."""
        most, event = self._limits.max_object_bytes, job.event
        if event.action == "retract":
            self._check_gone(event)
        self._check(event.size)
        if job.only_newest:
            self._check_newest(event)
        try:
            stored = self._store.get(
                event.bucket,
                event.key,
                version_id=event.version_id,
                etag=event.etag,
                max_bytes=min(max_bytes, most),
                deadline_s=self._limits.fetch_s,
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
            inspect_bytes=size + self._limits.inspect_held_bytes(sniff(stored.body), size),
            date=stored.date,
        )
        header = self._decoding.glance(stored.body)
        return fetched if header is None else replace(fetched, facts=facts_of(fetched, header))

    def _check_gone(self, event: ImageEvent) -> NoReturn:
        """Raise Superseded if the object is there. Other errors as of `ObjectStore.head`."""
        now = self._store.head(event.bucket, event.key, deadline_s=self._limits.fetch_s)
        raise Superseded("the removed object exists again", now.last_modified)

    def _check_newest(self, event: ImageEvent) -> None:
        """Raise Superseded if the key has another object than the event names."""
        now = self._store.head(event.bucket, event.key, deadline_s=self._limits.fetch_s)
        if event.version_id is not None and now.version_id is not None:
            same = event.version_id == now.version_id
        else:  # an event that names neither fits any object
            same = event.etag is None or event.etag.strip('"') == now.etag
        if not same:
            raise Superseded("the object's content has changed since the event")

    def _check(self, size: int | None) -> None:
        """Raise Rejected if an object of this size is too large."""
        most = self._limits.max_object_bytes
        if size is not None and size > most:
            raise Rejected("fetch", "object-too-large", f"{size} bytes; the limit is {most}")


def encoded(fetched: Fetched) -> EncodedBytes:
    """The bytes of a fetched object; TypeError if another intake fetched it."""
    if not isinstance(fetched.handle, EncodedBytes):
        raise TypeError("this object was fetched by another intake")
    return fetched.handle
