"""Facts of an EXIF: known values in both byte orders, and one answer for each way of being broken."""

import struct
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.exif import (
    DIGITIZED,
    DIGITIZED_OFFSET,
    EXIF,
    FIRST,
    GPS,
    ORIENTATION,
    ORIGINAL,
    ORIGINAL_OFFSET,
    PARIS,
    PLACE,
    TAKEN,
    TIMES,
    Tags,
    angle,
    as_event,
    directory,
    text,
    tiff,
    whole,
    written,
)
from tests.support.images import encoded, png_chunk, ramp
from workers.intake.scan import orientation_of, read_exif
from workers.intake.scan.exif import EXIF_MOST
from workers.intake.transform import decode
from workers.types import PictureFacts


def dated(original: str, digitized: str | None = None, *offsets: str) -> Tags:
    tags = {ORIGINAL: text(original)} | ({} if digitized is None else {DIGITIZED: text(digitized)})
    return tags | dict(zip((ORIGINAL_OFFSET, DIGITIZED_OFFSET), map(text, offsets), strict=False))


DAY = "2024:05:01 10:00:00"
TIMES_KNOWN: Final[dict[str, tuple[Tags, str | None]]] = {
    "an offset": (TIMES, TAKEN),
    "no offset": (dated(DAY), "2024-05-01T10:00:00"),
    "Greenwich": (dated(DAY, None, "Z"), "2024-05-01T10:00:00Z"),
    "west, by half an hour": (dated(DAY, None, "-03:30"), "2024-05-01T10:00:00-03:30"),
    "the easternmost": (dated(DAY, None, "+14:00"), "2024-05-01T10:00:00+14:00"),
    "the first photograph": (dated("1826:01:01 00:00:00"), "1826-01-01T00:00:00"),
    "the last second": (dated("2100:12:31 23:59:59"), "2100-12-31T23:59:59"),
    "a leap day": (dated("2024:02:29 00:00:00"), "2024-02-29T00:00:00"),
    "other signs": (dated("2024-05-01T10:00:00"), "2024-05-01T10:00:00"),
    "spaces after it": (dated(DAY + "  "), "2024-05-01T10:00:00"),
    "digitized": ({DIGITIZED: text(DAY), DIGITIZED_OFFSET: text("+01:00")}, "2024-05-01T10:00:00+01:00"),
    "both": (dated(DAY, "2025:01:01 00:00:00", "+02:00", "+03:00"), TAKEN),
    "original without its offset": (dated(DAY) | {DIGITIZED_OFFSET: text("+03:00")}, "2024-05-01T10:00:00"),
    "original nonsense": (dated("0000:00:00 00:00:00", DAY, "+09:00", "+02:00"), TAKEN),
    **{
        nonsense: (dated(nonsense), None)
        for nonsense in (
            "0000:00:00 00:00:00", "2024:13:01 10:00:00", "2024:02:30 10:00:00", "2024:05:01 24:00:00",
            "2024:05:01 10:60:00", "2024:05:01 10:00:61", "    :  :     :  :  ", "", "1825:12:31 23:59:59",
            "2101:01:01 00:00:00", "2024:05:01", "2024:05:01 10:00:00 PM", "yesterday",
        )
    },
    **{
        f"offset {nonsense}": (dated(DAY, None, nonsense), "2024-05-01T10:00:00")
        for nonsense in ("+15:00", "+14:01", "+02:60", "02:00", "   :  ", "", "CEST")
    },
}  # fmt: skip

