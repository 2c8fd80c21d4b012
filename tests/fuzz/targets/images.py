"""Image files of every format: what their header costs to read, and that no decode costs more than was said."""

import io
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.containers import damaged
from tests.fuzz.fuzzer import MIB, Bounds, Costly, Target, measured, sentence
from tests.fuzz.mutators import Parts
from tests.support.exif import as_event, tiff, whole
from tests.support.images import encoded, png_chunk, ramp, tiff_with_a_tile_of
from workers.errors import Rejected
from workers.facts import pack_facts, unpack_facts
from workers.intake.first_bytes import read_first_bytes
from workers.intake.header import Header, guard, header_at_a_glance, read_header, sniff
from workers.intake.limits import FLAT, Limits
from workers.intake.scan import read_exif
from workers.intake.transform import decode
from workers.types import Transform

LIMITS = Limits()
DECODED_PIXELS = 3_000_000
"""Larger ones are not decoded here: they would take the time that a thousand others need."""
_TRANSFORMS = (Transform(8), Transform(8, "crop", 9, exif_transpose=True))
_KEPT_MIB = 12.0
"""Extra memory of a decode on top of its estimate: the resulting images, and the C library's reserve."""


def _animated(name: str, **options: Any) -> bytes:
    frames = [Image.new("RGB", (24, 16), colour) for colour in ((9, 9, 9), (200, 0, 0), (0, 200, 0))]
    return encoded(frames[0], name, save_all=True, append_images=frames[1:], **options)


