"""EXIF and TIFF files made by hand, right or wrong in any place."""

import struct
from typing import Any, Final

from schemas.enriched_image import GeoPoint, ImageFacts
from workers.types import PictureFacts

FORMS: Final = {1: "B", 2: "B", 3: "H", 4: "L", 5: "L", 7: "B", 8: "h", 9: "l", 10: "l", 13: "L", 99: "B"}
Tags = dict[int, tuple[Any, ...]]
"""By tag: type and values; perhaps another count than theirs, and a place for them."""

EXIF, GPS, ORIENTATION = 0x8769, 0x8825, 0x0112
ORIGINAL, DIGITIZED, ORIGINAL_OFFSET, DIGITIZED_OFFSET = 0x9003, 0x9004, 0x9011, 0x9012


def text(words: str) -> tuple[int, bytes]:
    return 2, words.encode() + b"\0"


def angle(degrees: int, minutes: int, hundredths: int) -> tuple[int, tuple[int, ...]]:
    return 5, (degrees, 1, minutes, 1, hundredths, 100)


def directory(order: str, at: int, tags: Tags) -> bytes:
    rows, data = [], b""
    for tag, (kind, values, *claimed) in tags.items():
        raw = struct.pack(order + FORMS[kind] * len(values), *values)
        count = claimed[0] if claimed else len(values) // (2 if kind in (5, 10) else 1)
        if len(raw) > 4 or len(claimed) > 1:
            place = claimed[1] if len(claimed) > 1 else at + 6 + 12 * len(tags) + len(data)
            data, raw = data + raw, struct.pack(order + "L", place)
        rows.append(struct.pack(order + "HHL", tag, kind, count) + raw.ljust(4, b"\0"))
    return struct.pack(order + "H", len(rows)) + b"".join(rows) + bytes(4) + data


def written(order: str, first: Tags, exif: Tags | None = None, gps: Tags | None = None, at: int = 8) -> bytes:
    """An EXIF, whose directories begin at `at`; one that is None is not there."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", at)
    below = {tag: tags for tag, tags in ((EXIF, exif), (GPS, gps)) if tags is not None}
    end = at + len(directory(order, at, dict.fromkeys(below, (4, (0,))) | first))
    pointers, rest = {}, b""
    for tag, tags in below.items():
        pointers[tag] = 4, (end + len(rest),)
        rest += directory(order, end + len(rest), tags)
    return head.ljust(at, b"\0") + directory(order, at, pointers | first) + rest


FIRST: Final[Tags] = {0x010F: text("a maker of cameras"), ORIENTATION: (3, (6,))}
TIMES: Final[Tags] = {ORIGINAL: text("2024:05:01 10:00:00"), ORIGINAL_OFFSET: text("+02:00")}
PLACE: Final[Tags] = {1: text("N"), 2: angle(48, 51, 2988), 3: text("E"), 4: angle(2, 17, 4020)}
TAKEN, PARIS = "2024-05-01T10:00:00+02:00", (48.8583, 2.2945)


def whole(order: str, first: Tags | None = None, exif: Tags | None = None, gps: Tags | None = None) -> bytes:
    """A good EXIF, changed."""
    return written(order, FIRST | (first or {}), TIMES | (exif or {}), PLACE | (gps or {}))


def tiff(order: str, at: int = 72, exif: Tags | None = None) -> bytes:
    """A grey TIFF of 8 × 8 in front of its directories, with a good EXIF, changed."""
    size: Tags = {256: (4, (8,)), 257: (4, (8,)), 258: (3, (8,)), 259: (3, (1,)), 262: (3, (1,)), 278: (4, (8,))}
    return written(order, FIRST | size | {273: (4, (8,)), 279: (4, (64,))}, TIMES | (exif or {}), PLACE, at)


def as_event(facts: PictureFacts) -> ImageFacts:
    """As an event has them; fails if it can't."""
    place = None if facts.place is None else GeoPoint(latitude=facts.place[0], longitude=facts.place[1])
    return ImageFacts(
        format="jpeg", width=1, height=1, bytes=1, taken_at=facts.taken_at, place=place, facts_missing=facts.missing
    )
