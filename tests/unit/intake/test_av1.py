"""What AV1's headers say of the size of frames, and that no AVIF hides it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tests.support.images import encoded, ramp
from tests.support.slow_images import avif_of_frames
from tests.unit.intake.memory import Apart, needs_linux, peak_bytes
from workers.errors import Rejected
from workers.intake.decoding import Decoding
from workers.intake.header import guard, read_header
from workers.intake.limits import Limits
from workers.intake.scan import scan
from workers.intake.scan.av1 import FrameSizes
from workers.intake.transform import decode
from workers.types import Transform


@pytest.fixture(autouse=True)
def _guarded() -> None:
    guard(Limits())


def declared(body: bytes, width: int, height: int) -> bytes:
    """The same AVIF, whose container says another size."""
    at = body.index(b"ispe") + 8
    return body[:at] + struct.pack(">LL", width, height) + body[at + 8 :]


def photo(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([(x * 7 + y * 3) % 251, y % 256, x % 256], axis=-1).astype(np.uint8))


@pytest.mark.slow
@needs_linux
def test_decoding_a_frame_larger_than_its_image_holds_no_more_than_was_estimated(apart: Apart) -> None:
    body = declared(encoded(photo(4000, 3000), "avif", speed=10), 80, 60)
    header = read_header(body, Limits())
    assert (header.width, header.height) == (80, 60)
    held = apart(_held_by_decoding, encoded(photo(80, 60), "avif"), body)
    assert 20_000_000 < held <= header.decode_bytes + (3 << 20)


def _held_by_decoding(small: bytes, body: bytes) -> int:
    decode(small, "avif", (Transform(32),))  # what is made once
    return peak_bytes(lambda: decode(body, "avif", (Transform(32),)))


def test_a_frame_over_the_limit_of_pixels_is_refused_whatever_its_image_claims() -> None:
    body = declared(encoded(photo(1200, 1000), "avif", speed=10), 80, 60)
    with pytest.raises(Rejected, match="frame of 1200000 pixels") as refused:
        read_header(body, Limits(max_pixels=1_000_000))
    assert refused.value.reason == "too-many-pixels"


@pytest.mark.parametrize("size", [(40, 30), (64, 64), (1, 1), (517, 1025)], ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_the_frame_of_what_an_encoder_writes_is_its_image(mode: str, size: tuple[int, int]) -> None:
    body = encoded(ramp(*size).convert(mode), "avif", speed=10)
    assert scan(body, "avif").frame == size


def test_the_first_frame_of_a_sequence_is_found() -> None:
    image = ramp(70, 50)
    body = encoded(image, "avif", speed=10, save_all=True, append_images=[image.rotate(180)])
    essence = scan(body.replace(b"av01", b"av02", 1), "avif")  # without the still that stands beside it
    assert essence.frame == (70, 50)
    with Image.open(io.BytesIO(body)) as opened:
        assert opened.size == (70, 50)


class Writer:
    def __init__(self) -> None:
        self.bits = ""

    def put(self, *fields: tuple[int, int]) -> Writer:
        self.bits += "".join(f"{value:0{count}b}" for count, value in fields if count)
        return self

    def unit(self, kind: int) -> bytes:
        padded = self.bits + "1"
        padded += "0" * (-len(padded) % 8)
        content = int(padded, 2).to_bytes(len(padded) // 8, "big")
        return bytes([kind << 3 | 2, len(content)]) + content


def sequence(
    width: int, height: int, *, bits: int, timed: bool = False, ids: bool = False, deep: bool = False
) -> bytes:
    """A sequence header with every field of its first part."""
    made = Writer().put((3, 0), (1, 0), (1, 0), (1, timed))
    if timed:  # ticks, no equal interval, the model of a decoder with delays of 10 bits, times of 12
        made.put((32, 1), (32, 30), (1, 0), (1, 1), (5, 9), (32, 1), (5, 9), (5, 11))
    made.put((1, 1), (5, 1))
    for level in (0, 8):
        made.put((12, 0), (5, level), (1 if level > 7 else 0, 0))
        if timed:
            made.put((1, 1), (10, 5), (10, 5), (1, 0))
        made.put((1, 1), (4, 3))
    made.put((4, bits - 1), (4, bits - 1), (bits, width - 1), (bits, height - 1), (1, ids))
    if ids:
        made.put((4, 3), (3, 2))
    made.put((3, 0), (4, 0), (1, 1), (2, 0), (1, 1), (1, 1), (3, 6), (3, 0), (1, deep))
    return made.unit(1)


def frame(own: bool, *, timed: bool = False, ids: bool = False, kind: int = 0, shown: bool = True) -> bytes:
    made = Writer().put((1, 0), (2, kind), (1, shown))
    made.put((12, 0)) if timed and shown else None
    made.put((1, 0)) if not shown else None
    made.put((1, 1)) if kind != 0 or not shown else None
    made.put((1, 0), (1, 1), (1, 0))
    made.put((8, 0)) if ids else None
    return made.put((1, own)).unit(6)


def sizes_of(*units: bytes) -> FrameSizes:
    found = FrameSizes()
    found.add(memoryview(b"".join(units)))
    return found


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("kind", [0, 1])
def test_a_frame_that_states_a_size_of_its_own_may_have_all_that_its_bits_allow(
    timed: bool, ids: bool, shown: bool, kind: int
) -> None:
    head = sequence(80, 60, bits=13, timed=timed, ids=ids)
    assert sizes_of(head, frame(False, timed=timed, ids=ids, kind=kind, shown=shown)).sides == (80, 60)
    assert sizes_of(head, frame(True, timed=timed, ids=ids, kind=kind, shown=shown)).sides == (8192, 8192)


def test_the_largest_of_several_sequences_counts_and_the_depth_of_any() -> None:
    found = sizes_of(
        sequence(80, 60, bits=13), frame(False), sequence(8000, 50, bits=13, deep=True), frame(False), frame(False)
    )
    assert (found.sides, found.deep, found.frames) == ((8000, 60), True, 3)
    assert not sizes_of(sequence(80, 60, bits=13)).deep


def test_frames_that_are_kept_for_later_ones_are_part_of_the_estimate() -> None:
    assert sizes_of(sequence(80, 60, bits=13), *[frame(False, shown=False)] * 7, frame(False)).frames == 8


def test_more_pieces_than_any_honest_file_has_are_refused() -> None:
    with pytest.raises(Rejected, match="pieces of AV1"):
        sizes_of(b"\x12\0" * 70_000)


def test_a_picture_may_have_sixty_four_frames_and_no_more() -> None:
    """Guard: a decoder goes through all of them before the one that it shows."""
    decoding = Decoding([Transform(8)], Limits())

    def both(body: bytes) -> int:
        width = decoding.inspect(body).width
        decoding.decode(body, "avif")
        return width

    assert [both(avif_of_frames(64, count)) for count in (1, 64)] == [64, 64]
    with pytest.raises(Rejected) as refused:
        both(avif_of_frames(64, 65))
    assert refused.value.reason in {"too-complex", "decode-timeout"}


def test_many_bitstreams_with_layers_of_their_own_are_taken_and_with_frames_of_any_number_are_not() -> None:
    head = sequence(80, 60, bits=13)

    def many(bitstreams: int, frames: int) -> None:
        found = FrameSizes()
        for _ in range(bitstreams):
            found.add(memoryview(head + frame(False) * frames))

    many(1_000, 4)
    with pytest.raises(Rejected, match="too-complex"):
        many(10, 12)


@pytest.mark.parametrize("cut", range(40))
def test_a_cut_bitstream_is_left_to_the_decoder(cut: int) -> None:
    whole = sequence(80, 60, bits=13, timed=True) + frame(True, timed=True)
    sizes_of(whole[:cut])