@cache
def files() -> tuple[bytes, ...]:
    """A small file for every format and nearly every option that can be written here."""
    rgb, grey = ramp(33, 17), ramp(33, 17).convert("L")
    alpha = rgb.convert("RGBA")
    exif = b"Exif\0\0" + whole("<")
    deep = Image.fromarray(np.arange(33 * 17, dtype=np.uint16).reshape(17, 33) * 100)
    files = [
        *(encoded(image, "jpeg", quality=60, exif=exif) for image in (rgb, grey, rgb.convert("CMYK"))),
        encoded(rgb, "jpeg", progressive=True, comment=b"comment", icc_profile=b"\0" * 200),
        encoded(rgb, "jpeg", restart_marker_rows=1, subsampling=0, keep_rgb=True, dpi=(72, 72)),
        encoded(rgb, "mpo", save_all=True, append_images=[rgb]),
        *(encoded(image, "png", exif=exif) for image in (rgb, grey, alpha, deep, rgb.convert("P"), grey.convert("1"))),
        encoded(rgb.convert("P"), "png", transparency=3, icc_profile=b"\0" * 200, pnginfo=_texts()),
        _animated("png"),
        _animated("gif", loop=0, comment=b"x" * 300, disposal=2),
        encoded(rgb.convert("P"), "gif", interlace=1, transparency=1),
        *(encoded(rgb, "webp", lossless=lossless, exif=exif, icc_profile=b"\0" * 99) for lossless in (True, False)),
        encoded(alpha, "webp"),
        _animated("webp"),
        *(encoded(image, "bmp") for image in (rgb, grey, alpha, rgb.convert("P"), grey.convert("1"))),
        *(encoded(rgb, "tiff", compression=kind) for kind in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg")),
        *(encoded(image, "tiff") for image in (deep, grey.convert("F"), grey.convert("I"), alpha, rgb.convert("LAB"))),
        encoded(grey.convert("1"), "tiff", compression="group4"),
        encoded(rgb, "tiff", big_tiff=True, description="x" * 300, exif=exif),
        _animated("tiff"),
        tiff_with_a_tile_of(64),
        encoded(rgb, "avif", exif=exif),
        _animated("avif"),
    ]
    return tuple(files)


def _texts() -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("words", "x" * 99, zip=True)
    info.add_itxt("more", "y" * 99, "en", "mehr", zip=True)
    return info


def crowded() -> Iterator[bytes]:
    """Small images in files of a quarter MiB or so: segments, chunks, blocks, strips and frames without end."""
    jpeg, png, gif = (encoded(ramp(8, 8), name) for name in ("jpeg", "png", "gif"))
    for segment in (b"\xff\xfe\0\2", b"\xff\xe1\0\2", b"\xff\xdb\0\2", b"\xff\xed\0\2", b"\xff\xe2\0\2"):
        yield jpeg[:2] + segment * 60_000 + jpeg[2:]
    for chunk in (b"tEXt", b"iTXt", b"zTXt", b"fcTL", b"IDAT", b"prIV", b"iCCP", b"eXIf"):
        yield png[:33] + png_chunk(chunk, b"a\0\0\0\0x") * 15_000 + png[33:]
    frame = gif[gif.index(b",") : -1]
    yield gif[:-1] + frame * 3_000 + b";"
    yield gif[: gif.index(b",")] + b"!\xfe\1x\0" * 50_000 + gif[gif.index(b",") :]
    for count in (1, 60_000):
        yield tiff_of_strips(count)


def tiff_of_strips(count: int) -> bytes:
    """A grey TIFF of 8 × 8 in this many strips, all invalid but the first."""
    arrays = 8 + 2 + 12 * 9 + 4
    tags = [
        (256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, count, arrays if count > 1 else 8), (277, 3, 1, 1), (278, 4, 1, 4),
        (279, 4, count, arrays + 4 * count if count > 1 else 64),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return head + struct.pack("<I", 8) * count + struct.pack("<I", 64) * count + bytes(64)


def images() -> Iterator[Parts]:
    guard(LIMITS)
    for file in (*files(), *crowded()):
        yield (file,)


def refused(error: Rejected) -> str:
    """Why; an image is only ever refused for itself, with a sentence."""
    assert error.stage == "decode", error
    sentence(error)
    return error.reason


@contextmanager
def _held_to(name: str | None, more_bytes: int) -> Iterator[None]:
    """Limit this process to this many more bytes, like a child, where only the decoder reads a file of this format."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    if name in FLAT:
        addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (addresses + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def header_of(body: bytes) -> Header | str:
    try:
        with _held_to(sniff(body), LIMITS.inspect_address_bytes(sniff(body), len(body))):
            header = read_header(body, LIMITS)
    except Rejected as error:
        return refused(error)
    assert header.format in LIMITS.formats
    assert LIMITS.min_side <= min(header.width, header.height)
    assert header.width * header.height <= LIMITS.max_pixels
    assert header.decode_bytes > 0
    return header


def read(parts: Parts) -> str:
    """A header is read or the image is refused, for little; a glance tells the same or nothing."""
    header = header_of(parts[0])
    assert max(read_first_bytes(parts[0], "place")[1:3]) <= 1_000_000, "a side that no image has"
    glance = header_at_a_glance(parts[0], LIMITS)
    if glance is not None and glance != header:
        assert isinstance(header, str), f"{glance} at a glance, else {header}"
        if glance.width * glance.height <= DECODED_PIXELS:
            assert not _decoded(parts[0], glance).startswith("decoded"), f"decoded, although {header}"
    return header if isinstance(header, str) else f"read {header.format}"


def decoded(parts: Parts) -> str:
    """An image with a readable header is decoded within the header's estimate, or refused."""
    header = header_of(parts[0])
    if isinstance(header, str):
        return header
    if header.width * header.height > DECODED_PIXELS:
        return "not tried: large"
    said = LIMITS.decode_address_bytes(header.decode_bytes) if header.format in FLAT else header.decode_bytes
    said_mib = said / MIB + _KEPT_MIB
    outcome, cost = measured(lambda: _decoded(parts[0], header))
    if cost.mib > said_mib and (again := measured(lambda: _decoded(parts[0], header))[1]).mib > said_mib:
        raise Costly(f"decoding took {again.mib:.0f} MiB of memory; its header promised {said_mib:.0f} at most")
    return outcome


def _decoded(body: bytes, header: Header) -> str:
    try:
        with _held_to(header.format, LIMITS.decode_address_bytes(header.decode_bytes)):
            image = decode(body, header.format, _TRANSFORMS, facts="place")
    except Rejected as error:
        return refused(error)
    assert image.facts is not None
    assert unpack_facts(pack_facts(image.facts), "place") == image.facts
    for transform in _TRANSFORMS:
        assert image.pixels[transform].shape == (transform.size, transform.size, 3)
        assert image.pixels[transform].dtype == np.uint8
    return f"decoded {header.format}"


def jpegs() -> Iterator[Parts]:
    guard(LIMITS)
    for file in files():
        if file.startswith(b"\xff\xd8"):
            yield (file,)


def scaled(parts: Parts) -> str:
    """A JPEG that is decoded at a part of its size has the verdict that it has in full, to the word."""
    full, part = (_verdict(parts[0], gap) for gap in (0.0, 1.0))
    assert full == part, f"in full {full!r}, scaled {part!r}"
    return full.partition(" (")[0]


def _verdict(body: bytes, gap: float) -> str:
    header = header_of(body)
    if isinstance(header, str):
        return header
    if header.width * header.height > DECODED_PIXELS:
        return "not tried: large"
    try:
        decode(body, header.format, _TRANSFORMS, gap)
    except Rejected as error:
        return f"{error.reason} ({error.detail})"
    return f"decoded {header.format}"


def exifs() -> Iterator[Parts]:
    for order in "<>":
        yield (whole(order),)
        yield (b"Exif\0\0" + tiff(order),)


def told(parts: Parts) -> str:
    """Any bytes tell facts that an event can have."""
    for is_file in (True, False):
        facts = read_exif(parts[0], place=True, tiff=is_file)
        as_event(facts)
    return facts.missing or "read"


def size_of(body: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(body)) as image:
        return image.size


_PILLOW = ("/workers/intake/", "/PIL/")
_HEADER = Bounds(seconds=0.5, seconds_per_mib=4.0, mib=32.0, mib_per_mib=32.0)
_DECODE = Bounds(seconds=4.0, seconds_per_mib=40.0, mib=512.0, mib_per_mib=64.0)

TARGETS = (
    Target("image-headers", images, read, damaged, _PILLOW, _HEADER),
    Target("decoding", images, decoded, damaged, _PILLOW, _DECODE),
    Target("exif", exifs, told),
    Target("scaled-jpegs", jpegs, scaled, damaged, _PILLOW, _DECODE),
)
