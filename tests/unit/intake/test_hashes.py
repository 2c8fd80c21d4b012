"""The perceptual hash as schemas/README.md defines it, and a ThumbHash that another program can decode."""

import base64
import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.support.images import encoded, noise, ramp
from workers.intake.geometry import Raster
from workers.intake.hashes import hashes_of
from workers.types import Pixels

LYING: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""An upright image's pixels as they are stored under each EXIF orientation."""


def drawn(width: int, height: int) -> Image.Image:
    """Some rectangles, and noise that shows which pixels are taken."""
    rng = np.random.default_rng(0)
    pixels = np.asarray(noise(width, height)).astype(int) // 4
    for _ in range(12):
        left, top = rng.integers(0, width), rng.integers(0, height)
        pixels[top : top + height // 3, left : left + width // 3] += rng.integers(0, 190, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def by_the_words(upright: Image.Image) -> str | None:
    """The definition of schemas/README.md, step by step, with Python's whole numbers."""
    pixels, width, height = np.asarray(upright), upright.width, upright.height
    columns = [(2 * i + 1) * width // 1024 for i in range(512)]
    rows = [(2 * i + 1) * height // 1024 for i in range(512)]
    sums = pixels[rows][:, columns].astype(int).reshape(32, 16, 32, 16, 3).sum((1, 3))
    grey = [[sum(map(int.__mul__, (299, 587, 114), ((int(s) + 128) // 256 for s in cell))) for cell in r] for r in sums]
    mean = sum(map(sum, grey)) / 1024
    if sum((g - mean) ** 2 for row in grey for g in row) / 1024 < 2000**2:
        return None
    cosines = [[round(1024 * math.cos(math.pi * u * (2 * x + 1) / 64)) for x in range(32)] for u in range(8)]
    along = [[sum(g * c for g, c in zip(row, cos, strict=True)) for cos in cosines] for row in grey]
    terms = [sum(along[y][u] * cos[y] for y in range(32)) for cos in cosines for u in range(8)]
    median = sorted(terms[1:])[31]
    return f"{int('0' + ''.join(str(int(term > median)) for term in terms[1:]), 2):016x}"


@pytest.mark.parametrize("size", [(1024, 96), (500, 333), (61, 37), (90, 2048)])
def test_the_hash_is_as_defined_in_every_orientation(size: tuple[int, int]) -> None:
    upright = drawn(*size)
    expected, thumbhash = by_the_words(upright), hashes_of(Raster(upright, size))[1]
    assert expected is not None
    for orientation, lie in LYING.items():
        lying = Image.fromarray(np.ascontiguousarray(lie(np.asarray(upright))))
        raster = Raster(lying, lying.size, orientation)
        assert raster.turned().image.tobytes() == upright.tobytes()
        assert hashes_of(raster) == (expected, thumbhash)


def test_the_definition_stays_as_it_was_published() -> None:
    assert hashes_of(Raster(drawn(640, 480), (640, 480))) == ("255356244d6b566b", "VvcRHYqwZni1lmeXhmeHdmAEpgO5")


def test_a_flat_image_has_no_perceptual_hash() -> None:
    for grey, expected in (((100, 103), True), ((100, 105), False)):
        image = Image.fromarray(np.repeat(np.array([grey], np.uint8), 64, 1).repeat(99, 0)).convert("RGB")
        phash, thumbhash = hashes_of(Raster(image, image.size))
        assert (phash is None) is expected
        assert phash == by_the_words(image)
        assert decoded(thumbhash)[0] == 7 / 5


@pytest.mark.parametrize("orientation", LYING)
def test_what_lies_beyond_the_edge_of_a_scaled_image_does_not_count(orientation: int) -> None:
    small = drawn(76, 57)
    size = (75 * 8 + 4, 56 * 8 + 1)
    whole = small.resize((76 * 8, 57 * 8), Image.Resampling.NEAREST).crop((0, 0, *size))
    expected = hashes_of(Raster(whole, size, orientation))
    scaled = Raster(small, size, orientation, 8)
    assert hashes_of(scaled) == hashes_of(scaled.turned()) == expected


def test_a_jpeg_decoded_at_a_part_of_its_size_has_nearly_the_same_hash() -> None:
    size = (603, 451)
    body = encoded(drawn(40, 30).resize(size, Image.Resampling.BICUBIC), "jpeg", quality=90)
    full, _ = hashes_of(Raster(Image.open(io.BytesIO(body)), size))
    for scale in (2, 4, 8):
        image = Image.open(io.BytesIO(body))
        image.draft(None, (size[0] // scale, size[1] // scale))
        scaled, _ = hashes_of(Raster(image, size, 1, scale))
        assert full is not None
        assert scaled is not None
        assert (int(full, 16) ^ int(scaled, 16)).bit_count() <= 2


# ThumbHash


class Bits:
    """Numbers from a string of bits, the lowest first."""

    def __init__(self, data: bytes) -> None:
        self.left = int.from_bytes(data, "little")

    def take(self, length: int) -> int:
        self.left, value = divmod(self.left, 1 << length)
        return value


def decoded(thumbhash: str, side: int = 32) -> tuple[float, np.ndarray]:
    """The aspect ratio and side × side pixels of 0 to 1, without the reference decoder's stronger colours."""
    data = base64.b64decode(thumbhash, validate=True)
    assert len(data) <= 30
    bits = Bits(data)
    means = bits.take(6) / 63, bits.take(6) / 31.5 - 1, bits.take(6) / 31.5 - 1
    light_scale, alpha, short = bits.take(5) / 31, bits.take(1), bits.take(3)
    scales = light_scale, bits.take(6) / 63, bits.take(6) / 63
    across, down = (7, short) if bits.take(1) else (short, 7)
    assert not alpha
    planes = []
    x = (np.arange(side) + 0.5) * np.pi / side
    for mean, scale, nx, ny in zip(means, scales, (max(3, across), 3, 3), (max(3, down), 3, 3), strict=True):
        plane = np.full((side, side), mean)
        for v, u in ((v, u) for v in range(ny) for u in range(nx) if 0 < u * ny + v * nx < nx * ny):
            plane += 2 * (bits.take(4) / 7.5 - 1) * scale * np.outer(np.cos(v * x), np.cos(u * x))
        planes.append(plane)
    assert bits.left == 0
    light, yellow, red_green = planes
    blue = light - 2 / 3 * yellow
    red = (3 * light - blue + red_green) / 2
    return across / down, np.clip(np.stack([red, red - red_green, blue], -1), 0, 1)


SHAPES = {(400, 300): 7 / 5, (300, 400): 5 / 7, (256, 256): 1, (90, 10): 7, (30, 900): 1 / 7, (1, 1): 1}


@pytest.mark.parametrize(("size", "ratio"), SHAPES.items())
def test_a_thumbhash_decodes_to_ratio_colour_and_rough_picture(size: tuple[int, int], ratio: float) -> None:
    upright = ramp(*size)
    found, picture = decoded(hashes_of(Raster(upright, size))[1])
    expected = np.asarray(upright.resize((32, 32), Image.Resampling.BOX)) / 255
    assert found == ratio
    assert np.abs(picture.mean((0, 1)) - expected.mean((0, 1))).max() < 0.03
    assert np.sqrt(np.mean((picture - expected) ** 2)) < 0.06
