"""Seeded ways to damage an input: bytes as bytes, JSON as JSON, and small files as lists of parts."""

import json
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, TypeAlias

Parts: TypeAlias = tuple[bytes, ...]
"""The target knows the meaning of each part: a value and its headers, or one file's bytes."""

NULL = b"\0null\0"
"""How a null travels in a part."""


def dumps(parts: Iterable[bytes]) -> bytes:
    return b"".join(b"%d:%b," % (len(part), part) for part in parts)


def loads(data: bytes) -> Parts:
    """What `dumps` wrote."""
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
    names = (name.decode("utf-8", "replace") for name in parts[::2])
    return tuple(zip(names, map(nullable, parts[1::2]), strict=False))


Mutator: TypeAlias = Callable[[Random, Parts], Parts]

LARGEST = 1 << 20
"""Largest size of a part, in bytes."""

NUMBERS = (0, 1, 2, 3, 7, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)

TEXTS = (
    "",
    " ",
    "\0",
    "\n",
    "\x1b[2J\x1b]0;x\x07",
    "[/x]",
    "[bold red]x",
    "\u202egpj.exe",
    "\ufeff",
    "\ud800",
    "🙂" * 300,
    "a." * 2000,
    "a://b?" * 2000,
    "http://h/p?X-Amz-Signature=MARKED-SECRET",
    "../../../etc/passwd",
    "//[",
    "s3://b/k?versionId=null",
    "%",
    "%00",
    "%ff",
    "%C0%80",
    "+",
    "f" * 128,
    "null",
    "NaN",
    "true",
    "-1",
    "1e999",
    "9" * 4000,
    "2026-02-30T00:00:00Z",
    "0000-00-00T00:00:00Z",
    "9999-12-31T23:59:59.999999999+23:59",
    "x" * 256,
    "x" * 257,
    "x" * 1024,
    "ü" * 513,
    '"etag"',
    'W/"x"',
)

PIECES = ("a", "a.", "a-", "a:", "a://", "a?", "%41", "+", "1", "f", "0,", "<", "[", " ", "\\", "ü", "\u200d")
"""Repeated, they are the worst that some pattern or loop can meet."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400, 0.0, -0.0, 1.5, 7.5, 1e308,
    1e-320, [], {}, [[]], [None], {"": None}, *TEXTS,
)  # fmt: skip

WORDS = (
    b"\0", b"\xff", b"\xff" * 4, b"\0" * 4, b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"{", b"}", b"[" * 300, b'"',
    b",", b"\r\n", b"\n", b":", b"NaN", b"Infinity", b"1e999", b"\\ud800", b"null", NULL,
)  # fmt: skip


def anything(random: Random, parts: Parts) -> Parts:
    """Some of everything: the parts' own content, and now and then their number and order."""
    mutated = list(parts)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        if len(mutated) > 1 and random.random() < 0.15:
            shuffle(random, mutated)
        elif mutated:
            at = random.randrange(len(mutated))
            mutated[at] = content(random, mutated[at])
    return tuple(mutated)


def shuffle(random: Random, parts: list[bytes]) -> None:
    at, other = random.randrange(len(parts)), random.randrange(len(parts))
    match random.randrange(4):
        case 0 if len(parts) > 1:
            del parts[at]
        case 1:
            parts[at:at] = [parts[other]] * random.choice((1, 2, 300))
        case 2:
            parts[at], parts[other] = parts[other], parts[at]
        case _:
            parts[at] = random.choice((b"", NULL))


def content(random: Random, data: bytes) -> bytes:
    """JSON by its structure, most of the time; anything else by its bytes."""
    if data[:1] in (b"{", b"[") and random.random() < 0.85:
        try:
            mutated = dumped(json_value(random, json.loads(data)))
        except (ValueError, RecursionError):
            mutated = b""
        if 0 < len(mutated) <= LARGEST:
            return mutated
    return by_bytes(random, data)


def dumped(value: Any) -> bytes:
    """As JSON; a lone surrogate travels as an escape."""
    return json.dumps(value).encode()


def by_bytes(random: Random, data: bytes) -> bytes:
    return random.choice(_BY_BYTES)(random, bytearray(data))[:LARGEST]


def _span(random: Random, data: bytearray) -> slice:
    start = random.randrange(len(data) + 1)
    return slice(start, min(len(data), start + random.choice((1, 2, 4, 8, 64, 1024))))


def _flip(random: Random, data: bytearray) -> bytes:
    for _ in range(random.choice((1, 1, 4, 32)) if data else 0):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def _delete(random: Random, data: bytearray) -> bytes:
    del data[_span(random, data)]
    return bytes(data)


