"""What an object and its picture may be. Each limit has a dead letter's reason of its own."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds, each checked as early as it can be known.

    Args:
        max_object_bytes: an object's size, by its event, its Content-Length and while it streams (`object-too-large`).
        fetch_s: wall clock of one GET, its retries included.
        max_pixels: width × height by the header, before anything is decoded (`too-many-pixels`).
        min_side: the shorter side in pixels (`too-small`).
        inspect_bytes: what reading a header holds in memory at most, besides the encoded bytes.
        inspect_s: wall clock of reading a header, in a child process.
        formats: names of `workers.intake.formats`, recognised by content, never by a key's ending
            (`format-not-allowed`).
    """

    max_object_bytes: int = 20 * MIB
    fetch_s: float = 25.0
    max_pixels: int = 50_000_000
    min_side: int = 3
    inspect_bytes: int = 32 * MIB
    inspect_s: float = 10.0
    formats: tuple[str, ...] = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif")

    @property
    def inspect_address_bytes(self) -> int:
        """By how much a process that reads a header may grow.

        WebP's decoder asks for two canvases of four bytes a pixel when it is opened, and does not touch them before it
        decodes: they take addresses, and no memory.
        """
        return self.inspect_bytes + 8 * self.max_pixels
