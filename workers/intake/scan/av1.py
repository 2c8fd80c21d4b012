"""Reads an AV1 bitstream's frame sizes from its headers (specification, section 5).

A decoder makes room by these, whatever the file around the bitstream says. Only the first fields of a header are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from workers.intake.scan.essence import at_most

_UNITS: Final = 65_536
"""OBUs, the packets of a bitstream, in all of a file. A still has three, a grid of 1,024 tiles with alpha 6,000."""
_MOST_FRAMES: Final = 64
"""Of one bitstream: the decoder goes through all before the one that it shows. Encoders of stills write one to four."""
_LAYERS: Final = 4
"""So many in each of many bitstreams count as none, and those beyond as if they were of one."""
_SEQUENCE_BYTES: Final = 512
"""The longest sequence header, of 32 operating points, has 400 up to what is read of it."""
_FRAME_BYTES: Final = 32
_SEQUENCE: Final = 1
_FRAMES: Final = frozenset({3, 6})
"""Types of OBUs that begin a frame: its header alone, and the whole of it."""
_SWITCH, _KEY = 3, 0
_CHOSEN_BY_FRAME: Final = 2


@dataclass(frozen=True, slots=True)
class Sequence:
    """What a sequence header says of the frames after it.

    Args:
        width, height: the largest frame.
        could_be: width and height that no frame can exceed which states a size of its own; decoders hold it to
            nothing but the number of its bits.
        deep: more than eight bits a sample.
        reduced: the header of a still, whose frames state nothing.
        time_bits, id_bits, screen_content, integer_mv: what stands in a frame's header before its size.
    """

    width: int
    height: int
    could_be: tuple[int, int]
    deep: bool
    reduced: bool
    time_bits: int
    id_bits: int
    screen_content: int
    integer_mv: int


class FrameSizes:
    """The largest of all frames in the bitstreams of a file.

    Attributes:
        sides: its width and height in pixels; each is the largest of any frame. (0, 0) without a frame.
        deep: a sequence has more than eight bits a sample.
        frames: in the bitstream that has the most.
    """

    def __init__(self) -> None:
        self.sides = (0, 0)
        self.deep = False
        self.frames = 0
        self._units = 0
        self._beyond = 0

    def add(self, stream: memoryview) -> None:
        """Read one more bitstream: an item, or a sample of a track. What is cut is left to the decoder.

        Raises:
            Rejected: too-complex.
        """
        sequence: Sequence | None = None
        frames = 0
        for kind, unit in _units(stream):
            self._units += 1
            at_most(_UNITS, self._units, "pieces of AV1 bitstreams in an AVIF")
            if kind == _SEQUENCE:
                sequence = read_sequence(unit)
                self.deep = self.deep or sequence.deep
                self._enlarge(sequence.width, sequence.height)
            elif kind in _FRAMES and sequence is not None:
                frames += 1
                if has_own_size(unit, sequence):
                    self._enlarge(*sequence.could_be)
        self._beyond += max(0, frames - _LAYERS)
        self.frames = max(self.frames, frames)
        at_most(_MOST_FRAMES, max(frames, self._beyond), "frames in an AVIF before the one that is shown")

    def _enlarge(self, width: int, height: int) -> None:
        self.sides = max(self.sides[0], width), max(self.sides[1], height)


def _units(stream: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and content of every OBU."""
    at = 0
    while at < len(stream):
        head = stream[at]
        at += 2 if head & 4 else 1
        size = len(stream) - at
        if head & 2:
            size, at = _leb128(stream, at)
        yield head >> 3 & 15, stream[at : at + size]
        at += size


def _leb128(stream: memoryview, at: int) -> tuple[int, int]:
    """A number of up to eight bytes, seven bits each; its end."""
    value = 0
    for place, byte in enumerate(stream[at : at + 8]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    return 0, len(stream)


class _Bits:
    """Reads bits from the highest on. Behind the end all are 0."""

    def __init__(self, data: memoryview) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def __call__(self, count: int = 1) -> int:
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return shifted & (1 << count) - 1

    def skip_uvlc(self) -> None:
        """Skip a uvlc number: leading zeros, a one, then as many bits as zeros."""
        zeros = 0
        while zeros < 32 and not self():
            zeros += 1
        if zeros < 32:
            self(zeros)


def read_sequence(unit: memoryview) -> Sequence:
    """`sequence_header_obu` up to the depth of its samples."""
    bits = _Bits(unit[:_SEQUENCE_BYTES])
    bits(4)  # profile, and whether it is a still
    reduced = bool(bits())
    time_bits = 0
    if reduced:
        bits(5)
    else:
        time_bits = _timing_and_operating_points(bits)
    width_bits, height_bits = bits(4) + 1, bits(4) + 1
    width, height = bits(width_bits) + 1, bits(height_bits) + 1
    id_bits = 0
    if not reduced and bits():
        id_bits = bits(4) + bits(3) + 3
    bits(3)
    screen_content = integer_mv = _CHOSEN_BY_FRAME
    if not reduced:
        bits(4)
        order_hint = bits()
        bits(2 * order_hint)
        screen_content = _CHOSEN_BY_FRAME if bits() else bits()
        if screen_content:
            integer_mv = _CHOSEN_BY_FRAME if bits() else bits()
        bits(3 * order_hint)
    bits(3)
    could_be = 1 << width_bits, 1 << height_bits
    return Sequence(width, height, could_be, bool(bits()), reduced, time_bits, id_bits, screen_content, integer_mv)


def _timing_and_operating_points(bits: _Bits) -> int:
    """Bits of the presentation time that a shown frame begins with."""
    time_bits = delay_bits = 0
    if bits():
        bits(64)
        equal_interval = bits()
        if equal_interval:
            bits.skip_uvlc()
        if bits():
            delay_bits = bits(5) + 1
            bits(37)
            time_bits = bits(5) + 1
            time_bits = 0 if equal_interval else time_bits
    display_delay = bits()
    for _ in range(bits(5) + 1):
        bits(12)
        if bits(5) > 7:
            bits()
        if delay_bits and bits():
            bits(2 * delay_bits + 1)
        if display_delay and bits():
            bits(4)
    return time_bits


def has_own_size(unit: memoryview, sequence: Sequence) -> bool:
    """Whether a frame states its size (`frame_size_override_flag`) instead of having its sequence's."""
    if sequence.reduced:
        return False
    bits = _Bits(unit[:_FRAME_BYTES])
    if bits():
        return False  # it shows a frame again
    kind, shown = bits(2), bits()
    if kind == _SWITCH:
        return True
    bits(sequence.time_bits if shown else 1)
    if kind != _KEY or not shown:
        bits()
    bits()
    screen_content = bits() if sequence.screen_content == _CHOSEN_BY_FRAME else sequence.screen_content
    if screen_content and sequence.integer_mv == _CHOSEN_BY_FRAME:
        bits()
    bits(sequence.id_bits)
    return bool(bits())
