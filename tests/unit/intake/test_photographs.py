"""Honest photographs, as many encoders write them: all are accepted, with the pixels that Pillow alone would give."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tagstream_testing.local.photos import NoPhotographs, photographs
from tests.support.images import encoded
from workers.intake.header import guard, read_header
from workers.intake.limits import Limits
from workers.intake.transform import decode, to_rgb
from workers.types import Transform

try:
    PHOTOGRAPHS = {photograph.key: photograph.read() for photograph in photographs(None)}
except NoPhotographs:
    PHOTOGRAPHS = {}
LIMITS = Limits()
EDGE = 48

pytestmark = pytest.mark.skipif(not PHOTOGRAPHS, reason="the wheels with photographs are not installed")


@pytest.fixture(autouse=True)
def _guarded() -> None:
    guard(LIMITS)


def variants(image: Image.Image) -> Iterator[tuple[str, Image.Image, str, dict[str, Any]]]:
    exif = Image.Exif()
    exif.update({0x0110: "a camera", 0x011A: 72.0, 0x9003: "2026:01:02 03:04:05"})
    known = {"exif": exif, "icc_profile": bytes(3_000)}
    rgb, grey = image.convert("RGB"), image.convert("L")
    for quality in (1, 75, 100):
        for progressive in (False, True):
            yield f"{quality} {progressive}", rgb, "jpeg", {"quality": quality, "progressive": progressive, **known}
    yield "arithmetic tables", rgb, "jpeg", {"optimize": True, "restart_marker_rows": 1, "comment": "x" * 60_000}
    yield "two images", rgb, "mpo", {"save_all": True, "append_images": [grey]}
    for image in (rgb, grey, rgb.quantize(64), rgb.convert("RGBA"), grey.convert("1")):
        yield f"{image.mode}", image, "png", {"optimize": True, **known}
        yield f"{image.mode}", image, "gif", {}
        for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits"):
            yield f"{image.mode} {compression}", image, "tiff", {"compression": compression, **known}
    yield "jpeg", rgb, "tiff", {"compression": "jpeg", "quality": 90}
    yield "pages", rgb, "tiff", {"save_all": True, "append_images": [grey] * 3}
    yield "animated", rgb, "gif", {"save_all": True, "append_images": [rgb.rotate(90)] * 3, "loop": 0}
    yield "animated", rgb, "png", {"save_all": True, "append_images": [rgb.rotate(90)] * 3}
    yield "rgb", rgb, "bmp", {}
    yield "palette", rgb.quantize(256), "bmp", {}
    for options in ({"lossless": True}, {"quality": 10}, {"quality": 90, "method": 0}):
        yield f"{options}", rgb, "webp", {**options, **known}
    yield "animated", rgb, "webp", {"save_all": True, "append_images": [rgb.rotate(90)] * 3}
    for subsampling in ("4:2:0", "4:4:4"):
        yield subsampling, rgb, "avif", {"subsampling": subsampling, "speed": 10, **known}


def as_accepted(body: bytes) -> np.ndarray[Any, Any]:
    header = read_header(body, LIMITS)
    transform = Transform(EDGE, interpolation="bicubic")
    return decode(body, header.format, (transform,)).pixels[transform]


def as_pillow_alone(body: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(body)) as image:
        image.load()
        return np.asarray(to_rgb(image).resize((EDGE, EDGE), Image.Resampling.BICUBIC))


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(body, id=key, marks=[pytest.mark.slow] if number else [])
        for number, (key, body) in enumerate(PHOTOGRAPHS.items())
    ],
)
def test_every_photograph_is_accepted_as_it_came_and_as_any_encoder_writes_it(body: bytes) -> None:
    as_accepted(body)
    with Image.open(io.BytesIO(body)) as photograph:
        photograph.thumbnail((120, 120))
        for what, image, name, options in variants(photograph):
            written = encoded(image, name, **options)
            assert np.array_equal(as_accepted(written), as_pillow_alone(written)), (what, name)
