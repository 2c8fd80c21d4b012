"""A glance at a header finds the child's answer or nothing; it runs in the worker's own process."""

import time
from dataclasses import replace

import pytest
from PIL import Image

from tests.support.images import encoded, ramp
from workers.errors import Rejected
from workers.intake.decoding import Decoding
from workers.intake.limits import Limits
from workers.types import Transform

LIMITS = Limits()
PLAIN, TURNED = Transform(8), Transform(16, exif_transpose=True)
RGB = ramp(40, 30)
EXIF = Image.Exif()
EXIF[0x0112] = 6
JPEG = encoded(RGB, "jpeg")


def with_segment(marker: int, body: bytes, times: int = 1) -> bytes:
    segment = bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body
    return JPEG[:2] + segment * times + JPEG[2:]


SEEN = {
    "colour": JPEG,
    "grey": encoded(RGB.convert("L"), "jpeg"),
    "full colour": encoded(RGB, "jpeg", subsampling=0),
    "restarts": encoded(RGB, "jpeg", restart_marker_rows=1),
    "turned": encoded(RGB, "jpeg", exif=EXIF),
    "comment and profile": encoded(RGB, "jpeg", comment=b"words", icc_profile=b"\0" * 200),
    "two images": encoded(RGB, "mpo", save_all=True, append_images=[RGB]),
    "too much metadata": with_segment(0xE1, b"Exif\0\0" + bytes(60_000), times=3),
    "extended sequential": JPEG.replace(b"\xff\xc0", b"\xff\xc1", 1),
}
NOT_SEEN = {
    "progressive": encoded(RGB, "jpeg", progressive=True),
    "four colours": encoded(RGB.convert("CMYK"), "jpeg"),
    "padded": JPEG[:2] + b"\xff" + JPEG[2:],
    "something between segments": JPEG[:2] + b"..." + JPEG[2:],
    "crowded": with_segment(0xFE, b"", times=100),
    "too many tables": with_segment(0xDB, bytes(65_000), times=2),
    "a header alone": JPEG[: JPEG.index(b"\xff\xda")],
    "two frames": JPEG[: JPEG.index(b"\xff\xda")] + JPEG[JPEG.index(b"\xff\xc0") :],
    "twelve bits": JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c", 1),
    "another format": encoded(RGB, "png"),
    "nothing": b"",
    "a beginning": b"\xff\xd8\xff",
    "rubbish": b"\xff\xd8\xff" + bytes(range(256)) * 9,
}


@pytest.mark.parametrize("transforms", [(PLAIN,), (PLAIN, TURNED)], ids=["plain", "turned"])
@pytest.mark.parametrize("gap", [0.0, 1.5], ids=["off", "fast"])
@pytest.mark.parametrize("kind", SEEN)
def test_a_plain_jpegs_glance_equals_its_inspection(kind: str, gap: float, transforms: tuple[Transform, ...]) -> None:
    decoding = Decoding(transforms, LIMITS, gap)
    found = decoding.glance(SEEN[kind])
    assert found is not None
    assert found == decoding.inspect(SEEN[kind])


@pytest.mark.parametrize("kind", NOT_SEEN)
def test_a_glance_finds_nothing_in_any_other_format(kind: str) -> None:
    assert Decoding([PLAIN], LIMITS).glance(NOT_SEEN[kind]) is None


def test_a_glance_leaves_refusals_to_the_inspection() -> None:
    for limits in (
        replace(LIMITS, max_pixels=40 * 30 - 1),
        replace(LIMITS, min_side=31),
        replace(LIMITS, formats=("png",)),
    ):
        assert Decoding([PLAIN], limits).glance(JPEG) is None
        with pytest.raises(Rejected):
            Decoding([PLAIN], limits).inspect(JPEG)


def test_a_glance_finds_nothing_in_an_image_without_a_height_even_if_any_side_will_do() -> None:
    at = JPEG.index(b"\xff\xc0") + 5
    flat = JPEG[:at] + b"\0\0" + JPEG[at + 2 :]
    assert Decoding([PLAIN], replace(LIMITS, min_side=0)).glance(flat) is None


@pytest.mark.slow
def test_every_changed_byte_of_a_header_gives_an_equal_glance_or_no_glance() -> None:
    """What Pillow refuses although a glance has let it pass is refused when it is decoded."""
    decoding = Decoding([PLAIN], LIMITS)
    seen = 0
    for body in (JPEG, SEEN["turned"]):
        for at in range(body.index(b"\xff\xda") + 14):
            for value in (0, 1, 0x7F, 0xC2, 0xD8, 0xFF):
                changed = body[:at] + bytes((value,)) + body[at + 1 :]
                if (found := decoding.glance(changed)) is None:
                    continue
                seen += 1
                try:
                    inspected = decoding.inspect(changed)
                except Rejected:
                    with pytest.raises(Rejected):
                        decoding.decode(changed, found.format)
                else:
                    assert found == inspected, (at, value)
    assert seen > 1_000


def test_a_glance_looks_at_few_bytes_whatever_they_are() -> None:
    decoding = Decoding([PLAIN], LIMITS)
    large = [b"\xff\xd8\xff\xfe\0\2" + filler * (20 << 20) for filler in (b"\0", b"\xff", b"\xd0")]
    large.append(b"\xff\xd8" + b"\xff\xfe\0\2" * (5 << 20))
    began = time.thread_time()
    assert [decoding.glance(body) for body in large] == [None] * 4
    assert time.thread_time() - began < 0.05
