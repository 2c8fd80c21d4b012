"""Region proposals: the image parts to check for a tag.

A grid of crops works without a detector. A detector plugs in by an entry point of the group `tagstream.regions`: its
name is what `--regions` names, its value is a callable without arguments that makes a `Regions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import NamedTuple, Protocol

from PIL import Image

from workers.errors import Misconfigured

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
