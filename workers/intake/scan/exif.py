"""What EXIF and XMP tell of a picture: how it lies, and when and where it was taken.

They are read here and by no decoder: Pillow refuses a valid image for a fault in any tag of its EXIF, and again when it
writes all tags for the turned image.

Three directories are read, each once: the first, and the Exif and GPS directories to which it points. A *fault* is a
directory or value that lies outside or is cut, a directory that was read before, and a wanted tag whose type or number
of values is not the standard's. It costs the facts that it hides, and `missing` names it; all others are kept. A value
that can be read but makes no sense, such as the month 13, is no fault: there is no such fact.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from schemas.enriched_image import FactsMissing
from workers.types import PictureFacts

EXIF_MOST: Final = 65_533
"""Most bytes of EXIF or XMP that are searched: one segment of a JPEG. Cameras write no more; larger ones hold
previews."""
_READ_MOST: Final = 64 << 10
"""Bytes that are looked at, however the directories lie. A TIFF is itself a directory, of any size."""


_EXIF: Final = b"Exif\0\0"
_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}
_INLINE: Final = 4
_XMP: Final = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')

_TEXT, _RATIONAL = 2, 5
_FORMS: Final = {_TEXT: "s", 3: "H", 4: "L", _RATIONAL: "LL", 6: "b", 8: "h", 9: "l", 13: "L"}
"""By the type of a value, as `struct` reads it."""

_Kinds = tuple[frozenset[int], range]
"""Types that a tag's values may have, and how many it may have of them."""
_NUMBER: Final[_Kinds] = frozenset({3, 4, 6, 8, 9}), range(1, 1 << 32)
_POINTER: Final[_Kinds] = frozenset({4, 13}), range(1, 2)
_SHORT_TEXT: Final[_Kinds] = frozenset({_TEXT}), range(1, 65)
_ANGLE: Final[_Kinds] = frozenset({_RATIONAL}), range(3, 4)

_ORIENTATION, _EXIF_DIRECTORY, _GPS_DIRECTORY = 0x0112, 0x8769, 0x8825
_FIRST: Final = {_ORIENTATION: _NUMBER, _EXIF_DIRECTORY: _POINTER}
_FIRST_WITH_PLACE: Final = {**_FIRST, _GPS_DIRECTORY: _POINTER}
_DATES: Final = ((0x9003, 0x9011), (0x9004, 0x9012))
"""When it was taken, else when it was digitized; each with its offset from UTC."""
_TIMES: Final = {tag: _SHORT_TEXT for pair in _DATES for tag in pair}
_LATITUDE, _LONGITUDE = (1, 2, b"NS", 90), (3, 4, b"EW", 180)
"""Tag of the hemisphere, tag of the angle, names of the positive and the negative hemisphere, largest angle."""
_PLACES: Final = {1: _SHORT_TEXT, 2: _ANGLE, 3: _SHORT_TEXT, 4: _ANGLE}

_LOCAL: Final = re.compile(rb"(\d{4})[:-](\d\d)[:-](\d\d)[ T]((?:[01]\d|2[0-3]):\d\d:\d\d)")
_OFFSET: Final = re.compile(rb"Z|[+-](?:(?:0\d|1[0-3]):[0-5]\d|14:00)")
_YEARS: Final = range(1826, 2101)
"""From the first photograph on."""
_DIGITS: Final = 6
"""Of a degree: a tenth of a metre."""


def orientation_of(exif: bytes, xmp: bytes) -> int:
    """The orientation, 1 to 8 as EXIF counts; 1 if none can be read.

    Args:
        exif: with or without the words that it begins with in a JPEG.
        xmp: is asked where the EXIF says nothing.
    """
    told = told_orientation(exif)
    if told is None and len(xmp) <= EXIF_MOST and (found := _XMP.search(xmp)):
        told = int(found[1])
    return told if told is not None and 1 <= told <= 8 else 1


def told_orientation(exif: bytes) -> int | None:
    """The orientation in an EXIF, whatever number it is."""
    file = _Directories(exif if len(exif) <= EXIF_MOST else b"")
    return file.number(file.first(_FIRST), _ORIENTATION)


def read_exif(exif: bytes, *, place: bool, tiff: bool = False) -> PictureFacts:
    """Read when and where a picture was taken. Never raises; looks at 64 kB at most.

    Args:
        exif: with or without the words that it begins with in a JPEG.
        place: read where it was taken; else the GPS directory is not looked at.
        tiff: `exif` is a TIFF file, which has its EXIF in its own directory.
    """
    if len(exif) > EXIF_MOST and not tiff:
        return PictureFacts(missing="exif-too-large")
    file = _Directories(exif)
    if not file.order:  # BigTIFF is not read
        return PictureFacts(missing="exif-broken" if file.exif and not tiff else None)
    first = file.first(_FIRST_WITH_PLACE if place else _FIRST)
    file.number(first, _ORIENTATION)  # a fault in it counts; its value is `orientation_of`'s
    taken_at = _taken_at(file, file.below(first, _EXIF_DIRECTORY, _TIMES))
    found = _place(file, file.below(first, _GPS_DIRECTORY, _PLACES))
    return PictureFacts(taken_at, place=found, missing=file.missing)