PLACES_KNOWN: Final[dict[str, tuple[Tags, tuple[float, float] | None]]] = {
    "north and east": (PLACE, PARIS),
    "south and west": (PLACE | {1: text("S"), 3: text("W")}, (-48.8583, -2.2945)),
    "decimal minutes": (PLACE | {2: (5, (48, 1, 51498, 1000, 0, 1))}, PARIS),
    "the pole and the date line": (PLACE | {2: angle(90, 0, 0), 4: angle(180, 0, 0)}, (90.0, 180.0)),
    "on the equator": (PLACE | {1: text("S"), 2: angle(0, 0, 0)}, (0.0, 2.2945)),
    "no fix": (PLACE | {2: angle(0, 0, 0), 4: angle(0, 0, 0)}, None),
    "beyond the pole": (PLACE | {2: angle(90, 0, 1)}, None),
    "beyond the date line": (PLACE | {4: angle(180, 0, 1)}, None),
    "minutes of no clock": (PLACE | {2: angle(48, 61, 0)}, None),
    "unknown": (PLACE | {2: (5, (0, 0, 0, 0, 0, 0))}, None),
    "unknown seconds": (PLACE | {4: (5, (2, 1, 17, 1, 1, 0))}, None),
    "half an earth": (PLACE | {3: text("")}, None),
    "an unknown half": (PLACE | {1: text("X")}, None),
    "no half": ({tag: PLACE[tag] for tag in (2, 3, 4)}, None),
    "a latitude alone": ({tag: PLACE[tag] for tag in (1, 2)}, None),
    "nothing": ({}, None),
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("tags", "taken_at"), TIMES_KNOWN.values(), ids=TIMES_KNOWN)
def test_a_time_is_the_cameras_clock_or_absent(tags: Tags, taken_at: str | None, order: str) -> None:
    assert read_exif(written(order, FIRST, tags), place=True) == PictureFacts(taken_at)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("tags", "place"), PLACES_KNOWN.values(), ids=PLACES_KNOWN)
def test_a_place_is_read_only_if_it_is_wanted(tags: Tags, place: tuple[float, float] | None, order: str) -> None:
    exif = written(order, FIRST, TIMES, tags)
    assert repr(read_exif(b"Exif\0\0" + exif, place=True)) == repr(PictureFacts(TAKEN, place=place)), "0.0 is not -0.0"
    watched = Watched(exif)
    assert read_exif(watched, place=False) == PictureFacts(TAKEN)
    assert watched.last <= len(exif) - len(directory(order, 0, tags))


class Watched(bytes):
    """Remembers how many bytes were looked at, and the last one's place."""

    looked_at = last = 0

    def removeprefix(self, prefix: object, /) -> bytes:
        return self

    def __getitem__(self, part: Any) -> Any:
        self.looked_at += part.stop - (part.start or 0)
        self.last = max(self.last, part.stop)
        return super().__getitem__(part)


BROKEN, LARGE = "exif-broken", "exif-too-large"
FAR, HUGE = 1 << 20, (1 << 32) - 1
NOTHING: Final = (None, None, None)
Answer = tuple[str | None, int | None, tuple[float, float] | None, str | None]
"""When it was taken, its orientation if it has one, where it was taken, and the reason."""


def at_8(order: str, count: int) -> bytes:
    """A first directory of this many entries, it says."""
    exif = whole(order)
    return exif[:8] + struct.pack(order + "H", count) + exif[10:]


def beginning(order: str, place: int) -> bytes:
    exif = whole(order)
    return exif[:4] + struct.pack(order + "L", place) + exif[8:]


def crowded(order: str) -> bytes:
    """Three directories in one another, each of which fills the EXIF."""
    rows = 5_000
    first = {EXIF: (4, (8 + 12 * 9,)), GPS: (4, (8 + 12 * 18,)), **dict.fromkeys(range(1, rows), (3, (0,)))}
    filled = written(order, first)
    for at in (8 + 12 * 9, 8 + 12 * 18):
        filled = filled[:at] + struct.pack(order + "H", rows) + filled[at + 2 :]
    return filled.ljust(EXIF_MOST, b"\0")


