"""What bytes are: formats by their first bytes, faults in words, limits, geometry."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from tests.support.images import encoded, ramp
from workers.errors import Rejected
from workers.intake.geometry import Part, part_of, resized_to, scale_of, scaled
from workers.intake.header import DECODABLE, decodable, sniff
from workers.intake.limits import DECODE_ROOM_BYTES, MIB, Limits, blame
from workers.types import Transform


def iso(major: bytes, *others: bytes) -> bytes:
    brands = major + b"\0\0\0\0" + b"".join(others)
    return (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + b"rest of the file, avif"


@pytest.mark.parametrize("name", DECODABLE)
def test_what_pillow_writes_is_recognised(name: str) -> None:
    assert sniff(encoded(ramp(), name)) == name
    assert decodable(name)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (iso(b"avif"), "avif"),
        (iso(b"avis"), "avif"),
        (iso(b"mif1", b"mif1", b"avif"), "avif"),
        (iso(b"mif1", b"mif1", b"heic"), "heic"),
        (iso(b"msf1"), "heic"),
        (iso(b"heic"), "heic"),
        (b"MM\0*\0\0\0\x08", "tiff"),
        (b"II+\0\x08\0\0\0", "tiff"),
        (b"8BPS\0\x01", "photoshop"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "jpeg xl"),
        (b"\xff\x0a\xfa\x1f", "jpeg xl"),
        (b"\0\0\x01\0\x01\0\x10\x10", "icon"),
        (b"%PDF-1.7\n", "pdf"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "postscript"),
        (b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg xmlns="x">', "svg"),
        (b"  <svg>", "svg"),
        (b"P6\n40 30\n255\n", "netpbm"),
    ],
)
def test_signatures_distinguish_the_formats(head: bytes, name: str) -> None:
    assert sniff(head) == name


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"BM, as a text may begin", b"RIFF....WAVE", b"hello", b'{"a": "<svg"}', b"\0" * 64, b"PK\x03\x04"],
)
def test_a_file_that_is_no_image_has_no_format(body: bytes) -> None:
    assert sniff(body) is None


def test_a_format_without_a_decoder_here_is_not_decodable() -> None:
    assert not decodable("heic")
    assert not decodable("postscript")


class Unheard(Exception):
    """An error that no decoder is known to raise."""


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (Image.DecompressionBombError("too large"), "too-many-pixels", "too large"),
        (Image.DecompressionBombWarning("large"), "too-many-pixels", "large"),
        (MemoryError(), "decode-memory", "the decoder ran out of memory"),
        (OSError("cut off"), "broken-image", "OSError: cut off"),
        (struct.error("too short"), "broken-image", "error: too short"),
        (UnidentifiedImageError("<_io.BytesIO object at 0x7f>"), "broken-image", "the header can't be read"),
        (Unheard("what"), "decode-failed", "Unheard: what"),
    ],
)
def test_an_error_of_a_decoder_is_a_rejection(error: Exception, reason: str, detail: str) -> None:
    with pytest.raises(Rejected) as caught, blame():
        raise error
    assert (caught.value.stage, caught.value.reason, caught.value.detail) == ("decode", reason, detail)
    assert caught.value.__cause__ is error


def test_a_rejection_passes_unchanged() -> None:
    rejected = Rejected("fetch", "empty-object", "0 bytes")
    with pytest.raises(Rejected) as caught, blame():
        raise rejected
    assert caught.value is rejected


def test_what_ends_a_process_is_no_images_fault() -> None:
    with pytest.raises(KeyboardInterrupt), blame():
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "more"), [("jpeg", 100), ("png", 100), ("webp", 400), ("avif", 400), ("tiff", 100 + 16 * MIB), (None, 100)]
)
def test_a_header_is_counted_by_how_often_its_decoder_copies_the_file(name: str | None, more: int) -> None:
    assert Limits(inspect_bytes=5 * MIB).inspect_held_bytes(name, 100) == 5 * MIB + more


def test_a_child_that_reads_a_header_may_take_its_reservation_and_two_canvases_of_webp() -> None:
    limits = Limits(inspect_bytes=5 * MIB, max_pixels=1_000)
    assert limits.inspect_address_bytes("webp", MIB) == 5 * MIB + 4 * MIB + 8_000
    assert limits.inspect_address_bytes("avif", MIB) == 5 * MIB + 4 * MIB + 16 * MIB


def test_a_child_that_decodes_may_take_a_quarter_more_than_its_estimate_and_a_codecs_own_room() -> None:
    assert Limits().decode_address_bytes(1_000) == 1_250 + DECODE_ROOM_BYTES


SQUASH, CROP, PAD = Transform(384), Transform(224, "crop", 256, "bicubic"), Transform(448, "pad")

sides = st.integers(3, 70_000)
transforms = st.sampled_from((SQUASH, CROP, PAD, Transform(8), Transform(8, exif_transpose=True)))


@pytest.mark.parametrize(
    ("transform", "size", "scale"),
    [
        (SQUASH, (4000, 3000), 2),
        (SQUASH, (2303, 2304), 1),
        (SQUASH, (4608, 4608), 4),
        (SQUASH, (60_000, 60_000), 8),
        (CROP, (4000, 3000), 2),
        (CROP, (1535, 9000), 1),
        (PAD, (20_000, 64), 8),
    ],
)
def test_each_side_keeps_three_times_its_resized_length(
    transform: Transform, size: tuple[int, int], scale: int
) -> None:
    assert scale_of([transform], size, 3.0) == scale


@given(transforms, sides, sides, st.sampled_from((1.0, 1.5, 3.0)))
def test_no_scale_leaves_less_than_the_gap_and_the_next_would(
    transform: Transform, width: int, height: int, gap: float
) -> None:
    scale = scale_of([transform], (width, height), gap)
    part = part_of(transform, (width, height)).size
    pairs = list(zip(part, resized_to(transform, part), strict=True))
    if scale > 1:
        assert all(side / scale >= gap * target for side, target in pairs)
    if scale < 8:
        assert any(side / (2 * scale) < gap * target for side, target in pairs)


@given(transforms, sides, sides)
def test_a_turn_changes_no_scale(transform: Transform, width: int, height: int) -> None:
    assert scale_of([transform], (width, height), 3.0) == scale_of([transform], (height, width), 3.0)


def test_the_most_demanding_transform_decides() -> None:
    assert scale_of([Transform(8), SQUASH], (9216, 9216), 3.0) == scale_of([SQUASH], (9216, 9216), 3.0)
    assert scale_of([Transform(8), SQUASH], (640, 480), 3.0) == 1


def test_nothing_is_scaled_where_it_is_switched_off_or_there_is_nothing_to_make() -> None:
    assert scale_of([SQUASH], (60_000, 60_000), 0.0) == 1
    assert scale_of([], (60_000, 60_000), 3.0) == 1


def test_a_column_that_is_begun_counts_whole() -> None:
    assert scaled((4001, 3000), 8) == (501, 375)
    assert scaled((5, 7), 1) == (5, 7)


def test_a_crop_sees_four_times_the_shorter_side_at_most() -> None:
    assert part_of(CROP, (1000, 100)) == Part(300, 0, 400, 100)
    assert part_of(CROP, (100, 1001)) == Part(0, 300, 100, 400)
    assert part_of(SQUASH, (1000, 100)) == Part(0, 0, 1000, 100)