_Entries = dict[int, tuple[int, int, bytes]]
"""By tag: type, number of values, and these or their place."""


class _Directories:
    """Reads the directories of an EXIF, and remembers a fault."""

    def __init__(self, exif: bytes) -> None:
        for _ in range(2):  # some programs write the words twice
            exif = exif.removeprefix(_EXIF)
        self.exif = exif
        self.order = _ORDERS.get(exif[:4], "")
        self._left = _READ_MOST
        self._begun: set[int] = set()
        self.missing: FactsMissing | None = None

    def first(self, wanted: Mapping[int, _Kinds]) -> _Entries:
        place = self._bytes(4, 4) if self.order else b""
        return self._directory(struct.unpack(self.order + "L", place)[0], wanted) if place else {}

    def below(self, above: _Entries, pointer: int, wanted: Mapping[int, _Kinds]) -> _Entries:
        """Entries of the directory to which one of another points."""
        at = self.number(above, pointer)
        if at == 0 or at in self._begun:
            self._fail("exif-broken")
            return {}
        return {} if at is None else self._directory(at, wanted)

    def number(self, entries: _Entries, tag: int) -> int | None:
        kind = entries[tag][0] if tag in entries else 0
        value = self._value(entries, tag, most=1)
        return int(struct.unpack(self.order + _FORMS[kind], value)[0]) if value else None

    def text(self, entries: _Entries, tag: int) -> bytes:
        """A text without its end and the spaces before it."""
        return self._value(entries, tag).partition(b"\0")[0].strip(b" ")

    def angle(self, entries: _Entries, tag: int) -> float | None:
        value = self._value(entries, tag)
        numbers = struct.unpack(self.order + "6L", value) if value else (0,) * 6
        if not all(numbers[1::2]):  # 0/0 means unknown
            return None
        degrees, minutes, seconds = (numbers[n] / numbers[n + 1] for n in (0, 2, 4))
        return degrees + minutes / 60 + seconds / 3600 if max(minutes, seconds) <= 60 else None

    def _directory(self, at: int, wanted: Mapping[int, _Kinds]) -> _Entries:
        """Entries of wanted tags; of several with the same tag the first."""
        self._begun.add(at)
        count = int.from_bytes(self._bytes(at, 2), "little" if self.order == "<" else "big")
        inside = max(0, len(self.exif) - at - 2) // 12
        if count > inside:
            self._fail("exif-broken")
        found: _Entries = {}
        for tag, kind, values, field in struct.iter_unpack(
            self.order + "HHL4s", self._bytes(at + 2, 12 * min(count, inside))
        ):
            if tag in wanted:
                kinds, counts = wanted[tag]
                if kind in kinds and values in counts:
                    found.setdefault(tag, (kind, values, field))
                else:
                    self._fail("exif-broken")
        return found

    def _value(self, entries: _Entries, tag: int, most: int = 64) -> bytes:
        """A tag's first values; nothing if there are none."""
        if tag not in entries:
            return b""
        kind, values, field = entries[tag]
        each = struct.calcsize("<" + _FORMS[kind])
        wanted = each * min(values, most)
        if each * values <= _INLINE:
            return field[:wanted]
        return self._bytes(struct.unpack(self.order + "L", field)[0], wanted)

    def _bytes(self, at: int, size: int) -> bytes:
        """So many bytes, or none and a fault."""
        if at + size > len(self.exif):
            self._fail("exif-broken")
            return b""
        if size > self._left:
            self._fail("exif-too-large")
            return b""
        self._left -= size
        return self.exif[at : at + size]

    def _fail(self, reason: FactsMissing) -> None:
        self.missing = self.missing or reason


def _taken_at(file: _Directories, entries: _Entries) -> str | None:
    for date, offset in _DATES:
        found = _LOCAL.fullmatch(file.text(entries, date))
        if found is None:
            continue
        local = b"%s-%s-%sT%s" % found.groups()
        try:
            year = datetime.fromisoformat(local.decode()).year
        except ValueError:  # the month 13
            continue
        if year in _YEARS:
            zone = _OFFSET.fullmatch(file.text(entries, offset))
            return (local + (zone[0] if zone else b"")).decode()
    return None


def _place(file: _Directories, entries: _Entries) -> tuple[float, float] | None:
    """Latitude and longitude; 0, 0 is what cameras write that don't know theirs."""
    latitude, longitude = (_degrees(file, entries, *of) for of in (_LATITUDE, _LONGITUDE))
    return None if latitude is None or longitude is None or latitude == longitude == 0 else (latitude, longitude)


def _degrees(
    file: _Directories, entries: _Entries, hemisphere: int, angle: int, names: bytes, most: int
) -> float | None:
    name, degrees = file.text(entries, hemisphere)[:1], file.angle(entries, angle)
    if len(name) != 1 or name not in names or degrees is None or degrees > most:
        return None
    return round(degrees if name == names[:1] else -degrees, _DIGITS) + 0.0  # no -0.0
