"""The memory that a child shares with the worker: one region for each child.

It holds the current request, and places for encoded bytes and for the pixels decoded from them.

Each region is a memory file of its own, which ends with its child: nothing that a child writes, however late or wild,
reaches another child's images, and it finds none of them. Its size is sealed, so that no access of ours can fail.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from workers.types import DecodedImage, Pixels, Transform

PLACES = 8
"""Places of each region: one for each request that a child has before it."""
PLACE_BYTES = 512 * 1024
"""Encoded bytes that a place has room for. What is larger goes over the socket: it takes so long to decode that how it
gets there does not matter."""

_HEAD_BYTES = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """What a region looks like, the same on both sides."""

    transforms: tuple[Transform, ...]

    @property
    def place_bytes(self) -> int:
        return PLACE_BYTES + sum(prod(_shape(transform)) for transform in self.transforms)

    @property
    def region_bytes(self) -> int:
        return _HEAD_BYTES + PLACES * self.place_bytes


def make_shared_memory(layout: Layout) -> int:
    """A descriptor of anonymous memory for one region. It is in no folder, so nothing is left when all die."""
    shared = os.memfd_create("tagstream-pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(shared, layout.region_bytes)
    fcntl.fcntl(shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return shared


class Region:
    """A region of shared memory, mapped.

    Args:
        shared: the descriptor; it may be closed afterwards.
    """

    def __init__(self, shared: int, layout: Layout) -> None:
        self._layout = layout
        self._bytes = np.frombuffer(mmap.mmap(shared, layout.region_bytes), np.uint8)
        self._current_request = self._bytes[:8].view(np.uint64)
        self._withdrawn = self._bytes[8 : 8 + PLACES]

    @property
    def current_request(self) -> int:
        """The request id of the image that is being worked on; 0: none. The child alone writes it, so it is a claim."""
        return int(self._current_request[0])

    @current_request.setter
    def current_request(self, request_id: int) -> None:
        self._current_request[0] = request_id

    def withdraw(self, place: int) -> None:
        """Tell the child to skip this place's request unless it has begun."""
        self._withdrawn[place] = True

    def is_withdrawn(self, place: int) -> bool:
        return bool(self._withdrawn[place])

    def put(self, place: int, body: bytes) -> None:
        """Begin a place anew: lay down encoded bytes, at most `PLACE_BYTES`, for the child to `get`."""
        self._withdrawn[place] = False
        self._encoded(place, len(body))[:] = np.frombuffer(body, np.uint8)

    def get(self, place: int, size: int) -> bytes:
        """A copy of the first so many bytes that lie there."""
        return self._encoded(place, size).tobytes()

    def _encoded(self, place: int, size: int) -> NDArray[np.uint8]:
        at = self._start(place)
        return self._bytes[at : at + size]

    def write(self, place: int, image: DecodedImage) -> None:
        for transform, pixels in self._views(place).items():
            pixels[:] = image.pixels[transform]

    def read(self, place: int) -> DecodedImage:
        """A copy of this place's pixels; the place is free at once."""
        return DecodedImage({transform: pixels.copy() for transform, pixels in self._views(place).items()})

    def _start(self, place: int) -> int:
        return _HEAD_BYTES + place * self._layout.place_bytes

    def _views(self, place: int) -> dict[Transform, Pixels]:
        at = self._start(place) + PLACE_BYTES
        views = {}
        for transform in self._layout.transforms:
            shape = _shape(transform)
            views[transform] = self._bytes[at : at + prod(shape)].reshape(shape)
            at += prod(shape)
        return views


def _shape(transform: Transform) -> tuple[int, int, int]:
    return transform.size, transform.size, 3
