"""How an image is to be turned: read by this project's code, so that no other tag of its metadata matters."""

import struct
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import PngImagePlugin

from tests.support.images import encoded, ramp
from workers.intake.decoding import Decoding
from workers.intake.limits import Limits
from workers.intake.scan import orientation_of
from workers.intake.scan.exif import EXIF_MOST
from workers.types import Transform

TURNED = Transform(12, exif_transpose=True)
XMP = b"http://ns.adobe.com/xap/1.0/\0"
DECODING = Decoding([TURNED], Limits())


def entry(tag: int, kind: int, count: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HHL", tag, kind, count) + value.ljust(4, b"\0")


def exif_of(*entries: bytes, order: str = "<", after: bytes = b"") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "LH", 8, len(entries)) + b"".join(entries) + bytes(4) + after


def turned_by(number: int, order: str = "<") -> bytes:
    return entry(0x0112, 3, 1, struct.pack(order + "H", number), order)


def jpeg_with(*segments: bytes) -> bytes:
    body = encoded(ramp(40, 30), "jpeg", quality=95)
    return body[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(each) + 2) + each for each in segments) + body[2:]


def pixels(body: bytes, name: str = "jpeg") -> np.ndarray:
    assert DECODING.inspect(body).format == name
    return DECODING.decode(body, name).pixels[TURNED]


LYING = pixels(jpeg_with())
UPRIGHT = pixels(encoded(ramp(40, 30), "jpeg", quality=95, exif=b"Exif\0\0" + exif_of(turned_by(6))))

FAULTS = {
    "a resolution of no numbers": entry(0x011A, 5, 0, b""),
    "a resolution of words": entry(0x011A, 2, 4, b"72\0\0"),
    "a text that is a number": entry(0x010F, 4, 1, b"\1"),
    "a place beyond its end": entry(0x010F, 2, 100, struct.pack("<L", 1 << 20)),
    "a number beyond its type": entry(0x0128, 11, 1, struct.pack("<f", float("inf"))),
    "a directory that is none": entry(0x8769, 4, 1, struct.pack("<L", 0xFFFF)),
    "an unknown type": entry(0x0100, 99, 1, b""),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("first", [True, False])
def test_a_fault_in_another_tag_does_not_cost_the_image_or_its_orientation(fault: str, first: bool) -> None:
    entries = [FAULTS[fault], turned_by(6)]
    body = jpeg_with(b"Exif\0\0" + exif_of(*(entries if first else reversed(entries))))
    assert DECODING.glance(body) == DECODING.inspect(body)
    assert np.array_equal(pixels(body), UPRIGHT)


def test_metadata_that_do_not_read_turn_nothing() -> None:
    for exif in (b"", b"II*\0", b"JUNK" * 9, exif_of(turned_by(9)), exif_of(entry(0x0112, 2, 2, b"6"))):
        assert np.array_equal(pixels(jpeg_with(b"Exif\0\0" + exif)), LYING), exif


def formats() -> Iterator[tuple[str, str, bytes]]:
    image = ramp(40, 30)
    words = b'<x:xmpmeta tiff:Orientation="6"/>'
    for order in "<>":
        exif = exif_of(turned_by(6, order), order=order)
        yield f"jpeg{order}", "jpeg", jpeg_with(b"Exif\0\0" + exif)
        for name in ("png", "webp", "avif"):
            yield f"{name}{order}", name, encoded(image, name, exif=b"Exif\0\0" + exif)
    halves = exif_of(entry(0x010F, 2, 8, struct.pack("<L", 38)), turned_by(6), after=b"a maker\0")
    yield "jpeg, the words twice", "jpeg", jpeg_with(b"Exif\0\0Exif\0\0" + halves)
    yield "jpeg, in two segments", "jpeg", jpeg_with(b"Exif\0\0" + halves[:20], b"Exif\0\0" + halves[20:])
    yield "jpeg, by XMP", "jpeg", jpeg_with(XMP + words)
    yield (
        "jpeg, by XMP after EXIF without it",
        "jpeg",
        jpeg_with(b"Exif\0\0" + exif_of(FAULTS["an unknown type"]), XMP + words),
    )
    yield "webp, by XMP", "webp", encoded(image, "webp", xmp=words, lossless=True)
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", words.decode())
    yield "png, by XMP", "png", encoded(image, "png", pnginfo=texts)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Raw profile type exif", f"\nexif\n  34\n{(b'Exif' + bytes(2) + exif_of(turned_by(6))).hex()}\n")
    yield "png, by ImageMagick", "png", encoded(image, "png", pnginfo=texts)


@pytest.mark.parametrize(("name", "body"), [pytest.param(*case, id=id_) for id_, *case in formats()])
def test_an_image_is_turned_however_its_metadata_say_so(name: str, body: bytes) -> None:
    found, aside = pixels(body, name).astype(int), np.rot90(LYING.astype(int), -1)
    assert np.abs(found - UPRIGHT).max() <= 40, "squashed before or after, lossy or not"
    assert np.abs(found - UPRIGHT).mean() < 0.2 * np.abs(found - LYING).mean()
    assert aside.shape == found.shape


def test_of_two_orientations_the_first_counts() -> None:
    assert orientation_of(exif_of(turned_by(6), turned_by(3)), b"") == 6


def test_metadata_larger_than_a_jpegs_segment_are_not_read() -> None:
    for size, told in ((EXIF_MOST, 6), (EXIF_MOST + 1, 1)):
        assert orientation_of(exif_of(turned_by(6)).ljust(size, b"\0"), b"") == told
        assert orientation_of(b"", b"tiff:Orientation>6".ljust(size)) == told


def test_no_metadata_take_long() -> None:
    crowded = exif_of(*[entry(0x0100, 3, 1, b"\1")] * 5_000)
    began = time.process_time()
    for exif, xmp in ((crowded, b""), (b"", b"tiff:Orientation=" * 3_800), (b"", b"tiff:Orientation" + b"=" * 60_000)):
        assert orientation_of(exif, xmp) == 1
    assert time.process_time() - began < 0.5
