"""Pixels from encoded bytes: equal to a published transform where there is one."""

import io
import warnings
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from tests.support.images import encoded, grey16, noise, ramp
from workers.errors import Rejected
from workers.intake.transform import apply, decode, to_rgb
from workers.types import Pixels, Transform

SAME = Transform(32)


def pixels(body: bytes, name: str, transform: Transform = SAME) -> Pixels:
    return decode(body, name, (transform,)).pixels[transform]


def through(image: Image.Image, name: str, **options: object) -> Pixels:
    return pixels(encoded(image, name, **options), name)


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"])
@pytest.mark.parametrize(
    "transform", [Transform(24), Transform(24, "crop", 28, "bicubic"), Transform(64, "crop", 64), Transform(7)]
)
def test_every_format_and_transform_gives_contiguous_rgb_bytes(name: str, transform: Transform) -> None:
    array = pixels(encoded(ramp(50, 40), name), name, transform)
    assert array.shape == (transform.size, transform.size, 3)
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous
    assert array.flags.writeable


SIZES = [(640, 480), (480, 640), (301, 1007), (224, 224), (97, 41), (256, 255), (31, 2000)]


@pytest.mark.slow  # torchvision takes seconds to load
@pytest.mark.parametrize("size", SIZES)
def test_squash_is_the_published_square_resize_to_the_bit(size: tuple[int, int]) -> None:
    from torchvision.transforms import Resize

    image = noise(*size)
    expected = np.asarray(Resize((384, 384))(image))
    assert np.array_equal(apply(Transform(384), image), expected)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES[:-1])
@pytest.mark.parametrize(("side", "resize"), [(224, 256), (224, 224), (225, 256), (224, 235)])
def test_crop_is_the_published_resize_and_centre_crop_to_the_bit(size: tuple[int, int], side: int, resize: int) -> None:
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    image = noise(*size)
    expected = np.asarray(CenterCrop(side)(Resize(resize, InterpolationMode.BICUBIC)(image)))
    assert np.array_equal(apply(Transform(side, "crop", resize, "bicubic"), image), expected)


def test_pad_keeps_the_whole_image_and_its_proportions_and_enlarges_nothing() -> None:
    wide = apply(Transform(64, "pad"), Image.new("RGB", (200, 100), (10, 200, 30)))
    assert (wide[:32] == (10, 200, 30)).all()
    assert not wide[32:].any()
    high = apply(Transform(64, "pad"), Image.new("RGB", (1, 5_000), (10, 200, 30)))
    assert (high[:, 0] == (10, 200, 30)).all()
    assert not high[:, 1:].any()
    small = noise(20, 10)
    padded = apply(Transform(64, "pad"), small)
    assert np.array_equal(padded[:10, :20], np.asarray(small))
    assert padded.shape == (64, 64, 3)


@pytest.mark.parametrize("size", [(3, 60_000), (60_000, 3), (5, 2_000_000)])
@pytest.mark.parametrize("transform", [Transform(384), Transform(224, "crop", 256, "bicubic")])
def test_an_extremely_long_image_is_never_blown_up(
    size: tuple[int, int], transform: Transform, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    resize = Image.Image.resize

    def watched(self: Image.Image, to: tuple[int, int], *args: object) -> Image.Image:
        made.append(max(to[0] * self.height, to[0] * to[1]))  # Pillow resizes rows first
        return resize(self, to, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", watched)
    array = apply(transform, Image.new("RGB", size, (10, 200, 30)))
    assert (array == (10, 200, 30)).all()
    assert max(made) <= max(4_000_000, size[0] * size[1])


def test_a_long_image_is_resized_as_pillow_does_except_for_rounding() -> None:
    image = noise(40, 12_000)
    expected = np.asarray(image.resize((384, 384), Image.Resampling.BILINEAR), dtype=int)
    assert np.abs(apply(Transform(384), image) - expected).max() <= 1


def test_the_crop_of_a_long_image_is_its_centre() -> None:
    image = Image.new("RGB", (30, 3000), (255, 0, 0))
    image.paste((0, 255, 0), (0, 1400, 30, 1600))
    assert (apply(Transform(24, "crop", 28), image) == (0, 255, 0)).all()


# Modes


@pytest.mark.parametrize("name", ["png", "webp", "tiff"])
def test_alpha_is_dropped_and_shows_the_colour_under_it(name: str) -> None:
    image = Image.new("RGBA", (20, 20), (200, 100, 50, 0))
    array = through(image, name, **({"lossless": True, "exact": True} if name == "webp" else {}))
    assert (array == (200, 100, 50)).all()


def test_grey_with_alpha_becomes_grey() -> None:
    assert (through(Image.new("LA", (20, 20), (77, 0)), "png") == 77).all()


@pytest.mark.parametrize("transparency", [None, 3, b"\xff\x80\x40\x00"])
def test_a_palette_is_looked_up_without_a_warning_of_transparency(transparency: int | bytes | None) -> None:
    image = Image.new("P", (20, 20), 3)
    image.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 12, 34, 56])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (through(image, "png", transparency=transparency) == (12, 34, 56)).all()


def test_one_bit_images_are_black_and_white() -> None:
    image = Image.new("1", (20, 20), 0)
    image.paste(1, (10, 0, 20, 20))
    array = pixels(encoded(image, "png"), "png", Transform(20))
    assert (array[:, :10] == 0).all()
    assert (array[:, 10:] == 255).all()


