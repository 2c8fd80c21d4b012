"""Small data sets on disk: images of one colour, or with a visible tag."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tagstream_train.data.samples import DataSet, Sample, write_dataset
from tests.support.images import encoded

BROKEN = b"\x89PNG\r\n\x1a\n" + b"\0" * 40


def png(shade: int, size: tuple[int, int] = (20, 12)) -> bytes:
    return encoded(Image.new("RGB", size, (shade, 100, 200)), "png")


def write(folder: Path, bodies: Sequence[bytes], labels: Sequence[str] = ("even", "odd")) -> DataSet:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    samples = []
    for number, body in enumerate(bodies):
        name = f"images/{number:03}.png"
        (folder / name).write_bytes(body)
        samples.append(Sample(image=name, tags=(number % 2,), sha256=hashlib.sha256(body).hexdigest()))
    return write_dataset(folder, samples, labels, name="shades")


def shades(folder: Path, count: int) -> DataSet:
    return write(folder, [png(number) for number in range(count)])


LABELS = ("red", "green", "blue", "striped")
SIDE = 64


def colours(folder: Path, count: int = 48, *, labels: Sequence[str] = LABELS, seed: int = 0) -> DataSet:
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        colour, striped = number % 3, number % 2 == 0
        body = _png(colour, striped, random)
        name = f"images/{number:03}.png"
        (folder / name).write_bytes(body)
        tags = (colour, 3) if striped else (colour,)
        samples.append(Sample(image=name, tags=tags, sha256=hashlib.sha256(body).hexdigest()))
    return write_dataset(folder, samples, labels, name="colours")


def _png(colour: int, striped: bool, random: np.random.Generator) -> bytes:
    pixels = random.integers(0, 60, (SIDE, SIDE, 3))
    pixels[..., colour] += 180
    if striped:
        start = int(random.integers(8, SIDE - 24))
        pixels[start : start + 16] = 255
    return encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "png")
