"""In-memory fakes of the object store, the result cache and the clock; Kafka's are in memory_kafka.py.

They keep the contracts of their ports (one suite runs on them and on the real servers) and can fail on command.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from schemas.correction import CorrectionRecord, Corrections, Word
from workers.errors import BucketGone, Gone, LargerThanReserved, Rejected, Superseded, TagstreamError, Unavailable
from workers.ports import Clock, SystemClock
from workers.types import ObjectVersion, StoredObject

Kept = TypeVar("Kept")

_MAX_VALUE_BYTES = 1024 * 1024


class ManualClock:
    """A clock that moves only on command. `sleep` moves it and returns at once. Thread-safe."""

    def __init__(self, monotonic: float = 1000.0, wall: float = 1_800_000_000.0) -> None:
        self._lock = threading.Lock()
        self._monotonic = monotonic
        self._wall = wall

    def monotonic(self) -> float:
        with self._lock:
            return self._monotonic

    def wall(self) -> float:
        with self._lock:
            return self._wall

    def sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))

    def advance(self, seconds: float) -> None:
        """Let time pass on both faces."""
        with self._lock:
            self._monotonic += seconds
            self._wall += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as NTP may; monotonic time does not notice."""
        with self._lock:
            self._wall += seconds


@dataclass
class _Fault:
    """The faults of the next reads of an object."""

    error: TagstreamError | None
    delay_s: float
    reads: Iterator[object]

    def strikes(self) -> bool:
        return next(self.reads, None) is not None


