"""What a decoder raises becomes one of a few rejections, in words that are fit for a dead letter."""

from __future__ import annotations

import struct

import pytest
from PIL import Image, UnidentifiedImageError

from workers.errors import Rejected
from workers.intake.faults import blame


class Unheard(Exception):
    """None that decoders are known to raise."""


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (Image.DecompressionBombError("too large"), "too-many-pixels", "too large"),
        (Image.DecompressionBombWarning("large"), "too-many-pixels", "large"),
        (MemoryError(), "decode-memory", "the decoder got no memory"),
        (OSError("cut off"), "broken-image", "OSError: cut off"),
        (struct.error("too short"), "broken-image", "error: too short"),
        (UnidentifiedImageError("<_io.BytesIO object at 0x7f>"), "broken-image", "the header can't be read"),
        (Unheard("what"), "decode-failed", "Unheard: what"),
    ],
)
def test_what_a_decoder_raises_is_a_rejection(error: Exception, reason: str, detail: str) -> None:
    with pytest.raises(Rejected) as caught, blame():
        raise error
    assert (caught.value.stage, caught.value.reason, caught.value.detail) == ("decode", reason, detail)
    assert caught.value.__cause__ is error


def test_a_rejection_passes_as_it_is() -> None:
    rejected = Rejected("fetch", "empty-object", "0 bytes")
    with pytest.raises(Rejected) as caught, blame():
        raise rejected
    assert caught.value is rejected


def test_what_ends_a_process_is_no_images_fault() -> None:
    with pytest.raises(KeyboardInterrupt), blame():
        raise KeyboardInterrupt
