"""The memory that a child shares with the worker: one region for each child.

It holds the current request, and places for encoded bytes and for the pixels decoded from them.

Each region is a memory file of its own and ends with its child, so a child can neither read nor change another child's
images. Its size is sealed, so that no access of the worker can fail.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from workers.types import DecodedImage, PictureFacts, Pixels, Transform

PLACES = 8
"""Places of each region: one for each request that a child has before it."""
PLACE_BYTES = 512 * 1024
"""Encoded bytes that fit into a place. Larger images go over the socket: their decoding takes far longer than that."""

_HEAD_BYTES = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """The form of a region, the same on both sides."""

    transforms: tuple[Transform, ...]

    @property
    def place_bytes(self) -> int:
        return PLACE_BYTES + sum(prod(_shape(transform)) for transform in self.transforms)

    @property
    def region_bytes(self) -> int:
        return _HEAD_BYTES + PLACES * self.place_bytes

    def bits(self, transforms: Sequence[Transform] | None) -> int:
        """These transforms, a bit for each; None: all."""
        wanted = self.transforms if transforms is None else transforms
        return sum(1 << number for number, each in enumerate(self.transforms) if each in wanted)

    def of_bits(self, bits: int) -> tuple[Transform, ...]:
        """The transforms of these bits."""
        return tuple(each for number, each in enumerate(self.transforms) if bits >> number & 1)


def make_shared_memory(layout: Layout) -> int:
    """A descriptor of anonymous memory for one region, in no folder."""
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
        """Id of the running request, as the child claims; 0: no request runs."""
        return int(self._current_request[0])

    @current_request.setter
    def current_request(self, request_id: int) -> None:
        self._current_request[0] = request_id

    def withdraw(self, place: int) -> None:
        """Have the child skip this place's request unless it has begun."""
        self._withdrawn[place] = True

    def is_withdrawn(self, place: int) -> bool:
        return bool(self._withdrawn[place])

    def put(self, place: int, body: bytes) -> None:
        """Put a new request's encoded bytes, at most `PLACE_BYTES`, into a place."""
        self._withdrawn[place] = False
        self._encoded(place, len(body))[:] = np.frombuffer(body, np.uint8)

    def get(self, place: int, size: int) -> bytes:
        """A copy of the first `size` encoded bytes of a place."""
        return self._encoded(place, size).tobytes()

    def _encoded(self, place: int, size: int) -> NDArray[np.uint8]:
        at = self._start(place)
        return self._bytes[at : at + size]

    def write(self, place: int, image: DecodedImage) -> None:
        views = self._views(place)
        for transform, pixels in image.pixels.items():
            views[transform][:] = pixels

    def read(self, place: int, transforms: int, facts: PictureFacts | None = None) -> DecodedImage:
        """A copy of this place's pixels, with the image's facts; the place is free at once.

        Args:
            transforms: those of the request, as `Layout.bits`.
        """
        views = self._views(place)
        return DecodedImage({each: views[each].copy() for each in self._layout.of_bits(transforms)}, facts)

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
