"""What reading a header and decoding may hold, by format: too little refuses honest images, too much lets few in."""

from __future__ import annotations

import pytest

from workers.intake.limits import DECODE_ROOM_BYTES, MIB, Limits


@pytest.mark.parametrize(
    ("name", "more"),
    [("jpeg", 100), ("png", 100), ("webp", 400), ("avif", 400), ("tiff", 100 + 16 * MIB), (None, 100)],
)
def test_a_header_is_counted_by_how_often_its_decoder_copies_the_file(name: str | None, more: int) -> None:
    assert Limits(inspect_bytes=5 * MIB).inspect_held_bytes(name, 100) == 5 * MIB + more


def test_a_child_that_reads_headers_may_take_the_worst_formats_bytes_and_two_canvases_of_webp() -> None:
    limits = Limits(max_object_bytes=MIB, inspect_bytes=5 * MIB, max_pixels=1_000, formats=("jpeg", "webp"))
    assert limits.inspect_address_bytes == 5 * MIB + 4 * MIB + 8_000


def test_a_child_that_decodes_may_take_a_quarter_more_than_its_estimate_and_a_codecs_own_room() -> None:
    assert Limits().decode_address_bytes(1_000) == 1_250 + DECODE_ROOM_BYTES
