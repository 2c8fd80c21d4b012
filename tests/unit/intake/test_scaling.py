"""JPEGs decoded at a part of their size: the same verdicts as in full, nearly the same pixels, less memory."""

import io
import itertools
import struct
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from PIL import Image

from tests.support.images import encoded
from tests.unit.intake import greedy
from workers.errors import Rejected
from workers.intake.decoding import Decoding
from workers.intake.limits import Limits
from workers.intake.transform import decode
from workers.types import Pixels, Transform

LIMITS = Limits()
SQUASH = Transform(24)
TRANSFORMS = {
    "squash": SQUASH,
    "bicubic": Transform(24, interpolation="bicubic"),
    "crop": Transform(22, "crop", 24, "bicubic"),
    "pad": Transform(24, "pad"),
    "crop, turned": Transform(22, "crop", 24, "bicubic", exif_transpose=True),
    "pad, turned": Transform(24, "pad", exif_transpose=True),
}
CLOSE = 3.0


def scene(width: int, height: int) -> Image.Image:
    """Soft slopes, and edges that show a shift by a part of a pixel."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / (width / a) + y / (height / b)) for a, b in ((9, 4), (5, 11), (14, 3))]
    image = np.stack(waves, axis=-1).astype(np.uint8)
    image[height // 3 : height // 2, width // 4 : width // 3] = (255, 240, 10)
    image[-height // 8 :, -width // 5 :] = (10, 20, 90)
    return Image.fromarray(image)


@cache
def made(transform: Transform, gap: float) -> Decoding:
    """Kept, because each encodes an image of every format when it is made."""
    return Decoding([transform], LIMITS, gap)


def answer(body: bytes, transform: Transform, gap: float) -> tuple[int, int, Pixels] | Rejected:
    """The scale, the estimated bytes, and the pixels."""
    decoding = made(transform, gap)
    try:
        header = decoding.inspect(body)
        pixels = decoding.decode(body, header.format).pixels[transform]
        return decoding.scale_of(header), decoding.decode_bytes(header), pixels
    except Rejected as error:
        return error


def judged(body: bytes, transform: Transform = SQUASH, gap: float = CLOSE) -> tuple[int, float, int]:
    """The scale, and the pixels' difference from a full decode, on average and at most; the verdicts must be equal."""
    full, found = answer(body, transform, 0.0), answer(body, transform, gap)
    if isinstance(full, Rejected) or isinstance(found, Rejected):
        assert str(full) == str(found)
        return 0, 0.0, 0
    assert full[0] == 1
    assert (found[1] < full[1]) == (found[0] > 1)
    apart = np.abs(full[2].astype(int) - found[2])
    return found[0], float(apart.mean()), int(apart.max())


MODES = [
    ("RGB", {"subsampling": "4:4:4"}),
    ("RGB", {"subsampling": "4:2:0"}),
    ("RGB", {"subsampling": "4:2:2"}),
    ("RGB", {"subsampling": "4:1:1"}),
    ("RGB", {"keep_rgb": True}),
    ("RGB", {"restart_marker_blocks": 3, "icc_profile": bytes(400)}),
    ("L", {}),
    ("CMYK", {}),
]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [50, 95])
@pytest.mark.parametrize(("mode", "options"), MODES)
def test_every_kind_of_jpeg_has_nearly_the_pixels_of_a_decoding_in_full(
    mode: str, options: dict[str, object], quality: int, progressive: bool
) -> None:
    image = scene(301, 227).convert(mode)
    body = encoded(image, "jpeg", quality=quality, progressive=progressive, **options)
    scale, mean, most = judged(body)
    assert scale == 2
    assert mean < 0.5
    assert most <= 10  # at an edge of colour, where chroma is subsampled


