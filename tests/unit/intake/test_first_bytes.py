"""What the first bytes of an original tell, against what decoders say of the whole file."""

import struct
import time
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from tests.support import images
from tests.support.exif import EXIF, PARIS, TAKEN, tiff, whole
from workers.intake.decoding import Decoding
from workers.intake.first_bytes import FIRST_BYTES, FirstBytes, read_first_bytes
from workers.intake.limits import Limits
from workers.types import PictureFacts, Transform

DECODING = Decoding((Transform(8),), Limits(facts="place"))
TOLD = PictureFacts(TAKEN, 6, place=PARIS)


def encoded(name: str, *, exif: bytes = b"", size: tuple[int, int] = (40, 30), **how: object) -> bytes:
    return images.encoded(Image.new("RGB", size, (200, 10, 10)), name, **({"exif": exif} if exif else {}), **how)


def heic(avif: bytes) -> bytes:
    return avif.replace(b"ftypavif", b"ftypheic", 1)


@pytest.mark.parametrize("with_exif", [False, True])
@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "gif", "bmp", "avif"])
def test_the_first_bytes_tell_what_decoders_do_or_nothing(name: str, with_exif: bool) -> None:
    body = encoded(name, exif=b"Exif\0\0" + whole("<") if with_exif and name not in ("gif", "bmp") else b"")
    header, facts = DECODING.inspect(body), DECODING.decode(body, name).facts
    assert facts is not None
    first = read_first_bytes(body + bytes(FIRST_BYTES), "place")
    assert (first.format, first.width, first.height) == (name, header.width, header.height)
    same = replace(facts, phash=None, thumbhash=None)
    behind = name in ("png", "webp") and with_exif  # of a WebP it stands behind its pixels
    assert first.told == (None if behind else same)
    assert first.turned == (None if behind else facts.orientation in (5, 6, 7, 8))
    assert read_first_bytes(body, "on").told == (first.told and replace(first.told, place=None))
    assert read_first_bytes(body, "off").told is None


def test_formats_that_no_decoder_here_reads_tell_their_exif() -> None:
    assert read_first_bytes(heic(encoded("avif", exif=whole(">"))), "place") == FirstBytes("heic", 40, 30, True, TOLD)
    raw = read_first_bytes(tiff("<") + bytes(FIRST_BYTES), "place")  # a TIFF, whose first image is a preview
    assert (raw.width, raw.told) == (0, replace(TOLD, orientation=None))
    assert read_first_bytes(tiff("<", at=FIRST_BYTES), "place").told is None
    assert read_first_bytes(b"\xff\x0a" + bytes(99), "place") == FirstBytes()


def test_an_exif_before_and_a_size_behind_the_first_bytes() -> None:
    body, app2 = encoded("jpeg", exif=b"Exif\0\0" + whole("<")), b"\xff\xe2\xff\xff" + bytes(65_533)
    frame = body.index(b"\xff\xdb")
    assert read_first_bytes(body[:frame] + app2 + body[frame:], "place") == FirstBytes(turned=True, told=TOLD)
    assert read_first_bytes(body[:2] + app2 + body[2:], "place") == FirstBytes()
    broken = encoded("jpeg", exif=b"Exif\0\0" + whole("<", {EXIF: (4, (0xFFFFFF,))}))
    assert read_first_bytes(broken, "on").told == PictureFacts(orientation=6, missing="exif-broken")


@pytest.mark.parametrize(
    ("original", "copy", "shapes"),
    [
        (FirstBytes("jpeg", 40, 20, True), FirstBytes(turned=False), (0.5,)),
        (FirstBytes("jpeg", 40, 20, True), FirstBytes(turned=True), (2.0,)),
        (FirstBytes("heic", 40, 20, None), FirstBytes(turned=False), (2.0, 0.5)),
        (FirstBytes(turned=True), FirstBytes("jpeg", 9, 9, False), ()),
    ],
)
def test_a_rendition_has_the_upright_shape_of_its_original(
    original: FirstBytes, copy: FirstBytes, shapes: tuple[float, ...]
) -> None:
    assert original.shapes_of(copy) == shapes


def bmp(width: int, height: int) -> bytes:
    return b"BM" + bytes(12) + struct.pack("<LllHHL", 40, width, height, 1, 24, 0) + bytes(99)


STARTS = [encoded(name)[:200] for name in ("jpeg", "png", "webp", "gif", "avif")] + [tiff(">"), bmp(4, -4)]


@given(st.sampled_from(STARTS), st.integers(0, 200), st.binary(max_size=40))
@example(bmp(-(2**31), 2**31 - 1), 0, b"")
@example(bmp(0, 4), 0, b"")
@example(bmp(1_000_001, 4), 0, b"")
def test_no_bytes_raise_or_tell_a_size_that_no_image_has(start: bytes, at: int, other: bytes) -> None:
    first = read_first_bytes(start[:at] + other + start[at + len(other) :], "place")
    assert bool(first.format) == (min(first.width, first.height) > 0)
    assert max(first.width, first.height) <= 1_000_000


PIECES = {
    "jpeg": b"\xff\xd8" + b"\xff\xe2\0\2" * 16_000,
    "png": encoded("png")[:33] + b"\0\0\0\0tEXt\0\0\0\0" * 5_400,
    "gif": b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe" + b"\1x" * 32_000,
    "avif": b"\0\0\0\x18ftypavif" + bytes(12) + b"\0\0\0\x08free" * 8_000,
    "tiff": b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\1\0\0\0\6\0\0\0" * 5_400,
}


@pytest.mark.parametrize("name", PIECES)
def test_the_worst_bytes_take_a_few_milliseconds(name: str) -> None:
    began = time.process_time()
    read_first_bytes(PIECES[name][:FIRST_BYTES], "place")
    assert time.process_time() - began < 0.1
