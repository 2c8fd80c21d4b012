"""The steps of an intake that look into an object's bytes: its header, then its pixels. In any thread or process.

Nothing here knows an object store, a setting or a network: bytes come in, numbers and pixels go out. Before an image is
blamed, its decoder must read a small image of its format that is known to be good.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from PIL import Image

from workers.errors import Broken, Rejected
from workers.intake.geometry import scale_of, scaled
from workers.intake.hashes import HASH_BYTES
from workers.intake.header import Header, check_decode_bytes, guard, header_at_a_glance, read_header, sniff
from workers.intake.limits import FLAT, Limits
from workers.intake.transform import decode, load_rgb, transform_bytes
from workers.types import DecodedImage, Facts, Fetched, Transform

_TRANSFORM = Transform(size=8)


def _encoded(name: str) -> bytes:
    ramp = Image.linear_gradient("L").resize((4, 4)).convert("RGB")
    encoded = io.BytesIO()
    ramp.save(encoded, name.upper())
    return encoded.getvalue()


_BLAMED_BY_DECODERS = frozenset({"broken-image", "decode-failed", "decode-memory"})
"""Verdicts that a decoder came to, not a limit: they need a self-test."""

_SIZES = 256
"""Cached sizes with the memory of their transforms: a camera has a few."""


class Decoding:
    """Inspects and decodes. Thread-safe; holds no bytes of its own.

    Args:
        transforms: every distinct Transform of the models in use; `decode` can do some of them.
    """

    def __init__(self, transforms: Sequence[Transform], limits: Limits, reducing_gap: float = 0.0) -> None:
        guard(limits)
        self._reducing_gap = reducing_gap
        self._transforms = tuple(dict.fromkeys(transforms))
        self._hashing = 0 if limits.facts == "off" else HASH_BYTES
        self._after = lru_cache(_SIZES)(self._bytes_after)
        self._limits = limits
        Image.init()
        self._good = {name: _encoded(name) for name in limits.formats if name.upper() in Image.SAVE}
        """The self-test images."""

    def glance(self, body: bytes) -> Header | None:
        """The header of an ordinary image, read by Python alone; None: call `inspect`."""
        return header_at_a_glance(body, self._limits)

    def inspect(self, body: bytes) -> Header:
        """Read and check an image's header.

        Raises:
            Rejected: stage "decode"; the header is broken, or the image is over a limit.
            Broken: the header of an image known to be good can't be read either.
        """
        try:
            return read_header(body, self._limits)
        except Rejected as error:
            if error.reason in _BLAMED_BY_DECODERS:
                self.check(sniff(body))
            raise

    def scale_of(self, image: Facts | Header, transforms: Sequence[Transform] | None = None) -> int:
        """n, if `decode` makes the image 1/n of its size."""
        size = image.width, image.height
        return scale_of(self._chosen(transforms), size, self._reducing_gap) if image.pixel_bytes else 1

    def decode_bytes(self, image: Facts | Header, transforms: Sequence[Transform] | None = None) -> int:
        """Most memory of `decode`, besides the encoded bytes.

        Raises Rejected: decode-memory; it is more than is allowed.
        """
        columns, rows = scaled((image.width, image.height), self.scale_of(image, transforms))
        saved = image.pixel_bytes * (image.width * image.height - columns * rows)
        total = image.decode_bytes - saved + self._after(self._chosen(transforms), (columns, rows))
        if image.format in FLAT:  # its process is held to that
            total = min(total, self._limits.decode_bytes)
        check_decode_bytes(total, self._limits)
        return total

    def decode(self, body: bytes, name: str, transforms: Sequence[Transform] | None = None) -> DecodedImage:
        """Decode and transform an image of format `name`, whose header was read.

        Args:
            transforms: some of its own; None: all.

        Raises:
            Rejected: stage "decode"; it can't be decoded.
            Broken: an image known to be good can't be decoded either.
        """
        with self._tested(name):
            return decode(body, name, self._chosen(transforms), self._reducing_gap, self._limits.facts)

    def load_rgb(self, body: bytes, name: str, *, exif_transpose: bool = False) -> Image.Image:
        """As `decode`, without a transform: the image in RGB at its own size, turned by its EXIF if that is wanted."""
        with self._tested(name):
            return load_rgb(body, name, exif_transpose=exif_transpose)

    def check(self, name: str | None) -> None:
        """Decode the self-test image of this format; None: of every allowed format. A format without one passes.

        Raises Broken: it can't be decoded, so this process is at fault, not an image.
        """
        for each in self._good if name is None else {name} & self._good.keys():
            try:
                decode(self._good[each], each, (_TRANSFORM,))
            except Rejected as error:
                raise Broken(f"the {each} decoder fails on an image known to be good: {error.detail}") from error

    def _chosen(self, transforms: Sequence[Transform] | None) -> tuple[Transform, ...]:
        return self._transforms if transforms is None else tuple(transforms)

    def _bytes_after(self, transforms: tuple[Transform, ...], size: tuple[int, int]) -> int:
        """Bytes that transforms and hashes hold of an image this size."""
        turning = 4 if any(transform.exif_transpose for transform in transforms) else 0
        return turning * size[0] * size[1] + transform_bytes(transforms, size) + self._hashing

    @contextmanager
    def _tested(self, name: str) -> Iterator[None]:
        """Reject only if the format's decoder can still decode the self-test image."""
        try:
            yield
        except Rejected:
            self.check(name)
            raise


def facts_of(fetched: Fetched, header: Header) -> Facts:
    """The facts of an object, from its GET and its header."""
    return Facts(
        sha256=fetched.sha256,
        etag=fetched.etag,
        version_id=fetched.version_id,
        last_modified=fetched.last_modified,
        size=fetched.size,
        format=header.format,
        width=header.width,
        height=header.height,
        decode_bytes=header.decode_bytes,
        pixel_bytes=header.pixel_bytes,
        original=fetched.original,
    )
