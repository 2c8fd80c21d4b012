"""Region proposals, the models that look at them, and outliers among them.

A grid of crops works without a detector. A detector plugs in by an entry point of the group `tagstream.regions`.
`--regions` takes the entry point's name. Its value is a callable without arguments that makes a `Regions`.

Outliers go by k-means++ distance (Arthur and Vassilvitskii 2007); RAM (section 3.3) drops the farthest tenth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tagstream_train.evaluate import pieces
from workers.errors import Misconfigured
from workers.intake.transform import apply
from workers.ports import Tagger

Floats = NDArray[np.float32]

GROUP = "tagstream.regions"
MAX_REGIONS = 64
"""The most regions of one image; further proposals of a detector are ignored."""


class Box(NamedTuple):
    """Pixels of the whole image; right and bottom lie outside."""

    left: int
    top: int
    right: int
    bottom: int


class Regions(Protocol):
    """Proposes image parts that may show these labels."""

    def propose(self, image: Image.Image, labels: Sequence[str]) -> Sequence[Box]:
        """Boxes inside the image, the likeliest first."""
        ...


@dataclass(frozen=True, slots=True)
class Grid:
    """Overlapping crops of a part of the image's sides, without the whole.

    The model that generated a tag has seen the whole image, where it would confirm its own mistakes.

    Args:
        parts: for each level the side of its crops, as a share of the image's. They overlap by half.
    """

    parts: tuple[float, ...] = (0.5,)

    def propose(self, image: Image.Image, labels: Sequence[str]) -> Sequence[Box]:
        return [box for part in self.parts for box in _level(image.width, image.height, part)]


def _level(width: int, height: int, part: float) -> list[Box]:
    across, down = max(1, round(width * part)), max(1, round(height * part))
    return [
        Box(left, top, left + across, top + down) for top in _starts(height, down) for left in _starts(width, across)
    ]


def _starts(whole: int, part: int) -> list[int]:
    """Starts of half-overlapping pieces that reach the end."""
    steps = -(-2 * (whole - part) // part)
    return sorted({round(i * (whole - part) / steps) for i in range(steps + 1)}) if steps else [0]


def regions_of(name: str) -> Regions:
    """`grid`, or a detector that another package brings.

    Raises:
        Misconfigured: no such detector is installed.
    """
    if name == "grid":
        return Grid()
    known = {each.name: each for each in entry_points(group=GROUP)}
    if name not in known:
        raise Misconfigured(
            f"--regions {name}: no such detector is installed; there is {', '.join(['grid', *sorted(known)])}. "
            f"A package brings one by an entry point of the group {GROUP}."
        )
    made: Regions = known[name].load()()
    return made


def crops(image: Image.Image, boxes: Sequence[Box]) -> list[tuple[Box, Image.Image]]:
    """Cut proposed boxes from the image, at most `MAX_REGIONS`."""
    found = []
    for box in boxes[:MAX_REGIONS]:
        inside = Box(max(0, box.left), max(0, box.top), min(image.width, box.right), min(image.height, box.bottom))
        if inside.left < inside.right and inside.top < inside.bottom:
            found.append((inside, image.crop(inside)))
    return found


_BATCH = 32


class TaggerLooker:
    """Any tagger as a `Looker`; features are embeddings, else logits.

    The tagger is warm; it runs in the caller's thread.
    """

    def __init__(self, tagger: Tagger) -> None:
        self.name = tagger.name
        self.digest = tagger.digest
        self.labels: Sequence[str] = tagger.labels
        self.thresholds: Sequence[float] = tagger.thresholds
        self.dimensions: int = getattr(tagger, "embedding_dimensions", len(tagger.labels))
        self._tagger = tagger
        self._embed: Any = getattr(tagger, "embed", None)

    def look(self, parts: Sequence[Image.Image]) -> tuple[Floats, Floats]:
        scores = np.zeros((len(parts), len(self.labels)), np.float32)
        features = np.zeros((len(parts), self.dimensions), np.float32)
        done = 0
        for some in pieces(parts, min(_BATCH, self._tagger.max_batch or _BATCH)):
            pixels = [apply(self._tagger.transform, part) for part in some]
            for row, raw in enumerate(self._tagger.forward(pixels), done):
                found = self._tagger.postprocess(raw)
                scores[row, found.label_ids] = found.scores
            if self._embed is not None:
                features[done : done + len(some)] = self._embed(pixels)
            done += len(some)
        return scores, features if self._embed is not None else _logits(scores)


def _logits(scores: Floats) -> Floats:
    """Scores as logits, in the range that half precision holds."""
    inside = np.clip(scores, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(inside / (1 - inside)), np.float32)


ROUNDS = 20
"""The most rounds of k-means; it mostly settles in a few."""


def farthest(features: Floats, share: float, *, clusters: int = 8, least: int = 20, seed: int = 0) -> NDArray[np.bool_]:
    """Marks the rows that are farthest from the centre of their cluster.

    Args:
        features: (n, d), one row a region; compared by their direction alone.
        share: of the rows to mark, rounded down.
        clusters: at most, and at most one for ten rows.
        least: of fewer rows no row is marked.
    """
    marked = np.zeros(len(features), np.bool_)
    if len(features) < least:
        return marked
    rows = _directions(features)
    centres = kmeans(rows, max(1, min(clusters, len(rows) // 10)), np.random.default_rng(seed))
    distance = _squares(rows, centres).min(axis=1)
    count = math.floor(share * len(rows))
    marked[np.argsort(-distance, kind="stable")[:count]] = True
    return marked


def kmeans(rows: Floats, clusters: int, random: np.random.Generator) -> Floats:
    """(clusters, d) centres of (n, d) rows: k-means++ seeding, then Lloyd's rounds."""
    centres = _seeds(rows, clusters, random)
    for _ in range(ROUNDS):
        nearest = _squares(rows, centres).argmin(axis=1)
        moved = centres.copy()
        for cluster in range(clusters):
            members = rows[nearest == cluster]
            if len(members):
                moved[cluster] = members.mean(axis=0)
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    return centres


def _seeds(rows: Floats, clusters: int, random: np.random.Generator) -> Floats:
    """Draw centres, each by its squared distance from the chosen ones."""
    chosen = [int(random.integers(len(rows)))]
    distance = _squares(rows, rows[chosen]).min(axis=1)
    while len(chosen) < clusters and (total := float(distance.sum())) > 0:  # else every row is a centre
        chosen.append(int(random.choice(len(rows), p=distance / total)))
        distance = np.minimum(distance, _squares(rows, rows[chosen[-1:]])[:, 0])
    return rows[chosen].copy()


def _squares(rows: Floats, centres: Floats) -> NDArray[np.float64]:
    """(n, k) squared distances."""
    products = rows.astype(np.float64) @ centres.T.astype(np.float64)
    lengths = (rows.astype(np.float64) ** 2).sum(axis=1)[:, None] + (centres.astype(np.float64) ** 2).sum(axis=1)
    squares: NDArray[np.float64] = np.maximum(lengths - 2 * products, 0)
    return squares


def _directions(features: Floats) -> Floats:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), np.float32)
