"""How surely perceptual hashes find copies: ten changes of each photograph of a folder, false pairs, and the cost.

    python -m benchmarks facts PHOTOS

A copy is found if at most 6 bits differ. A fifth of the photographs are brought to 12 megapixels, for the bits that
TAGSTREAM_DECODE_SCALING changes, and the time that facts add to a decoder's step.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from rich.console import Console
from rich.table import Table

from benchmarks.decode import LARGE, RAM, jpeg
from workers.assembly.decoders import REDUCING_GAPS
from workers.intake.geometry import Raster
from workers.intake.hashes import hashes_of
from workers.intake.transform import decode
from workers.types import FactsMode

NEAR = 6
FLAT = "-1"
MODES: tuple[FactsMode, ...] = ("off", "on")


def saved(image: Image.Image, form: str = "JPEG", quality: int = 90) -> Image.Image:
    file = io.BytesIO()
    image.save(file, form, quality=quality)
    return Image.open(file).convert("RGB")


def with_text(image: Image.Image) -> Image.Image:
    image, size = image.copy(), max(10, image.height // 30)
    ImageDraw.Draw(image).text((size, image.height - 2 * size), "Copyright 2026", "white", font_size=size)
    return image


VERSIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda image: image,
    "JPEG, quality 50": lambda image: saved(image, quality=50),
    "JPEG, quality 20": lambda image: saved(image, quality=20),
    "half size": lambda image: saved(image.reduce(2)),
    "a quarter": lambda image: saved(image.reduce(4)),
    "WebP": lambda image: saved(image, "WEBP", quality=80),
    "brighter by a fifth": lambda image: saved(ImageEnhance.Brightness(image).enhance(1.2)),
    "a fifth more contrast": lambda image: saved(ImageEnhance.Contrast(image).enhance(1.2)),
    "grey": lambda image: saved(image.convert("L")),
    "a line of text": lambda image: saved(with_text(image)),
    "2 % cropped": lambda image: saved(ImageOps.crop(image, max(1, min(image.size) // 100))),
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks facts")
    parser.add_argument("photos", type=Path, help="a folder of photographs")
    files = parser.parse_args(arguments).photos.rglob("*")
    ctypes.CDLL(None).mallopt(-3, 4 << 20)  # M_MMAP_THRESHOLD, as a decoder's process
    ctypes.CDLL(None).mallopt(-1, 8 << 20)  # M_TRIM_THRESHOLD
    paths = sorted(path for path in files if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    hashes = np.array([[hashed(make(opened(path))) for make in VERSIONS.values()] for path in paths])
    Console(width=120).print(copies(hashes))
    Console(width=120).print(large(map(opened, paths[::5])))
    return 0


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def hashed(image: Image.Image) -> int:
    return int(hashes_of(Raster(image, image.size))[0] or FLAT, 16)


def near(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray((np.bitwise_count((one ^ other).view(np.uint64)) <= NEAR) & (one >= 0))


def copies(hashes: np.ndarray) -> Table:
    """Shares found, and false pairs; `hashes`: (photographs, versions)."""
    table = Table("", "found", "false pairs", "of", title=f"{len(hashes):,} photographs")
    for name, share in zip(VERSIONS, near(hashes, hashes[:, :1]).mean(0), strict=True):
        table.add_row(name, f"{share:.4f}")
    for count in (1, 8, len(VERSIONS)):
        false = sum(int(near(each[:count, None, None], hashes[at:, :count]).sum()) for at, each in enumerate(hashes, 1))
        pairs = len(hashes) * (len(hashes) - 1) // 2 * count**2
        table.add_row(f"the first {count}", "", f"{false:,}", f"{pairs:,}")
    return table


def large(photos: Iterable[Image.Image]) -> Table:
    """Bits that each profile of scaled decoding changes, and the processor time that facts add to it."""
    table = Table("", "bits changed: photographs", "ms", "with facts", "added", title="a decoder's step, 12 megapixels")
    found: dict[str, list[int]] = {name: [] for name in REDUCING_GAPS}
    spent: dict[tuple[str, FactsMode], list[float]] = {(name, mode): [] for name in REDUCING_GAPS for mode in MODES}
    for turn, photo in enumerate(photos):
        body = jpeg(photo.resize(LARGE if photo.width > photo.height else LARGE[::-1], Image.Resampling.BICUBIC))
        for name, mode in list(spent)[:: 1 if turn % 2 else -1]:
            began = time.process_time()
            facts = decode(body, "jpeg", (RAM,), REDUCING_GAPS[name], mode).facts
            spent[name, mode].append(1e3 * (time.process_time() - began))
            if facts:
                found[name].append(int(facts.phash or FLAT, 16))
    for name, hashes in found.items():
        counts = Counter((one ^ full).bit_count() for one, full in zip(hashes, found["off"], strict=True))
        added = [on - off for off, on in zip(*(spent[name, mode] for mode in MODES), strict=True)]
        times = (f"{statistics.median(each):.2f}" for each in (spent[name, "off"], spent[name, "on"], added))
        table.add_row(name, ", ".join(f"{bit}: {count}" for bit, count in sorted(counts.items())), *times)
    return table