WAYS: Final[dict[str, tuple[Callable[[str], bytes], Answer]]] = {
    "nothing": (lambda _: b"", (*NOTHING, None)),
    "words alone": (lambda _: b"Exif\0\0", (*NOTHING, None)),
    "junk": (lambda _: b"JUNK" * 99, (*NOTHING, BROKEN)),
    "a large TIFF's": (lambda o: (b"II+\0" if o == "<" else b"MM\0+") + whole(o)[4:], (*NOTHING, BROKEN)),
    "of mixed order": (lambda o: b"IM*\0" + whole(o)[4:], (*NOTHING, BROKEN)),
    "an order alone": (lambda o: whole(o)[:4], (*NOTHING, BROKEN)),
    "half a place": (lambda o: whole(o)[:6], (*NOTHING, BROKEN)),
    "no directory": (lambda o: whole(o)[:8], (*NOTHING, BROKEN)),
    "half a count": (lambda o: whole(o)[:9], (*NOTHING, BROKEN)),
    "a count alone": (lambda o: whole(o)[:10], (*NOTHING, BROKEN)),
    "half an entry": (lambda o: whole(o)[:17], (*NOTHING, BROKEN)),
    "cut after its orientation": (lambda o: written(o, {ORIENTATION: (3, (6,))}, TIMES)[:34], (None, 6, None, BROKEN)),
    "first outside": (lambda o: beginning(o, FAR), (*NOTHING, BROKEN)),
    "first at 4 GiB": (lambda o: beginning(o, HUGE), (*NOTHING, BROKEN)),
    "first at the end": (lambda o: beginning(o, len(whole(o))), (*NOTHING, BROKEN)),
    "first counts too many": (lambda o: at_8(o, 65_535), (TAKEN, 6, PARIS, BROKEN)),
    "exif outside": (lambda o: whole(o, {EXIF: (4, (FAR,))}), (None, 6, PARIS, BROKEN)),
    "exif at 4 GiB": (lambda o: whole(o, {EXIF: (4, (HUGE,))}), (None, 6, PARIS, BROKEN)),
    "exif is the first": (lambda o: whole(o, {EXIF: (4, (8,))}), (None, 6, PARIS, BROKEN)),
    "exif at 0": (lambda o: whole(o, {EXIF: (4, (0,))}), (None, 6, PARIS, BROKEN)),
    "exif at a short": (lambda o: whole(o, {EXIF: (3, (8,))}), (None, 6, PARIS, BROKEN)),
    "exif at two": (lambda o: whole(o, {EXIF: (4, (8, 8))}), (None, 6, PARIS, BROKEN)),
    "gps outside": (lambda o: whole(o, {GPS: (4, (FAR,))}), (TAKEN, 6, None, BROKEN)),
    "gps is the first": (lambda o: whole(o, {GPS: (4, (8,))}), (TAKEN, 6, None, BROKEN)),
    "gps at a text": (lambda o: whole(o, {GPS: text("N")}), (TAKEN, 6, None, BROKEN)),
    "a time outside": (lambda o: whole(o, exif={ORIGINAL: (*text(DAY), 20, FAR)}), (None, 6, PARIS, BROKEN)),
    "a time at 4 GiB": (lambda o: whole(o, exif={ORIGINAL: (*text(DAY), 20, HUGE)}), (None, 6, PARIS, BROKEN)),
    "a time of 4 GiB": (lambda o: whole(o, exif={ORIGINAL: (*text(DAY), HUGE)}), (None, 6, PARIS, BROKEN)),
    "a time too long": (lambda o: whole(o, exif={ORIGINAL: (*text(DAY + " " * 45),)}), (None, 6, PARIS, BROKEN)),
    "a time of nothing": (lambda o: whole(o, exif={ORIGINAL: (*text(DAY), 0)}), (None, 6, PARIS, BROKEN)),
    "a time of numbers": (lambda o: whole(o, exif={ORIGINAL: (4, (2024,))}), (None, 6, PARIS, BROKEN)),
    "a time of bytes": (lambda o: whole(o, exif={ORIGINAL: (7, DAY.encode())}), (None, 6, PARIS, BROKEN)),
    "a time of no type": (lambda o: whole(o, exif={ORIGINAL: (99, DAY.encode())}), (None, 6, PARIS, BROKEN)),
    "the second time holds": (
        lambda o: whole(o, exif={ORIGINAL: (4, (1,)), DIGITIZED: text(DAY)}),
        ("2024-05-01T10:00:00", 6, PARIS, BROKEN),
    ),
    "an offset of numbers": (
        lambda o: whole(o, exif={ORIGINAL_OFFSET: (3, (2,))}),
        ("2024-05-01T10:00:00", 6, PARIS, BROKEN),
    ),
    "an offset outside": (
        lambda o: whole(o, exif={ORIGINAL_OFFSET: (*text("+02:00"), 7, FAR)}),
        ("2024-05-01T10:00:00", 6, PARIS, BROKEN),
    ),
    "an orientation of words": (lambda o: whole(o, {ORIENTATION: text("6")}), (TAKEN, None, PARIS, BROKEN)),
    "an orientation of nothing": (lambda o: whole(o, {ORIENTATION: (3, (6,), 0)}), (TAKEN, None, PARIS, BROKEN)),
    "an orientation outside": (lambda o: whole(o, {ORIENTATION: (3, (6,), 3, FAR)}), (TAKEN, None, PARIS, BROKEN)),
    "an angle below zero": (lambda o: whole(o, gps={2: (10, (-48, 1, 0, 1, 0, 1))}), (TAKEN, 6, None, BROKEN)),
    "an angle of two": (lambda o: whole(o, gps={2: (5, (48, 1, 51, 1))}), (TAKEN, 6, None, BROKEN)),
    "an angle of 4 billion": (lambda o: whole(o, gps={4: (*angle(2, 17, 0), HUGE)}), (TAKEN, 6, None, BROKEN)),
    "an angle outside": (lambda o: whole(o, gps={4: (*angle(2, 17, 0), 3, FAR)}), (TAKEN, 6, None, BROKEN)),
    "half an earth by number": (lambda o: whole(o, gps={1: (1, b"N")}), (TAKEN, 6, None, BROKEN)),
    "cut in its last angle": (lambda o: whole(o)[:-1], (TAKEN, 6, None, BROKEN)),
    "larger than a segment": (lambda o: whole(o).ljust(EXIF_MOST + 1, b"\0"), (*NOTHING, LARGE)),
    "three that each fill it": (crowded, (*NOTHING, LARGE)),
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("make", "answer"), WAYS.values(), ids=WAYS)
def test_a_fault_costs_only_the_facts_that_it_hides(make: Callable[[str], bytes], answer: Answer, order: str) -> None:
    exif = Watched(make(order).removeprefix(b"Exif\0\0"))
    facts = read_exif(exif, place=True)
    assert (facts.taken_at, facts.place, facts.missing) == (answer[0], *answer[2:])
    assert exif.looked_at <= 64 << 10
    assert orientation_of(exif, b"") == (answer[1] or 1)


