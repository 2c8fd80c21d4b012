"""What scaled decoding gains and what it changes: JPEGs of three sizes, and how far the models' answers stay the same.

    python -m benchmarks.decode [--crops 1000] [--ram-crops 16]

The whole step is measured, from a JPEG's bytes to the pixels that a model takes, as a decoder's process does it; every
profile of TAGSTREAM_DECODE_SCALING in turn, in one run. Then crops of the photographs that wheels carry are brought to
12 megapixels, decoded in full and scaled, and tagged: by the compact tagger, whose tags are compared, and by RAM with
seeded weights, whose logits are compared with what bf16 changes of them.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.models import cache_folder, full_size
from tagstream_testing.local.photos import photographs
from workers.assembly.decoders import REDUCING_GAPS
from workers.intake.geometry import scale_of
from workers.intake.transform import decode
from workers.models.load import load_tagger
from workers.models.tune import shown_labels
from workers.ports import Tagger
from workers.types import Pixels, Transform

SIZES = ((4000, 3000), (1632, 1224), (640, 480))
RAM = Transform(384)
PROFILES = tuple(REDUCING_GAPS)
LARGE = (4000, 3000)
BATCH = 8


@dataclass
class Change:
    """What a profile changes of one model's answers, pooled over all images.

    Args:
        both, either: labels shown in both cases, and in either of them.
        gap: the largest difference of two logits.
        largest: of two levels of one pixel.
        mean: difference of two levels, image by image.
        scales: of how many images which 1/n was taken.
    """

    both: int = 0
    either: int = 0
    gap: float = 0.0
    largest: int = 0
    mean: list[float] = field(default_factory=list)
    scales: dict[int, int] = field(default_factory=dict)

    @property
    def jaccard(self) -> float:
        return self.both / self.either if self.either else 1.0

    def add_pixels(self, full: Pixels, scaled: Pixels, scale: int) -> None:
        apart = np.abs(full.astype(np.int16) - scaled)
        self.largest = max(self.largest, int(apart.max()))
        self.mean.append(float(apart.mean()))
        self.scales[scale] = self.scales.get(scale, 0) + 1

    def add_answers(self, tagger: Tagger, full: np.ndarray, scaled: np.ndarray) -> None:
        one, other = shown_labels(tagger, full), shown_labels(tagger, scaled)
        self.both += len(one & other)
        self.either += len(one | other)
        self.gap = max(self.gap, float(np.abs(full - scaled).max()))


def main(crops: int = 1_000, ram_crops: int = 16, rounds: int = 9) -> dict[str, Change]:
    """Print all tables; answers what each profile changes of the compact tagger's answers."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    ctypes.CDLL(None).mallopt(-3, 4 << 20)  # M_MMAP_THRESHOLD, as a decoder's process
    speed(rounds, console)
    tagger = load_tagger("compact", device="cpu", precision="fp32")
    found = changes(tagger, large_jpegs(range(crops)))
    console.print(_table(f"compact tagger, {crops} crops at 12 megapixels", found))
    if ram_crops:
        ram = ram_changes(list(large_jpegs(range(ram_crops))), cache_folder())
        console.print(_table(f"RAM with seeded weights, {ram_crops} crops at 12 megapixels", ram))
    return found


# ---- speed ----------------------------------------------------------------------------------------------------------


def speed(rounds: int, console: Console) -> None:
    photos = [Image.open(each.path).convert("RGB") for each in photographs(None)]
    table = Table("megapixels", "kB (median)", *(f"{name}, ms" for name in PROFILES), *PROFILES[1:])
    for size in SIZES:
        bodies = [jpeg(photo.resize(size, Image.Resampling.BICUBIC)) for photo in photos]
        spent = _spent(bodies, rounds if size == LARGE else 4 * rounds)
        shown = [f"{1e3 * statistics.median(spent[name]):.2f}" for name in PROFILES]
        ratios = [_ratios(spent["off"], spent[name]) for name in PROFILES[1:]]
        kilobytes = statistics.median(len(body) for body in bodies) / 1000
        table.add_row(f"{size[0] * size[1] / 1e6:.1f}", f"{kilobytes:.0f}", *shown, *ratios)
    console.print(f"JPEG to {RAM.size} x {RAM.size}, {len(photos)} photographs; processor time of the whole step")
    console.print(table)


