"""A result cache in a namespace, with authenticated entries if keyed."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Mapping, Sequence

from workers import metrics
from workers.ports import ResultCache

_MAC_BYTES = 32


def scope(namespace: str) -> str:
    """What every entry's name begins with."""
    return f"tagstream:{namespace}:"


class ScopedCache:
    """`ports.ResultCache` on top of a shared one. Thread-safe as that is.

    The other may hold other deployments' entries and forged ones.

    Every name begins with the namespace. With a key every value is preceded by its HMAC-SHA256 over its full name and
    itself: without the key no one can make a value, nor move one to another name. An old value of the same name can
    be put back, and any can be removed.

    Args:
        namespace: letters, digits, '.', '_' and '-'.
        key: of the HMAC; empty: values are stored as they are, and believed as they come.
    """

    def __init__(self, cache: ResultCache, *, namespace: str, key: bytes = b"") -> None:
        self._cache = cache
        self._prefix = scope(namespace)
        self._key = key

    def lookup(self, keys: Sequence[str]) -> list[bytes | None]:
        names = [self._prefix + key for key in keys]
        return self._opened(((name, None) for name in names), self._cache.lookup(names))

    def lookup_fields(self, fields: Sequence[tuple[str, str]]) -> list[bytes | None]:
        names = [(self._prefix + name, field) for name, field in fields]
        return self._opened(names, self._cache.lookup_fields(names))

    def remember(self, values: Mapping[str, bytes], fields: Mapping[tuple[str, str], bytes]) -> None:
        names = {self._prefix + key: value for key, value in values.items()}
        places = {(self._prefix + name, field): value for (name, field), value in fields.items()}
        self._cache.remember(
            {name: self._sealed(name, None, value) for name, value in names.items()},
            {(name, field): self._sealed(name, field, value) for (name, field), value in places.items()},
        )

    def hashes(self, names: Sequence[str]) -> list[dict[str, bytes]]:
        full = [self._prefix + name for name in names]
        opened = []
        for name, found in zip(full, self._cache.hashes(full), strict=True):
            values = self._opened([(name, field) for field in found], list(found.values()))
            opened.append({field: value for field, value in zip(found, values, strict=True) if value is not None})
        return opened

    def forget(self, names: Sequence[str]) -> None:
        self._cache.forget([self._prefix + name for name in names])

    def close(self) -> None:
        self._cache.close()

    def _sealed(self, name: str, field: str | None, value: bytes) -> bytes:
        return self._mac(name, field, value) + value if self._key else value

    def _opened(self, places: Iterable[tuple[str, str | None]], values: Sequence[bytes | None]) -> list[bytes | None]:
        if not self._key:
            return list(values)
        return [
            None if value is None else self._if_ours(name, field, value)
            for (name, field), value in zip(places, values, strict=True)
        ]

    def _if_ours(self, name: str, field: str | None, sealed: bytes) -> bytes | None:
        mac, value = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
        if hmac.compare_digest(mac, self._mac(name, field, value)):
            return value
        metrics.CACHE_ERRORS.add(cause="forged")
        return None

    def _mac(self, name: str, field: str | None, value: bytes) -> bytes:
        """The MAC of an entry, over its parts with their lengths."""
        where = [name.encode(), *([] if field is None else [field.encode()])]
        framed = b"".join(struct.pack(">I", len(part)) + part for part in where)
        return hmac.digest(self._key, struct.pack(">B", len(where)) + framed + value, hashlib.sha256)


class NoCache:
    """`ports.ResultCache` that remembers nothing: for an empty TAGSTREAM_REDIS_URL."""

    def lookup(self, keys: Sequence[str]) -> list[bytes | None]:
        return [None] * len(keys)

    def lookup_fields(self, fields: Sequence[tuple[str, str]]) -> list[bytes | None]:
        return [None] * len(fields)

    def remember(self, values: Mapping[str, bytes], fields: Mapping[tuple[str, str], bytes]) -> None:
        pass

    def hashes(self, names: Sequence[str]) -> list[dict[str, bytes]]:
        return [{} for _ in names]

    def forget(self, names: Sequence[str]) -> None:
        pass

    def close(self) -> None:
        pass