def _insert(random: Random, data: bytearray) -> bytes:
    at = random.randrange(len(data) + 1)
    data[at:at] = random.choice(
        (random.choice(WORDS), random.randbytes(4), random.choice(TEXTS).encode("utf-8", "replace"))
    )
    return bytes(data)


def _copy(random: Random, data: bytearray) -> bytes:
    """A piece once more, elsewhere: between two others, or over them."""
    piece, into = data[_span(random, data)], _span(random, data)
    data[slice(into.start, into.start) if random.random() < 0.5 else into] = piece
    return bytes(data)


def _truncate(random: Random, data: bytearray) -> bytes:
    return bytes(data[: random.randrange(len(data) + 1)])


def _number(random: Random, data: bytearray) -> bytes:
    """A binary number of 1 to 8 bytes that lies."""
    width = random.choice((1, 2, 4, 8))
    if len(data) < width:
        return bytes(data)
    at = random.randrange(len(data) - width + 1)
    order = random.choice(("little", "big"))
    near = int.from_bytes(data[at : at + width], order) + random.choice((-1, 1))  # type: ignore[arg-type]
    told = random.choice((near, random.choice(NUMBERS))) % (1 << 8 * width)
    data[at : at + width] = told.to_bytes(width, order)  # type: ignore[arg-type]
    return bytes(data)


def _grow(random: Random, data: bytearray) -> bytes:
    """A piece repeated, up to a megabyte: what takes more than linear time or memory shows here."""
    span = _span(random, data)
    piece = bytes(data[span])
    size = random.choice((1 << 10, 1 << 14, 1 << 14, 1 << 17, LARGEST))
    data[span] = piece * (size // max(1, len(piece)))
    return bytes(data)


_BY_BYTES: Sequence[Callable[[Random, bytearray], bytes]] = (
    _flip, _flip, _delete, _insert, _copy, _truncate, _number, _number, _grow,
)  # fmt: skip


Path: TypeAlias = tuple[Any, ...]


def json_value(random: Random, value: Any) -> Any:
    path = random.choice(_paths(value))
    return _changed(value, path, lambda found: _replacement(random, found, value))


def _paths(value: Any, path: Path = ()) -> list[Path]:
    steps = value.items() if isinstance(value, dict) else enumerate(value[:50]) if isinstance(value, list) else ()
    return [path, *(deeper for step, inner in steps for deeper in _paths(inner, (*path, step)))]


def _changed(value: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(value)
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _changed(value[path[0]], path[1:], change)
    return copy


def _replacement(random: Random, found: Any, document: Any) -> Any:
    if isinstance(found, str) and random.random() < 0.6:
        return text(random, found)
    if isinstance(found, dict) and found and random.random() < 0.6:
        return _other_members(random, found)
    if isinstance(found, list) and found and random.random() < 0.6:
        room = LARGEST // max(1, len(dumped(found)))
        return random.choice(
            (found * 2, found * min(room, random.choice((50, 1001))), found[::-1], found[1:], [*found, 1])
        )
    match random.randrange(4):
        case 0:
            return _nested(found, random.choice((1, 2, 100)))
        case 1:
            return _at(document, random.choice(_paths(document)))
        case _:
            return random.choice(VALUES)


def _other_members(random: Random, found: dict[str, Any]) -> dict[str, Any]:
    name = random.choice(list(found))
    rest = {key: value for key, value in found.items() if key != name}
    match random.randrange(3):
        case 0:
            return rest
        case 1:
            return rest | {
                random.choice((name.upper(), name + "s", *TEXTS[:8], random.choice(list(found)))): found[name]
            }
        case _:
            return found | {random.choice(TEXTS): random.choice(VALUES)}


def _nested(value: Any, deep: int) -> Any:
    for _ in range(deep):
        value = [value] if deep % 2 else {"x": value}
    return value


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def text(random: Random, found: str) -> str:
    at = random.randrange(len(found) + 1)
    match random.randrange(8):
        case 0:
            return found[:at] + random.choice(TEXTS) + found[at:]
        case 6:
            return found[:at] + random.choice(PIECES) * random.choice((300, 300, 1500, 10_000)) + found[at:]
        case 1:
            return (
                found[:at]
                + chr(random.choice((0, 7, 27, 0x7F, 0xA0, 0xD800, 0x202E, 0xFFFF, 0x1F600)))
                + found[at + 1 :]
            )
        case 2:
            return found[:at]
        case 3:
            return found * random.choice((2, 100, 10_000 // max(1, len(found)), 300_000 // max(1, len(found))))
        case 4:
            return found.upper()
        case 5:
            return found[at:]
        case _:
            return random.choice(TEXTS)
