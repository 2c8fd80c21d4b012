"""Region proposals: image parts, and the models that look at them.

A grid of crops works without a detector. A detector plugs in by an entry point of the group `tagstream.regions`: its
name is what `--regions` names, its value is a callable without arguments that makes a `Regions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.errors import Misconfigured
from workers.intake.transform import apply
from workers.ports import Tagger

Row = NDArray[np.float32]

GROUP = "tagstream.regions"
MAX_REGIONS = 64
"""The most regions of one image; what a detector proposes beyond them is not looked at."""


class Box(NamedTuple):
    """Pixels of the whole image; right and bottom lie outside."""

    left: int
    top: int
    right: int
    bottom: int


class Regions(Protocol):
    """Proposes image parts that may show these labels."""

    def propose(self, image: Image.Image, labels: Sequence[str]) -> Sequence[Box]:
        """Boxes inside the image, the likeliest first.

        Args:
            image: RGB.
            labels: names of the tags to be checked.
        """
        ...


@dataclass(frozen=True, slots=True)
class Grid:
    """The whole image, and overlapping crops of a part of its sides.

    Args:
        parts: for each level the side of its crops, as a share of the image's. They overlap by half.
    """

    parts: tuple[float, ...] = (1.0, 0.5)

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
        Misconfigured: nothing of this name is installed.
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

    def look(self, parts: Sequence[Image.Image]) -> tuple[Row, Row]:
        scores = np.zeros((len(parts), len(self.labels)), np.float32)
        features = np.zeros((len(parts), self.dimensions), np.float32)
        done = 0
        for some in _pieces(parts, min(_BATCH, self._tagger.max_batch or _BATCH)):
            pixels = [apply(self._tagger.transform, part) for part in some]
            for row, raw in enumerate(self._tagger.forward(pixels), done):
                found = self._tagger.postprocess(raw)
                scores[row, found.label_ids] = found.scores
            if self._embed is not None:
                features[done : done + len(some)] = self._embed(pixels)
            done += len(some)
        return scores, features if self._embed is not None else _logits(scores)


def _logits(scores: Row) -> Row:
    """Scores as logits, in the range that half precision holds."""
    inside = np.clip(scores, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(inside / (1 - inside)), np.float32)


def _pieces(parts: Sequence[Image.Image], size: int) -> Sequence[Sequence[Image.Image]]:
    return [parts[start : start + size] for start in range(0, len(parts), size)]
