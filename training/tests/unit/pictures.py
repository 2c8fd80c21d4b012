"""Small data sets on disk, each image of one colour that tells which it is."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tagstream_train.data.samples import DataSet, Sample, write_dataset

BROKEN = b"\x89PNG\r\n\x1a\n" + b"\0" * 40


def png(shade: int, size: tuple[int, int] = (20, 12)) -> bytes:
    """An image whose red channel is `shade` everywhere."""
    out = io.BytesIO()
    Image.new("RGB", size, (shade, 100, 200)).save(out, "PNG")
    return out.getvalue()


def write(folder: Path, bodies: Sequence[bytes], labels: Sequence[str] = ("even", "odd")) -> DataSet:
    """A data set of these images, which are tagged `even` and `odd` in turns."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    samples = []
    for number, body in enumerate(bodies):
        name = f"images/{number:03}.png"
        (folder / name).write_bytes(body)
        samples.append(Sample(image=name, tags=(number % 2,), sha256=hashlib.sha256(body).hexdigest()))
    return write_dataset(folder, samples, labels, name="shades")


def shades(folder: Path, count: int) -> DataSet:
    """Images number 0 to `count` - 1, of that shade."""
    return write(folder, [png(number) for number in range(count)])
