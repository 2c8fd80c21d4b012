"""Results and errors of every format's reader."""

from __future__ import annotations

from dataclasses import dataclass

from workers.errors import Rejected


@dataclass(frozen=True, slots=True)
class Essence:
    """The part of a file that decides its pixels.

    Args:
        body: a file of the same format with the same first image.
        size: width and height of that image in pixels, as the decoder will return them; None: unread, since the format
            has a flat bound.
        held_bytes: most memory of the running decoder besides the stored image and `body`: coefficients, canvases,
            rows.
        pixel_bytes: addition to `held_bytes` for each pixel of the image.
        orientation: as EXIF counts, 1 to 8; 0: the decoder finds it in the metadata.
        exif: for `read_exif`; empty: the decoder finds it in the metadata.
        scalable: the decoder can give the image at a half, a quarter or an eighth of its size.
    """

    body: bytes
    size: tuple[int, int] | None
    held_bytes: int
    pixel_bytes: int = 0
    scalable: bool = False
    orientation: int = 0
    exif: bytes = b""


def at_most(most: int, found: int, things: str) -> None:
    """Refuse a file that has more of something than any honest one. Raises Rejected: too-complex."""
    if found > most:
        raise Rejected("decode", "too-complex", f"{found} {things}, at most {most} are read")


class Cut:
    """Collects ranges of a file; adjacent ones become one."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._ranges: list[tuple[int, int]] = []

    def keep(self, start: int, end: int) -> None:
        if self._ranges and self._ranges[-1][1] == start:
            start = self._ranges.pop()[0]
        self._ranges.append((start, end))

    @property
    def copied_bytes(self) -> int:
        """Bytes that `joined` copies; 0: it is the whole file."""
        size = sum(end - start for start, end in self._ranges)
        return 0 if size == len(self._body) else size

    def joined(self) -> bytes:
        """The ranges in the order of `keep`. A whole file is not copied."""
        if not self.copied_bytes:
            return self._body
        view = memoryview(self._body)
        return b"".join(view[start:end] for start, end in self._ranges)
