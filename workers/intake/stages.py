"""The two stages of an intake, done in the caller's thread: what every form of intake runs, wherever it runs it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from schemas.image_event import ImageEvent
from workers.errors import Rejected
from workers.intake.canary import Canary
from workers.intake.formats import sniff
from workers.intake.header import Header, guard, read_header
from workers.intake.limits import Limits
from workers.intake.transform import decode
from workers.ports import ObjectStore
from workers.vocabulary import Facts, Fetched, Job, Picture, StoredObject, Transform

_BLAMED_BY_DECODERS = frozenset({"broken-image", "decode-failed", "decode-memory"})
"""Verdicts that a decoder came to, not a limit: they need a canary."""


class EncodedBytes:
    """The handle of a `Fetched`: an object's bytes, which can be taken out once."""

    __slots__ = ("_body", "_lock")

    def __init__(self, body: bytes) -> None:
        self._lock = threading.Lock()
        self._body: bytes | None = body

    def take(self) -> bytes:
        """Hand the bytes over and forget them.

        Raises:
            RuntimeError: they were decoded or discarded before, which is a bug of the caller.
        """
        with self._lock:
            body, self._body = self._body, None
        if body is None:
            raise RuntimeError("this object was decoded or discarded before")
        return body

    def drop(self) -> None:
        with self._lock:
            self._body = None

    def __repr__(self) -> str:
        return f"<EncodedBytes{'' if self._body is None else f' {len(self._body)}'}>"


class Stages:
    """Fetch and decode. Thread-safe; holds no bytes of its own.

    Args:
        store: where the objects are.
        transforms: every distinct Transform of the models in use.
        limits: what an object and its picture may be.
    """

    def __init__(self, store: ObjectStore, transforms: Sequence[Transform], limits: Limits) -> None:
        guard(limits)
        self._store = store
        self._transforms = tuple(dict.fromkeys(transforms))
        self._turning = 4 if any(transform.exif_transpose for transform in self._transforms) else 0
        self._limits = limits
        self._canary = Canary(limits.formats)

    def fetch(self, job: Job) -> Fetched:
        """Get the object, read and check its header. Errors as in `ports.Intake.fetch`."""
        try:
            facts, body = self.read(job.event)
        except Rejected as error:
            raise _light(error) from None
        return Fetched(facts, EncodedBytes(body))

    def read(self, event: ImageEvent, codec: AbstractContextManager[object] | None = None) -> tuple[Facts, bytes]:
        """As `fetch`, with the bytes in the open. A header is read inside `codec`, because decoders do that too."""
        stored = self._get(event)
        with codec or nullcontext():
            header = self._header(stored.body)
        return self._facts(stored, header), stored.body

    def decode(self, fetched: Fetched) -> Picture:
        """Decode and transform. Errors as in `ports.Intake.decode`.

        Raises:
            Broken: a picture known to be good can't be decoded either.
        """
        handle = encoded(fetched)
        try:
            return self.decode_bytes(handle.take(), fetched.facts.format)
        except Rejected as error:
            raise _light(error) from None

    def decode_bytes(self, body: bytes, name: str) -> Picture:
        """As `decode`, of a picture whose header was read before."""
        try:
            return decode(body, name, self._transforms)
        except Rejected:
            self._canary.check(name)
            raise

    def check(self, name: str | None) -> None:
        """Decode a picture known to be good of this format; None: of every format that is taken.

        Raises:
            Broken: it can't be decoded.
        """
        for each in self._limits.formats if name is None else (name,):
            self._canary.check(each)

    def discard(self, fetched: Fetched) -> None:
        encoded(fetched).drop()

    def _facts(self, stored: StoredObject, header: Header) -> Facts:
        return Facts(
            sha256=hashlib.sha256(stored.body).hexdigest(),
            etag=stored.etag,
            version_id=stored.version_id,
            last_modified=stored.last_modified,
            size=len(stored.body),
            format=header.format,
            width=header.width,
            height=header.height,
            decode_bytes=header.decode_bytes + self._turning * header.width * header.height,
        )

    def _header(self, body: bytes) -> Header:
        try:
            return read_header(body, self._limits)
        except Rejected as error:
            if error.reason in _BLAMED_BY_DECODERS:
                self._canary.check(sniff(body))
            raise

    def _get(self, event: ImageEvent) -> StoredObject:
        limits = self._limits
        if event.size is not None and event.size > limits.max_object_bytes:
            detail = f"{event.size} bytes by its event, at most {limits.max_object_bytes} are allowed"
            raise Rejected("fetch", "object-too-large", detail)
        return self._store.get(
            event.bucket,
            event.key,
            version_id=event.version_id,
            etag=event.etag,
            max_bytes=limits.max_object_bytes,
            deadline_s=limits.fetch_s,
        )


def encoded(fetched: Fetched) -> EncodedBytes:
    """The handle of what this kind of intake fetched."""
    if not isinstance(fetched.handle, EncodedBytes):
        raise TypeError("this object was fetched by another intake")
    return fetched.handle


def _light(error: Rejected) -> Rejected:
    """The error without the frames that it came through: they hold a picture's bytes for as long as it is kept."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
