"""A folder for a worker's PYTHONPATH: its Pillow then has a PNG decoder that some images bring down."""

from pathlib import Path

from tests.support.images import encoded, png_chunk, ramp

FOLDER = Path(__file__).parent
DAWDLES_S = 1.2
"""How long an image takes that `dawdles`; sitecustomize, which can import nothing of ours, says the same."""
_END = png_chunk(b"IEND", b"")
_HEADER_BYTES = 8 + 25
"""The signature and IHDR."""


def png_that(deed: str, once: str = "", *, in_header: bool = False) -> bytes:
    """A sound PNG with a chunk that only the broken decoder takes amiss."""
    image = encoded(ramp(), "png")
    chunk = png_chunk(b"eXIf", f"does {deed} {once}".encode())
    at = _HEADER_BYTES if in_header else len(image) - len(_END)
    return image[:at] + chunk + image[at:]
