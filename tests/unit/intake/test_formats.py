"""Telling formats by their first bytes."""

from __future__ import annotations

import pytest

from tests.support.images import encoded, ramp
from workers.intake.formats import DECODABLE, decodable, sniff


def iso(major: bytes, *others: bytes) -> bytes:
    brands = major + b"\0\0\0\0" + b"".join(others)
    return (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + b"rest of the file, avif"


@pytest.mark.parametrize("name", DECODABLE)
def test_what_pillow_writes_is_recognised(name: str) -> None:
    assert sniff(encoded(ramp(), name)) == name
    assert decodable(name)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (iso(b"avif"), "avif"),
        (iso(b"avis"), "avif"),
        (iso(b"mif1", b"mif1", b"avif"), "avif"),
        (iso(b"mif1", b"mif1", b"heic"), "heic"),
        (iso(b"msf1"), "heic"),
        (iso(b"heic"), "heic"),
        (b"MM\0*\0\0\0\x08", "tiff"),
        (b"II+\0\x08\0\0\0", "tiff"),
        (b"8BPS\0\x01", "photoshop"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "jpeg xl"),
        (b"\xff\x0a\xfa\x1f", "jpeg xl"),
        (b"\0\0\x01\0\x01\0\x10\x10", "icon"),
        (b"%PDF-1.7\n", "pdf"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "postscript"),
        (b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg xmlns="x">', "svg"),
        (b"  <svg>", "svg"),
        (b"P6\n40 30\n255\n", "netpbm"),
    ],
)
def test_formats_are_told_apart_by_their_signatures(head: bytes, name: str) -> None:
    assert sniff(head) == name


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"BM, as a text may begin", b"RIFF....WAVE", b"hello", b'{"a": "<svg"}', b"\0" * 64, b"PK\x03\x04"],
)
def test_what_is_no_image_has_no_name(body: bytes) -> None:
    assert sniff(body) is None


def test_a_format_without_a_decoder_here_is_not_decodable() -> None:
    assert not decodable("heic")
    assert not decodable("postscript")