def test_of_a_tiff_as_many_bytes_are_looked_at_wherever_its_directories_lie() -> None:
    for order in "<>":
        near, far = Watched(tiff(order)), Watched(tiff(order, at=1 << 20))
        assert (
            read_exif(near, place=True, tiff=True)
            == read_exif(far, place=True, tiff=True)
            == PictureFacts(TAKEN, place=PARIS)
        )
        assert near.looked_at == far.looked_at
        crowd = Watched(at_8(order, 65_535).ljust(1 << 20, b"\0"))
        assert read_exif(crowd, place=True, tiff=True) == PictureFacts(missing="exif-too-large")
        assert crowd.looked_at < 64
    assert read_exif(b"II+\0" + bytes(99), place=True, tiff=True) == PictureFacts()


def by_pillow(order: str) -> bytes:
    exif = Image.Exif()
    exif.endian = order
    exif[ORIENTATION] = 6
    exif.get_ifd(EXIF).update({ORIGINAL: DAY, ORIGINAL_OFFSET: "+02:00"})
    exif.get_ifd(GPS).update({1: "N", 2: (48.0, 51.0, 29.88), 3: "E", 4: (2.0, 17.0, 40.2)})
    return exif.tobytes()


def jpeg(*segments: bytes) -> bytes:
    body = encoded(ramp(), "jpeg")
    return body[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(each) + 2) + each for each in segments) + body[2:]