def _spent(bodies: Sequence[bytes], rounds: int) -> dict[str, list[float]]:
    """Seconds of the processor for an image, by profile, once a round."""
    spent: dict[str, list[float]] = {name: [] for name in PROFILES}
    for turn in range(rounds):
        for name in PROFILES[:: 1 if turn % 2 else -1]:
            began = time.process_time()
            for body in bodies:
                decode(body, "jpeg", (RAM,), REDUCING_GAPS[name])
            spent[name].append((time.process_time() - began) / len(bodies))
    return spent


def _ratios(full: Sequence[float], scaled: Sequence[float]) -> str:
    ratios = sorted(one / other for one, other in zip(full, scaled, strict=True))
    return f"{statistics.median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})"


# ---- agreement ------------------------------------------------------------------------------------------------------


def large_jpegs(numbers: Iterable[int], large: tuple[int, int] = LARGE) -> Iterator[bytes]:
    """Crops of the photographs in the wheels, each brought to this size (or that turned) and encoded as cameras do.

    A crop follows from its number, which is its seed.
    """
    photos = [Image.open(each.path).convert("RGB") for each in photographs(None)]
    for number in numbers:
        rng = np.random.default_rng(number)
        photo = photos[rng.integers(len(photos))]
        share = rng.uniform(0.35, 1.0)
        width, height = (max(64, int(share * side)) for side in photo.size)
        left, top = (int(rng.integers(0, most + 1)) for most in (photo.width - width, photo.height - height))
        size = large if rng.random() < 0.75 else large[::-1]
        crop = photo.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        yield jpeg(crop, int(rng.integers(75, 96)), ("4:2:0", "4:4:4")[rng.integers(2)])


def jpeg(image: Image.Image, quality: int = 85, subsampling: str = "4:2:0") -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=subsampling)
    return out.getvalue()


def changes(tagger: Tagger, bodies: Iterator[bytes]) -> dict[str, Change]:
    """What each profile changes of a tagger's answers, beside decoding in full."""
    found = {name: Change() for name in PROFILES[1:]}
    for body in bodies:
        pixels = _pixels(tagger.transform, body)
        answers = dict(zip(PROFILES, _answers(tagger, list(pixels.values())), strict=True))
        for name, change in found.items():
            change.add_pixels(
                pixels["off"], pixels[name], scale_of([tagger.transform], _size(body), REDUCING_GAPS[name])
            )
            change.add_answers(tagger, answers["off"], answers[name])
    return found


def ram_changes(bodies: Sequence[bytes], folder: Path) -> dict[str, Change]:
    """What each profile changes of RAM's logits, and as "bf16" what that precision does."""
    bundle = full_size("ram", folder).folder
    tagger = load_tagger(str(bundle), device="cpu", precision="fp32")
    found = changes(tagger, iter(bodies))
    full = [_pixels(tagger.transform, body)["off"] for body in bodies]
    expected = _answers(tagger, full)
    rounded = load_tagger(str(bundle), device="cpu", precision="bf16")
    found["bf16"] = Change()
    for one, other in zip(expected, _answers(rounded, full), strict=True):
        found["bf16"].add_answers(tagger, one, other)
    return found


def _pixels(transform: Transform, body: bytes) -> dict[str, Pixels]:
    return {name: decode(body, "jpeg", (transform,), gap).pixels[transform] for name, gap in REDUCING_GAPS.items()}


def _answers(tagger: Tagger, images: Sequence[Pixels]) -> list[np.ndarray]:
    batches = [images[at : at + BATCH] for at in range(0, len(images), BATCH)]
    return [np.asarray(raw) for batch in batches for raw in tagger.forward(batch)]


def _size(body: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(body)) as image:
        return image.size


def _table(title: str, found: dict[str, Change]) -> Table:
    table = Table("", "decoded at", "tags: Jaccard", "logits within", "pixels: mean", "largest", title=title)
    for name, change in found.items():
        scales = ", ".join(f"1/{scale}" for scale in sorted(change.scales))
        mean = f"{statistics.mean(change.mean):.3f}" if change.mean else ""
        table.add_row(
            name, scales, f"{change.jaccard:.4f}", f"{change.gap:.3g}", mean, str(change.largest) if mean else ""
        )
    return table


if __name__ == "__main__":
    asks = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=(__doc__ or "").split("\n\n")[0])
    asks.add_argument("--crops", type=int, default=1_000)
    asks.add_argument("--ram-crops", type=int, default=16, help="0: without RAM, which takes 4 GB and some minutes")
    asks.add_argument("--rounds", type=int, default=9)
    options = asks.parse_args()
    main(options.crops, options.ram_crops, options.rounds)