def test_a_cmyk_jpeg_is_not_inverted() -> None:
    ink = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # full magenta and yellow: red
    array = through(ink, "jpeg", quality=95)
    assert np.abs(array.astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("name", ["png", "tiff"])
def test_sixteen_bit_grey_keeps_its_high_byte(name: str) -> None:
    array = pixels(encoded(grey16([0x0000, 0x1234, 0x80FF, 0xFFFF]), name), name, Transform(16, "crop", 16))
    image = to_rgb(Image.open(io.BytesIO(encoded(grey16([0x0000, 0x1234, 0x80FF, 0xFFFF]), name))))
    assert [image.getpixel((x, 0)) for x in (1, 5, 9, 13)] == [(level,) * 3 for level in (0, 0x12, 0x80, 0xFF)]
    assert len(np.unique(array)) >= 3


def test_big_endian_sixteen_bit_grey_is_read_as_sixteen_bits() -> None:
    big = Image.frombytes("I;16B", (4, 4), b"\x12\x34" * 16)
    assert to_rgb(big).getpixel((0, 0)) == (0x12,) * 3


@pytest.mark.parametrize(
    "values",
    [
        np.array([0, 500, 1000], np.int32),
        np.array([-7.5, 0.0, 7.5], np.float32),
        np.array([0, 0.5, 1], np.float32),
        np.array([-3e38, 0, 3e38], np.float32),
        np.array([0, 1e-40, 2e-40], np.float32),
    ],
)
def test_numbers_without_a_range_are_stretched_from_least_to_greatest(values: np.ndarray) -> None:
    image = to_rgb(Image.fromarray(np.tile(values, (3, 1))))
    levels = [pixel[0] for x in range(3) if isinstance(pixel := image.getpixel((x, 0)), tuple)]
    assert levels[0] == 0
    assert abs(levels[1] - 128) <= 1
    assert levels[2] == 255


def test_a_float_image_with_holes_is_read() -> None:
    values = np.array([[0, np.nan, np.inf, -np.inf, 1]] * 3, np.float32)
    image = to_rgb(Image.fromarray(values))
    assert [image.getpixel((x, 0)) for x in range(5)] == [(0,) * 3] * 4 + [(255,) * 3]


def test_a_float_image_of_one_value_is_black() -> None:
    assert to_rgb(Image.fromarray(np.full((4, 4), 7.5, np.float32))).getextrema() == ((0, 0),) * 3


def test_eight_bit_integers_in_thirty_two_come_back_unchanged() -> None:
    levels = np.arange(256, dtype=np.int32).reshape(16, 16)
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(levels)))[..., 0], levels)


def test_a_lab_tiff_is_read() -> None:
    lab = Image.new("LAB", (20, 20), (255, 128, 128))  # lightness 100 %, no colour
    assert (through(lab, "tiff") >= 250).all()


@pytest.mark.parametrize("name", ["gif", "webp", "png"])
def test_an_animation_is_its_first_frame(name: str) -> None:
    first, second = Image.new("RGB", (20, 20), (255, 0, 0)), Image.new("RGB", (20, 20), (0, 0, 255))
    array = through(first, name, save_all=True, append_images=[second], duration=100)
    assert np.abs(array.astype(int) - (255, 0, 0)).max() <= 3


# EXIF


def turned_jpeg(orientation: int) -> bytes:
    """Red on its left half as stored, blue on its right."""
    image = Image.new("RGB", (64, 32), (255, 0, 0))
    image.paste((0, 0, 255), (32, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "jpeg", exif=exif, quality=95)


def test_exif_orientation_is_ignored_unless_the_transform_asks() -> None:
    array = pixels(turned_jpeg(3), "jpeg")
    assert array[16, 2, 0] > 200
    assert array[16, 29, 2] > 200


def test_transforms_with_and_without_exif_do_not_disturb_each_other() -> None:
    plain, turning = Transform(32), Transform(32, exif_transpose=True)
    for order in ((plain, turning), (turning, plain)):
        image = decode(turned_jpeg(6), "jpeg", order)
        assert np.array_equal(image.pixels[plain], pixels(turned_jpeg(6), "jpeg", plain))
        assert image.pixels[turning][2, 16, 0] > 200  # a quarter turn to the right: the left half is on top


def test_sixteen_bit_grey_is_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    body = encoded(grey16([0, 0xFFFF]), "png", exif=exif)
    assert pixels(body, "png", Transform(8, exif_transpose=True))[4, 0, 0] == 255


# Broken files


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"])
@pytest.mark.parametrize("kept", [0.4, 0.7, 0.95])
def test_a_truncated_image_is_rejected_and_not_half_decoded(name: str, kept: float) -> None:
    body = encoded(noise(64, 64), name)
    with pytest.raises(Rejected) as rejected:
        pixels(body[: int(len(body) * kept)], name)
    assert (rejected.value.stage, rejected.value.reason) == ("decode", "broken-image")
    assert "object at 0x" not in rejected.value.detail


def test_a_png_with_a_wrong_checksum_is_rejected() -> None:
    body = bytearray(encoded(noise(64, 64), "png"))
    body[len(body) // 2] ^= 0xFF
    with pytest.raises(Rejected, match="broken-image"):
        pixels(bytes(body), "png")


@pytest.mark.parametrize(
    ("error", "reason"), [(MemoryError(), "decode-memory"), (AssertionError("unexpected"), "decode-failed")]
)
def test_a_decoder_without_memory_and_an_unexpected_error_have_reasons_of_their_own(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    body = encoded(ramp(), "jpeg")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", Mock(side_effect=error))
    with pytest.raises(Rejected, match=reason):
        pixels(body, "jpeg")