TURNS = [*itertools.product(("crop, turned", "pad, turned"), range(10)), *((name, 6) for name in TRANSFORMS)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "orientation"), TURNS)
def test_a_scaled_image_lies_where_the_full_one_does_however_it_is_turned(name: str, orientation: int) -> None:
    """Guard: an eighth of 605 columns is 75.6. Where the rest of the last one counted, edges moved."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for size in ((1205, 605), (603, 1203)):
        body = encoded(scene(*size), "jpeg", quality=95, exif=exif)
        scale, mean, most = judged(body, TRANSFORMS[name])
        assert scale == 8
        assert mean < 0.6
        assert most <= 8


@pytest.mark.slow
@pytest.mark.parametrize("size", [(2001, 40), (40, 2001), (3000, 150), (150, 3000), (1201, 301), (3, 3000), (73, 72)])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_an_image_with_one_large_side_is_scaled_as_far_as_the_other_allows(
    transform: Transform, size: tuple[int, int]
) -> None:
    scale, mean, most = judged(encoded(scene(*size), "jpeg", quality=95), transform)
    assert mean < 0.6
    assert most <= 10
    if transform.fit == "squash" and min(size) < 144:
        assert (scale, most) == (1, 0)


def test_a_scaled_decoding_stays_within_the_image_at_every_size() -> None:
    for width, height in itertools.product(range(144, 161, 3), (144, 149, 301)):
        scale, mean, _ = judged(encoded(scene(width, height), "jpeg", quality=90))
        assert scale == 2
        assert mean < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_jpeg_is_rejected_as_in_full_wherever_it_is_cut(progressive: bool) -> None:
    body = encoded(scene(301, 227), "jpeg", quality=30, progressive=progressive)
    verdicts = [judged(body[:end])[0] for end in (*range(0, len(body), 10), len(body))]
    assert verdicts[-1] == 2
    assert verdicts[: len(verdicts) // 2] == [0] * (len(verdicts) // 2)


def damaged(body: bytes) -> Iterator[bytes]:
    """Every other byte of the header changed, then some of the data."""
    start = body.index(b"\xff\xda") + 12
    rng = np.random.default_rng(0)
    for at in range(2, start, 2):
        yield body[:at] + rng.bytes(1) + body[at + 1 :]
    for at in rng.integers(start, len(body), 50):
        yield body[:at] + rng.bytes(2) + body[at + 2 :]


@pytest.mark.slow
@pytest.mark.parametrize("progressive", [False, True])
def test_a_damaged_jpeg_has_the_verdict_that_it_has_in_full(progressive: bool) -> None:
    scales = [judged(each)[0] for each in damaged(encoded(scene(160, 150), "jpeg", progressive=progressive))]
    assert 0 in scales
    assert 2 in scales


@pytest.mark.slow
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("first", range(1, 5))
def test_a_jpegs_verdict_equals_a_full_decodes_for_any_sampling(first: int, progressive: bool) -> None:
    for down, across, other in itertools.product(range(1, 5), repeat=3):
        sampled = (first << 4 | down, across << 4 | other, 0x11)
        assert judged(greedy.jpeg(301, 227, sampled=sampled, progressive=progressive))[0] in (0, 2)


def lossless(width: int, height: int, components: int, marker: int) -> bytes:
    """A grey JPEG without blocks: every sample is one zero bit, which says that it is as the one before."""
    numbers = range(1, components + 1)
    frame = struct.pack(">BHHB", 8, height, width, components) + b"".join(bytes((n, 0x11, 0)) for n in numbers)
    scan = bytes((components,)) + b"".join(bytes((n, 0)) for n in numbers) + b"\x01\0\0"
    return b"".join(
        (
            b"\xff\xd8",
            greedy.jpeg_segment(marker, frame),
            greedy.jpeg_segment(0xC4, b"\0" + bytes((1, *[0] * 15)) + b"\0"),
            greedy.jpeg_segment(0xDA, scan),
            bytes(-(-width * height * components // 8)),
            b"\xff\xd9",
        )
    )


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("marker", [*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)])
def test_an_image_without_a_scaled_form_is_decoded_in_full(marker: int, components: int) -> None:
    """Guard: Pillow makes room for the scaled image, whatever the codec then gives; a lossless JPEG was rejected."""
    scale, _, most = judged(lossless(301, 227, components, marker))
    assert (scale, most) in ((0, 0), (1, 0)) if marker == 0xC3 else (0, most)


def test_a_lossless_jpeg_is_accepted() -> None:
    assert judged(lossless(301, 227, 3, 0xC3))[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(65_500, 700), (700, 65_500), (65_535, 65_535), (0, 200), (200, 0), (144, 144)])
def test_a_size_that_its_data_do_not_fill_has_the_verdict_that_it_has_in_full(size: tuple[int, int]) -> None:
    body = bytearray(encoded(scene(160, 150), "jpeg"))
    at = body.index(b"\xff\xc0") + 5
    body[at : at + 4] = struct.pack(">HH", size[1], size[0])
    judged(bytes(body))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["png", "webp", "gif", "bmp", "tiff", "avif"])
def test_other_formats_are_decoded_in_full(name: str) -> None:
    assert judged(encoded(scene(301, 227), name))[1:] == (0, 0)


def test_nothing_is_scaled_unless_it_is_asked_for() -> None:
    body = encoded(scene(301, 227), "jpeg")
    assert made(SQUASH, 0.0).scale_of(made(SQUASH, 0.0).inspect(body)) == 1
    with Image.open(io.BytesIO(body)) as image:
        expected = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR))
    assert np.array_equal(decode(body, "jpeg", (SQUASH,)).pixels[SQUASH], expected)
    assert not np.array_equal(decode(body, "jpeg", (SQUASH,), CLOSE).pixels[SQUASH], expected)


def test_an_image_at_its_own_size_is_never_scaled() -> None:
    body = encoded(scene(301, 227), "jpeg")
    assert made(SQUASH, CLOSE).load_rgb(body, "jpeg").size == (301, 227)


def test_the_limits_of_pixels_hold_for_the_image_in_its_file() -> None:
    body = encoded(scene(301, 227), "jpeg")
    with pytest.raises(Rejected, match="too-many-pixels"):
        Decoding([SQUASH], Limits(max_pixels=301 * 227 - 1), CLOSE).inspect(body)
