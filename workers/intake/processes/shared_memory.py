"""The shared memory that images go out in and pixels come back in: a region for each child, and in it the current
request, places for encoded bytes and slots for pixels.

A child maps its own region and no other, so nothing that it writes, however late or wild, reaches another child's
images. A region is given to a new child only when the old one is known to be dead, and with nothing of its images.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from workers.types import DecodedImage, Pixels, Transform

SLOTS = 2
"""Slots of each region: one that is decoded into, one for the next image, so that a child never waits for us."""

PLACES = 4
"""Places of each region for encoded bytes: one for each request that a child has before it."""
PLACE_BYTES = 512 * 1024
"""What is larger goes over the socket: it takes so long to decode that how it gets there does not matter."""

_HEAD_BYTES = 64


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
        needed = _HEAD_BYTES + PLACES * PLACE_BYTES + SLOTS * self.slot_bytes
        return -(-needed // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


def make_shared_memory(layout: Layout, regions: int) -> int:
    """A descriptor of anonymous memory for so many regions. It is in no folder, so nothing is left when all die."""
    shared = os.memfd_create("tagstream-pixels")
    os.ftruncate(shared, regions * layout.region_bytes)
    return shared


class Region:
    """One region of shared memory, mapped.

    Args:
        shared: the descriptor; it may be closed afterwards.
        place: which region.
    """

    def __init__(self, shared: int, layout: Layout, place: int) -> None:
        size = layout.region_bytes
        self._layout = layout
        self._bytes = np.frombuffer(mmap.mmap(shared, size, offset=place * size), np.uint8)
        self._current_request = self._bytes[:8].view(np.uint64)

    @property
    def current_request(self) -> int:
        """The request id of the image that is being worked on; 0: none. The child alone writes it, so it is a claim."""
        return int(self._current_request[0])

    @current_request.setter
    def current_request(self, request_id: int) -> None:
        self._current_request[0] = request_id

    def clear(self) -> None:
        """Forget all that is in it."""
        self._bytes.fill(0)

    def put(self, place: int, body: bytes) -> None:
        """Lay down encoded bytes, at most `PLACE_BYTES`, for the child to `get`."""
        self._place(place, len(body))[:] = np.frombuffer(body, np.uint8)

    def get(self, place: int, size: int) -> bytes:
        """A copy of the first so many bytes that lie there."""
        return self._place(place, size).tobytes()

    def _place(self, place: int, size: int) -> NDArray[np.uint8]:
        at = _HEAD_BYTES + place * PLACE_BYTES
        return self._bytes[at : at + size]

    def write(self, slot: int, image: DecodedImage) -> None:
        for transform, pixels in self._views(slot).items():
            pixels[:] = image.pixels[transform]

    def read(self, slot: int) -> DecodedImage:
        """A copy, so that the slot is free at once and a DecodedImage is owned by its holder."""
        return DecodedImage({transform: pixels.copy() for transform, pixels in self._views(slot).items()})

    def _views(self, slot: int) -> dict[Transform, Pixels]:
        at = _HEAD_BYTES + PLACES * PLACE_BYTES + slot * self._layout.slot_bytes
        views = {}
        for transform in self._layout.transforms:
            shape = _shape(transform)
            views[transform] = self._bytes[at : at + prod(shape)].reshape(shape)
            at += prod(shape)
        return views


def _shape(transform: Transform) -> tuple[int, int, int]:
    return transform.size, transform.size, 3