def png(kind: bytes, data: bytes) -> bytes:
    body = encoded(ramp(), "png")
    return body[:33] + png_chunk(kind, data) + body[33:]


def raw_profile(exif: bytes) -> bytes:
    return b"Raw profile type exif\0\nexif\n%d\n" % len(exif) + exif.hex().encode()


def files(order: str) -> dict[str, bytes]:
    exif = by_pillow(order)
    assert exif[6:8] == (b"II" if order == "<" else b"MM")
    return {
        "jpeg": jpeg(exif),
        "jpeg, in two segments": jpeg(exif[:99], b"Exif\0\0" + exif[99:]),
        "png": png(b"eXIf", exif[6:]),
        "png, by ImageMagick": png(b"tEXt", raw_profile(exif)),
        "webp": encoded(ramp(), "webp", exif=exif),
        "avif": encoded(ramp(), "avif", exif=exif, speed=10),
        "tiff": tiff(order),
        "tiff, by Pillow": encoded(ramp(), "tiff", exif=exif),
    }


@pytest.mark.parametrize("order", "<>")
def test_the_facts_of_a_file_are_found_in_every_format(order: str) -> None:
    for name, body in files(order).items():
        orientation = 1 if name.startswith("tiff") else 6  # the decoder turns it
        assert facts_of(body, name.partition(",")[0]) == PictureFacts(TAKEN, orientation, place=PARIS), name


def test_a_file_with_more_exif_than_is_read_says_so() -> None:
    large = by_pillow("<").ljust(EXIF_MOST + 7, b"\0")
    for name, body in {
        "jpeg": jpeg(large[:40_000], b"Exif\0\0" + large[40_000:]),
        "png": png(b"eXIf", large[6:]),
        "png, by ImageMagick": png(b"tEXt", raw_profile(large)),
        "webp": encoded(ramp(), "webp", exif=large),
        "avif": encoded(ramp(), "avif", exif=large.replace(b"\x12\x01", b"\x13\x01"), speed=10),
    }.items():
        assert facts_of(body, name.partition(",")[0]) == PictureFacts(None, 1, missing="exif-too-large"), name
    for name in ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"):
        assert facts_of(encoded(ramp(), name), name) == PictureFacts(None, 1), name


def test_a_fault_that_the_decoder_of_an_avif_minds_costs_neither_image_nor_facts() -> None:
    """It writes all tags of an image that is turned."""
    for order in "<>":
        good = encoded(ramp(), "avif", exif=whole(order, {0x010D: text("72")}), speed=10)
        text_tag, resolution_tag = (struct.pack(order + "HHL", tag, 2, 3) for tag in (0x010D, 0x011A))
        resolution = good.replace(text_tag, resolution_tag)
        assert resolution != good
        assert facts_of(resolution, "avif") == PictureFacts(TAKEN, 6, place=PARIS)


def facts_of(body: bytes, name: str) -> PictureFacts:
    facts = decode(body, name, (), facts="place").facts
    assert facts is not None
    return replace(facts, phash=None, thumbhash=None)


EDITS = st.lists(st.tuples(st.integers(0, 450), st.integers(0, 255)), max_size=6)


@given(st.sampled_from("<>"), EDITS, st.integers(0, 450), st.booleans(), st.booleans())
def test_no_bytes_raise_or_tell_what_no_event_can_hold(
    order: str, edits: list[tuple[int, int]], end: int, place: bool, tiff: bool
) -> None:
    body = bytearray(whole(order))
    for at, value in edits:
        body[at % len(body)] = value
    exif = Watched(body[: len(body) - end] if end % 3 else body)
    as_event(read_exif(exif, place=place, tiff=tiff))
    assert exif.looked_at <= 64 << 10


def test_no_exif_takes_long() -> None:
    began = time.process_time()
    for order in "<>":
        read_exif(crowded(order), place=True)
        read_exif(at_8(order, 5_461) + bytes(1 << 20), place=True, tiff=True)
    assert time.process_time() - began < 0.5
