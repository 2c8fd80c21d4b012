"""The result cache that remembers nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class NoCache:
    """`ports.ResultCache` that remembers nothing: for an empty TAGSTREAM_REDIS_URL."""

    def lookup(self, keys: Sequence[str]) -> list[bytes | None]:
        return [None] * len(keys)

    def lookup_fields(self, fields: Sequence[tuple[str, str]]) -> list[bytes | None]:
        return [None] * len(fields)

    def remember(self, values: Mapping[str, bytes], fields: Mapping[tuple[str, str], bytes]) -> None:
        pass

    def forget(self, hashes: Sequence[str]) -> None:
        pass

    def close(self) -> None:
        pass
