"""Reading an image's header against the limits, without decoding."""

import warnings

import pytest
from PIL import AvifImagePlugin, Image

from tests.support import images
from tests.support.images import encoded, ramp
from tests.support.waiting import bounded
from workers.errors import Rejected
from workers.intake.header import Header, guard, read_header
from workers.intake.limits import Limits
from workers.intake.scan import scan

LIMITS = Limits()


def refusal(body: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(Rejected) as rejected:
        read_header(body, limits)
    assert rejected.value.stage == "decode"
    return rejected.value.reason


@pytest.mark.parametrize("name", LIMITS.formats)
def test_every_allowed_format_is_read(name: str) -> None:
    header = read_header(encoded(ramp(40, 30), name), LIMITS)
    assert (header.format, header.width, header.height) == (name, 40, 30)
    assert header.decode_bytes >= 40 * 30 * 3


@pytest.mark.parametrize("body", [b"not an image", b"\0" * 100, b"<html>404</html>", b"\xff"])
def test_a_file_that_is_no_image_is_not_an_image(body: bytes) -> None:
    assert refusal(body) == "not-an-image"


@pytest.mark.parametrize(
    "body", [b"%PDF-1.7", b"8BPS\0\x01" + b"\0" * 40, encoded(ramp(), "ppm"), encoded(ramp(), "ico")]
)
def test_an_image_of_a_forbidden_format_is_refused_with_its_own_reason(body: bytes) -> None:
    assert refusal(body) == "format-not-allowed"


def test_a_format_that_the_settings_leave_out_is_not_allowed() -> None:
    assert refusal(encoded(ramp(), "gif"), Limits(formats=("jpeg", "png"))) == "format-not-allowed"


@pytest.mark.parametrize("name", LIMITS.formats)
def test_a_file_cut_inside_its_header_is_broken_or_no_image(name: str) -> None:
    assert refusal(encoded(ramp(), name)[:21]) in ("broken-image", "not-an-image")


@pytest.mark.parametrize(
    "body",
    [
        images.png_claiming(100_000, 100_000),
        images.png_claiming(2**31 - 1, 1),
        images.png_bomb(20_000, 20_000),
        images.bmp_claiming(60_000, 60_000),
        images.gif_claiming(65_535, 65_535),
        images.webp_claiming(16_383, 16_383),
        images.webp_claiming(9_000, 9_000),
    ],
    ids=["png", "png of one row", "png honest", "bmp", "gif", "webp", "webp below Pillow's own guard"],
)
def test_enormous_dimensions_in_a_tiny_file_are_refused_at_once(body: bytes) -> None:
    assert len(body) < 100_000
    with bounded():
        assert refusal(body) == "too-many-pixels"


def test_a_file_that_something_is_cut_out_of_takes_a_copy_more() -> None:
    bare, told = encoded(ramp(), "jpeg"), encoded(ramp(), "jpeg", comment=b"x" * 1_000)
    more = read_header(told, LIMITS).decode_bytes - read_header(bare, LIMITS).decode_bytes
    assert more == len(scan(told, "jpeg").body) == len(bare)


@pytest.mark.parametrize("name", LIMITS.formats)
def test_just_the_allowed_pixels_pass_and_one_row_more_does_not(name: str) -> None:
    limits = Limits(max_pixels=40 * 30)
    guard(limits)
    assert read_header(encoded(ramp(40, 30), name), limits).height == 30
    assert refusal(encoded(ramp(40, 31), name), limits) == "too-many-pixels"


def test_pillow_is_bounded_as_we_are_uses_one_thread_and_warns_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard(Limits(max_pixels=1_234))
        warnings.warn_explicit("of a file", UserWarning, "", 1, module="PIL.TiffImagePlugin")
    assert (Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS) == (1_234, 1)


@pytest.mark.parametrize("size", [(1, 1), (2, 400), (400, 2)])
def test_a_side_below_three_pixels_is_too_small(size: tuple[int, int]) -> None:
    assert refusal(encoded(ramp(*size), "png")) == "too-small"


def test_three_pixels_are_enough() -> None:
    header = read_header(encoded(ramp(3, 3), "png"), LIMITS)
    assert header == Header("png", 3, 3, "RGB", header.decode_bytes)


def test_an_animation_is_as_large_as_its_first_frame() -> None:
    body = encoded(ramp(40, 30), "gif", save_all=True, append_images=[ramp(40, 30).rotate(90)] * 20)
    header = read_header(body, LIMITS)
    assert (header.width, header.height) == (40, 30)


def test_a_jpeg_with_a_second_image_behind_it_is_a_jpeg_of_its_first() -> None:
    body = encoded(ramp(40, 30), "mpo", save_all=True, append_images=[ramp(20, 10)])
    header = read_header(body, LIMITS)
    assert (header.format, header.width, header.height) == ("jpeg", 40, 30)


@pytest.mark.parametrize(
    ("name", "mode", "bytes_a_pixel"),
    [
        ("png", "RGB", 4.0),
        ("png", "L", 5.0),
        ("png", "P", 5.0),
        ("png", "RGBA", 8.0),
        ("png", "I;16", 13.0),
        ("jpeg", "RGB", 5.2),
        ("jpeg", "CMYK", 9.6),
        ("gif", "P", 6.0),
        ("webp", "RGB", 18.0),
    ],
)
def test_a_decode_is_counted_by_the_pixel_and_by_no_more(name: str, mode: str, bytes_a_pixel: float) -> None:
    """As stored, as the decoder has it, and as RGB: with twice as many half as many images are decoded at a time."""
    one, two = (encoded(Image.new(mode, (width, 480)), name) for width in (640, 1280))
    more = read_header(two, LIMITS).decode_bytes - read_header(one, LIMITS).decode_bytes
    assert more / (640 * 480) == pytest.approx(bytes_a_pixel, abs=0.05)
    assert read_header(one, LIMITS).decode_bytes > 128 << 10
