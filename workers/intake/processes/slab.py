"""The shared memory that pixels come back in: a region for each child, and in it a mark and some slots.

A child maps its own region and no other, so nothing that it writes, however late or wild, reaches another child's
images. A region is given to a new child only when the old one is known to be dead.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from math import prod

import numpy as np

from workers.types import DecodedImage, Pixels, Transform

SLOTS = 2
"""Of each region: one that is decoded into, one for the next image, so that a child never waits for us."""

_MARK_BYTES = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """What a region looks like, the same on both sides."""

    transforms: tuple[Transform, ...]

    @property
    def slot_bytes(self) -> int:
        return sum(prod(_shape(transform)) for transform in self.transforms)

    @property
    def region_bytes(self) -> int:
        """A whole number of pages, because a region is mapped by itself."""
        needed = _MARK_BYTES + SLOTS * self.slot_bytes
        return -(-needed // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


def make_slab(layout: Layout, regions: int) -> int:
    """A descriptor of anonymous memory for so many regions. It is in no folder, so nothing is left when all die."""
    slab = os.memfd_create("tagstream-slab")
    os.ftruncate(slab, regions * layout.region_bytes)
    return slab


class Region:
    """One region of a slab, mapped.

    Args:
        slab: the descriptor; it may be closed afterwards.
        place: which region.
    """

    def __init__(self, slab: int, layout: Layout, place: int) -> None:
        size = layout.region_bytes
        self._layout = layout
        self._bytes = np.frombuffer(mmap.mmap(slab, size, offset=place * size), np.uint8)
        self._mark = self._bytes[:8].view(np.uint64)

    @property
    def mark(self) -> int:
        """The ticket of the image that is being worked on; 0: none. The child alone writes it, so it is a claim."""
        return int(self._mark[0])

    @mark.setter
    def mark(self, ticket: int) -> None:
        self._mark[0] = ticket

    def write(self, slot: int, image: DecodedImage) -> None:
        for transform, pixels in self._views(slot).items():
            pixels[:] = image.pixels[transform]

    def read(self, slot: int) -> DecodedImage:
        """A copy, so that the slot is free at once and a DecodedImage is owned by whoever holds it."""
        return DecodedImage({transform: pixels.copy() for transform, pixels in self._views(slot).items()})

    def _views(self, slot: int) -> dict[Transform, Pixels]:
        at = _MARK_BYTES + slot * self._layout.slot_bytes
        views = {}
        for transform in self._layout.transforms:
            shape = _shape(transform)
            views[transform] = self._bytes[at : at + prod(shape)].reshape(shape)
            at += prod(shape)
        return views


def _shape(transform: Transform) -> tuple[int, int, int]:
    return transform.size, transform.size, 3
