"""A fuzzing input: a few byte strings, kept in a file as netstrings ("5:hello,") so that a crash can be replayed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

Parts: TypeAlias = tuple[bytes, ...]
"""What each part means is known by the target: a value and its headers, or one file's bytes."""

NULL = b"\0null\0"
"""How a null travels in a part."""


def dumps(parts: Iterable[bytes]) -> bytes:
    return b"".join(b"%d:%b," % (len(part), part) for part in parts)


def loads(data: bytes) -> Parts:
    """What `dumps` wrote.

    Raises:
        ValueError: these are no netstrings.
    """
    parts, at = [], 0
    while at < len(data):
        colon = data.index(b":", at)
        end = colon + 1 + int(data[at:colon])
        if data[end : end + 1] != b",":
            raise ValueError(f"no comma at byte {end}")
        parts.append(data[colon + 1 : end])
        at = end + 1
    return tuple(parts)


def nullable(part: bytes) -> bytes | None:
    return None if part == NULL else part


def headers(parts: Parts) -> tuple[tuple[str, bytes | None], ...]:
    """Names and values by turns, as Kafka headers."""
    names = (name.decode("utf-8", "replace") for name in parts[::2])
    return tuple(zip(names, map(nullable, parts[1::2]), strict=False))
