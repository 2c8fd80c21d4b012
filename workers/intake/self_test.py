"""A small image known to be good, for each format: before an image is blamed, its decoder must read this one."""

from __future__ import annotations

import io
from collections.abc import Iterable

from PIL import Image

from workers.errors import Broken, Rejected
from workers.intake.transform import decode
from workers.types import Transform

_TRANSFORM = Transform(size=8)


class SelfTest:
    """Made once, at the start, while all is well. Thread-safe."""

    def __init__(self, formats: Iterable[str]) -> None:
        Image.init()
        writable = [name for name in formats if name.upper() in Image.SAVE]
        self._images = {name: _encoded(name) for name in writable}

    def check(self, name: str | None) -> None:
        """Decode the good image of this format; None and a format without one pass.

        Raises:
            Broken: it can't be decoded either, so this process is at fault and not the image at hand.
        """
        try:
            if name in self._images:
                decode(self._images[name], name, (_TRANSFORM,))
        except Rejected as error:
            raise Broken(f"the {name} decoder fails on an image known to be good: {error.detail}") from error


def _encoded(name: str) -> bytes:
    ramp = Image.linear_gradient("L").resize((4, 4)).convert("RGB")
    encoded = io.BytesIO()
    ramp.save(encoded, name.upper())
    return encoded.getvalue()
