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
        formats: names of `workers.intake.formats`, recognised by content, never by a key's ending
            (`format-not-allowed`).
    """

    max_object_bytes: int = 20 * MIB
    fetch_s: float = 30.0
    max_pixels: int = 50_000_000
    min_side: int = 3
    formats: tuple[str, ...] = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif")