class MemoryObjectStore:
    """Buckets in memory, every version kept. Thread-safe.

    A bucket exists once something was put into it or `make_bucket` was called. `reads` tells every `get` and
    `head`, in order.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.reads: list[tuple[str, str]] = []
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._buckets: dict[str, dict[str, list[StoredObject | None]]] = {}
        self._faults: dict[tuple[str, str | None], _Fault] = {}
        self._versions = itertools.count(1)

    def make_bucket(self, bucket: str) -> None:
        with self._lock:
            self._buckets.setdefault(bucket, {})

    def put(self, bucket: str, key: str, body: bytes, content_type: str = "") -> StoredObject:
        """Store a new version; returns the later answer of a `get` of it.

        The answer's date differs.
        """
        with self._lock:
            stored = StoredObject(
                body=body,
                etag=hashlib.md5(body, usedforsecurity=False).hexdigest(),
                version_id=f"v{next(self._versions)}",
                last_modified=self._date(),
            )
            self._buckets.setdefault(bucket, {}).setdefault(key, []).append(stored)
            return stored

    def remove(self, bucket: str, key: str) -> None:
        """Put a delete marker on top: older versions can still be read by their ids."""
        with self._lock:
            self._buckets.get(bucket, {}).get(key, []).append(None)

    def fail(self, bucket: str, key: str | None, error: TagstreamError, *, times: int | None = None) -> None:
        """Let reads of this key (None: of the whole bucket) raise `error`, `times` times or until `heal`."""
        self._fault(bucket, key, error, 0.0, times)

    def delay(self, bucket: str, key: str | None, seconds: float, *, times: int | None = None) -> None:
        """Let reads of this key (None: of the whole bucket) take this long; past their deadline they fail."""
        self._fault(bucket, key, None, seconds, times)

    def heal(self) -> None:
        """End every fault."""
        with self._lock:
            self._faults.clear()

    def get(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None,
        etag: str | None,
        max_bytes: int,
        deadline_s: float,
        first_bytes: int = 0,
        patient: bool = True,
    ) -> StoredObject:
        stored = self._met(bucket, key, version_id, deadline_s)
        if etag is not None and etag.strip('"') != stored.etag:
            raise Superseded("the object has another etag than the event names")
        body = stored.body[: first_bytes or None]
        if len(body) > max_bytes:
            raise LargerThanReserved(len(body))
        if not body:
            raise Rejected("fetch", "empty-object", "the object has no bytes")
        return replace(stored, body=body, date=self._date(), rest=len(stored.body) - len(body))

    def head(self, bucket: str, key: str, *, deadline_s: float) -> ObjectVersion:
        stored = self._met(bucket, key, None, deadline_s)
        return ObjectVersion(stored.etag, stored.version_id, stored.last_modified)

    def _date(self) -> str:
        """In whole seconds, as HTTP tells time."""
        return datetime.fromtimestamp(int(self._clock.wall()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _fault(
        self, bucket: str, key: str | None, error: TagstreamError | None, delay_s: float, times: int | None
    ) -> None:
        reads: Iterator[object] = itertools.count(1) if times is None else iter(range(1, times + 1))
        with self._lock:
            self._faults[bucket, key] = _Fault(error, delay_s, reads)

    def _met(self, bucket: str, key: str, version_id: str | None, deadline_s: float) -> StoredObject:
        """The stored object, unless a fault strikes first."""
        fault = self._meet(bucket, key)
        if fault is not None and fault.delay_s:
            time.sleep(min(fault.delay_s, deadline_s))
            if fault.delay_s > deadline_s:
                raise Unavailable("s3", f"the object did not arrive within {deadline_s:g} s", fault="too-slow")
        if fault is not None and fault.error is not None:
            raise fault.error
        return self._find(bucket, key, version_id)

    def _meet(self, bucket: str, key: str) -> _Fault | None:
        with self._lock:
            self.reads.append((bucket, key))
            faults = (self._faults.get((bucket, key)), self._faults.get((bucket, None)))
            return next((fault for fault in faults if fault is not None and fault.strikes()), None)

    def _find(self, bucket: str, key: str, version_id: str | None) -> StoredObject:
        with self._lock:
            if bucket not in self._buckets:
                raise BucketGone("s3", f"the bucket {bucket!r} does not exist", fault="access")
            versions = self._buckets[bucket].get(key, [])
            if version_id is not None:
                versions = [stored for stored in versions if stored is not None and stored.version_id == version_id]
            if not versions or versions[-1] is None:
                raise Gone("no such object", self._date())
            return versions[-1]


class MemoryResultCache:
    """Two dictionaries with a time to live. Thread-safe.

    With `down` set it keeps its entries and answers nothing, like a cache that can't be reached.
    """

    def __init__(self, *, ttl_s: float = 3600.0, clock: Clock | None = None) -> None:
        self.down = False
        self._ttl_s = ttl_s
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._values: dict[str, tuple[float, bytes]] = {}
        self._hashes: dict[str, tuple[float, dict[str, bytes]]] = {}

    def lookup(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._lock:
            return [self._alive(self._values.get(key)) for key in keys]

    def lookup_fields(self, fields: Sequence[tuple[str, str]]) -> list[bytes | None]:
        with self._lock:
            hashes = [self._alive(self._hashes.get(name)) for name, _ in fields]
            return [known.get(field) if known else None for known, (_, field) in zip(hashes, fields, strict=True)]

    def remember(self, values: Mapping[str, bytes], fields: Mapping[tuple[str, str], bytes]) -> None:
        if self.down:
            return
        with self._lock:
            until = self._clock.monotonic() + self._ttl_s
            self._values.update(
                {key: (until, value) for key, value in values.items() if len(value) <= _MAX_VALUE_BYTES}
            )
            for (name, field), value in fields.items():
                if len(value) > _MAX_VALUE_BYTES:
                    continue
                known = self._alive(self._hashes.get(name)) or {}
                self._hashes[name] = (until, {**known, field: value})

    def hashes(self, names: Sequence[str]) -> list[dict[str, bytes]]:
        with self._lock:
            return [dict(self._alive(self._hashes.get(name)) or {}) for name in names]

    def forget(self, names: Sequence[str]) -> None:
        if self.down:
            return
        with self._lock:
            for name in names:
                self._hashes.pop(name, None)
                self._values.pop(name, None)

    def close(self) -> None:
        """Keeps its entries: a restarted worker finds them."""

    def _alive(self, entry: tuple[float, Kept] | None) -> Kept | None:
        if entry is None or self.down or self._clock.monotonic() >= entry[0]:
            return None
        return entry[1]


class MemoryCorrections:
    """`ports.CorrectionLog` on a list of records. Thread-safe."""

    def __init__(self, *, people: bool = False) -> None:
        self._records: list[CorrectionRecord] = []
        self._read = 0
        self._said = Corrections(people=people)

    def produce(self, record: CorrectionRecord) -> None:
        self._records.append(record)

    def catch_up(self, stopping: Callable[[], bool]) -> None:
        self.follow(0)

    def follow(self, timeout_s: float) -> None:
        if self._read == len(self._records):
            time.sleep(min(timeout_s, 0.01))
        for record in self._records[self._read :]:
            with suppress(ValueError):
                self._said.take(record.key, record.value)
            self._read += 1

    def on(self, subject: str, sha256: str, etag: str = "", since: str | None = None) -> Word | None:
        return self._said.on(subject, sha256, etag, since)

    def close(self) -> None: ...
