"""What scores change where the tagger reads renditions of photographs in their place.

    python -m benchmarks renditions PHOTOS

PHOTOS: a folder of JPEGs. One whose longer side has less than 3,000 pixels is brought to that and encoded at quality
90, as its original. Renditions are JPEGs of the original, resized by Lanczos, at quality 85. Scores below the
tagger's floor count as 0.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from workers.intake.transform import decode
from workers.models.compact import build_tagger, compact_bundle
from workers.models.device import choose_device
from workers.models.tune import shown_labels
from workers.ports import Tagger
from workers.types import Pixels, Transform

ORIGINAL = 3_000
SIDES = (2_048, 512)
BATCH = 16


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks renditions")
    parser.add_argument("photos", type=Path, help="a folder of photographs")
    parser.add_argument("--most", type=int, default=1_000, help="photographs, evenly over the names")
    options = parser.parse_args(arguments)
    files = options.photos.rglob("*")
    paths = sorted(path for path in files if path.suffix.lower() in (".jpg", ".jpeg"))
    paths = paths[:: max(1, len(paths) // options.most)]
    tagger = build_tagger(compact_bundle(), choose_device("cpu", threads=1), "fp32")
    read = [versions(tagger.transform, path) for path in paths]
    answers = {side: answered(tagger, [each[side] for each in read]) for side in (ORIGINAL, *SIDES)}
    Console(width=120).print(table(tagger, answers))
    return 0


def versions(transform: Transform, path: Path) -> Mapping[int, Pixels]:
    """The model's pixels of a photograph's original and of its renditions, by their longer side."""
    with Image.open(path) as opened:
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    body = path.read_bytes()
    if max(photo.size) < ORIGINAL:
        body = jpeg(brought(photo, ORIGINAL, Image.Resampling.BICUBIC), 90)
        photo = Image.open(io.BytesIO(body)).convert("RGB")
    bodies = {side: jpeg(brought(photo, side, Image.Resampling.LANCZOS), 85) for side in SIDES}
    return {
        side: decode(each, "jpeg", [transform]).pixels[transform] for side, each in {ORIGINAL: body, **bodies}.items()
    }


def brought(photo: Image.Image, side: int, how: Image.Resampling) -> Image.Image:
    share = side / max(photo.size)
    return photo.resize((max(1, round(photo.width * share)), max(1, round(photo.height * share))), how)


def jpeg(photo: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    photo.save(out, "JPEG", quality=quality)
    return out.getvalue()


def answered(tagger: Tagger, images: Sequence[Pixels]) -> list[tuple[set[int], NDArray[np.float32]]]:
    """Of each image the shown labels, and the scores of all."""
    found = []
    for at in range(0, len(images), BATCH):
        for raw in tagger.forward(images[at : at + BATCH]):
            sparse, scores = tagger.postprocess(raw), np.zeros(len(tagger.labels), np.float32)
            scores[sparse.label_ids] = sparse.scores
            found.append((shown_labels(tagger, raw), scores))
    return found


def table(tagger: Tagger, answers: Mapping[int, Sequence[tuple[set[int], NDArray[np.float32]]]]) -> Table:
    title = f"{len(answers[ORIGINAL]):,} photographs, {len(tagger.labels):,} labels"
    made = Table("rendition", "tags changed", "of", "score differences: mean", "p99", title=title)
    for side in SIDES:
        changed, differences = list[int](), list[float]()
        for (one, before), (other, after) in zip(answers[ORIGINAL], answers[side], strict=True):
            changed.append(len(one ^ other))
            differences += [float(abs(before[label] - after[label])) for label in one | other]
        share, p99 = sum(changed) / len(differences), np.percentile(differences, 99)
        row = (f"{share:.1%}", f"{len(differences):,}", f"{np.mean(differences):.3f}", f"{p99:.3f}")
        made.add_row(f"{side:,} pixels", *row)
    return made
