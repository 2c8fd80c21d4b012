"""The structure of files: excess is refused at once, and bytes that decide no pixel are cut out."""

import io
import itertools
import struct
import time
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from tests.chaos.broken_codec import png_that
from tests.support.apart import Apart
from tests.support.images import avif_of_frames, encoded, png_chunk, ramp
from tests.unit.intake import greedy
from tests.unit.intake.greedy import jpeg_segment, png_with
from tests.unit.intake.memory import needs_linux, peak_bytes
from workers.errors import Rejected
from workers.intake.header import guard, read_header
from workers.intake.limits import Limits
from workers.intake.scan import scan
from workers.intake.transform import decode
from workers.types import Transform

LIMITS = Limits()
MIB = 1 << 20
PROCESSOR_S = 4
"""Ten times the time of the slowest; without its limit, one takes far longer."""


def box(kind: bytes, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack(">L4s", 8 + len(data), kind) + data


def avif_of(*boxes: bytes) -> bytes:
    return box(b"ftyp", b"avif\0\0\0\0avifmif1") + box(b"meta", bytes(4), *boxes)


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = box(b"meta", bytes(4), inner)
    return inner


def extents_of_no_bytes(items: int, each: int) -> bytes:
    """Locations of items, in pieces with lengths and places of no bytes."""
    return box(b"iloc", bytes(6), struct.pack(">H", items), struct.pack(">HHH", 1, 0, each) * items)


def avif_of_bitstreams(stream: bytes, count: int = 1) -> bytes:
    named = [box(b"infe", b"\2\0\0\0", struct.pack(">HH", item, 0), b"av01\0") for item in range(count)]
    placed = [struct.pack(">HHHHLL", item, 1, 0, 1, 0, len(stream)) for item in range(count)]
    located = box(b"iloc", b"\1\0\0\0\x44\0", struct.pack(">H", count), *placed)
    return avif_of(box(b"iinf", bytes(4), struct.pack(">H", count), *named), box(b"idat", stream), located)


def webp_of(chunks: int) -> bytes:
    body = encoded(ramp(), "webp")[12:] + struct.pack("<4sL", b"JUNK", 0) * chunks
    return b"RIFF" + struct.pack("<L", 4 + len(body)) + b"WEBP" + body


TOO_COMPLEX = {
    "jpeg of segments": (greedy.jpeg(8, 8, extra=jpeg_segment(0xE5) * 1_000_000), "4097 segments"),
    "jpeg of comments": (greedy.jpeg(8, 8, extra=jpeg_segment(0xFE, b"x") * 1_000_000), "4097 segments"),
    "jpeg of tables": (greedy.jpeg(8, 8, extra=jpeg_segment(0xDB, bytes((0, *[1] * 64)) * 999) * 3), "bytes of tables"),
    "jpeg of beginnings": (b"\xff\xd8" * 5_000_000, "4097 segments"),
    "jpeg of beginnings after its image": (
        greedy.jpeg(8, 8, progressive=True)[:-2] + b"\xff\xd8" * 5_000_000,
        "4097 segments",
    ),
    "jpeg of scans": (greedy.jpeg(1000, 1000, progressive=True, scans=20_000), "101 scans"),
    "jpeg of segments between scans": (
        greedy.jpeg(8, 8).replace(b"\xff\xd9", jpeg_segment(0xE5) * 1_000_000 + b"\xff\xd9"),
        "4097 segments",
    ),
    "png of chunks": (png_with(png_chunk(b"teXt", b"") * 200_000), "65537 chunks"),
    "png of pixels in many chunks": (png_with(png_chunk(b"IDAT", b"") * 200_000), "65537 chunks"),
    "gif of comments": (b"GIF89a\x08\0\x08\0\0\0\0" + b"!\xfe\x01x\0" * 200_000, "65537 pieces"),
    "gif of a comment in pieces": (b"GIF89a\x08\0\x08\0\0\0\0!\xfe" + b"\x01x" * 2_000_000, "65537 pieces"),
    "webp of chunks": (webp_of(500_000), "16385 chunks"),
    "avif of boxes": (avif_of(box(b"iprp", box(b"ipco", box(b"free") * 500_000))), "8193 boxes"),
    "avif of nested boxes": (avif_of(nested(500)), "9 boxes in one another"),
    "avif of items": (avif_of(box(b"iloc", b"\1" + bytes(5), struct.pack(">H", 60_000))), "60000 items"),
    "avif of pieces": (avif_of(extents_of_no_bytes(2_000, 65_535)), "65535 pieces of items"),
    "avif of links": (avif_of(box(b"iref", bytes(4), box(b"dimg", bytes(200_000)))), "200000 bytes in an AVIF's table"),
    "avif of frames": (avif_of_frames(64, 65), "65 frames"),
    "avif of packets": (avif_of_bitstreams(b"\x12\0" * 70_000), "65537 pieces of AV1"),
}


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize(("body", "says"), TOO_COMPLEX.values(), ids=TOO_COMPLEX.keys())
def test_dishonest_files_are_refused_at_once_and_in_little_memory(apart: Apart, body: bytes, says: str) -> None:
    held, processor_s = apart(_cost_of, _refuse, body, says)
    assert held < 8 * MIB
    assert processor_s < PROCESSOR_S


def _refuse(body: bytes, says: str) -> None:
    with pytest.raises(Rejected) as rejected:
        read_header(body, LIMITS)
    assert (rejected.value.stage, rejected.value.reason) == ("decode", "too-complex"), rejected.value.detail
    assert says in rejected.value.detail


def _cost_of(work: Callable[..., None], *arguments: Any) -> tuple[int, float]:
    """Bytes that it holds at its worst moment, and processor time."""
    _warm_up()
    began = time.process_time()
    held = peak_bytes(lambda: work(*arguments))
    return held, time.process_time() - began


@cache
def _warm_up() -> None:
    """One-time imports and tables."""
    guard(LIMITS)
    for name in LIMITS.formats:
        _read(encoded(ramp(), name))


def _read(body: bytes) -> None:
    decode(body, read_header(body, LIMITS).format, (Transform(8),))


GIF_PICTURE = b"," + encoded(Image.new("L", (8, 8)), "gif").partition(b",")[2]
"""From the first image's block on."""


@cache
def bomb() -> bytes:
    """300 MiB in some 300 kB."""
    return zlib.compress(bytes(300 * MIB), 9)


HEAVY: dict[str, Callable[[], bytes]] = {
    "png profile": lambda: png_with(png_chunk(b"iCCP", b"x\0\0" + bomb())),
    "png text": lambda: png_with(png_chunk(b"zTXt", b"x\0\0" + bomb())),
    "png international text": lambda: png_with(png_chunk(b"iTXt", b"x\0\x01\0\0\0" + bomb())),
    "png exif": lambda: png_with(png_chunk(b"eXIf", b"II*\0\x08\0\0\0" + bytes(10 * MIB))),
    "png suggested palettes": lambda: png_with(png_chunk(b"sPLT", bytes(100_000)) * 100),
    "jpeg exif of many resolutions": lambda: greedy.jpeg(
        8, 8, extra=jpeg_segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 300
    ),
    "jpeg profile": lambda: greedy.jpeg(8, 8, extra=jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000)) * 300),
    "jpeg junk between segments": lambda: greedy.jpeg(8, 8, extra=jpeg_segment(0xE5) + bytes(20 * MIB)),
    "jpeg padding between segments": lambda: greedy.jpeg(8, 8, extra=b"\xff" * 20 * MIB),
    "gif comment": lambda: b"GIF89a\x08\0\x08\0\0\0\0!\xfe" + b"\xff".ljust(256, b"x") * 60_000 + b"\0"
                   + GIF_PICTURE,
    "gif junk": lambda: b"GIF89a\x08\0\x08\0\0\0\0" + bytes(20 * MIB) + GIF_PICTURE,
}  # fmt: skip


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize("make", HEAVY.values(), ids=HEAVY.keys())
def test_metadata_of_any_size_costs_no_more_than_a_copy_of_the_file_and_spoil_nothing(
    apart: Apart, make: Callable[[], bytes]
) -> None:
    body = make()
    held, processor_s = apart(_cost_of, _read, body)
    assert held < len(body) + 8 * MIB
    assert processor_s < PROCESSOR_S


@pytest.mark.parametrize("in_header", [False, True])
def test_the_chunk_that_brings_the_decoder_of_the_chaos_tests_down_gets_there(in_header: bool) -> None:
    body = png_that("hangs", in_header=in_header)
    assert scan(body, "png").body is body


def test_a_palette_and_its_transparency_survive() -> None:
    image = ramp().quantize(16)
    body = encoded(image, "png", transparency=3)
    assert pixels_equal(body, "png")


def pixels_equal(body: bytes, name: str) -> bool:
    with Image.open(io.BytesIO(body)) as straight:
        straight.load()
        wanted = np.asarray(straight)
        with Image.open(io.BytesIO(scan(body, name).body), formats=(name.upper(),)) as cut:
            cut.load()
            size = scan(body, name).size
            return np.array_equal(np.asarray(cut), wanted) and size in (None, straight.size)


def _profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _text() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "as said before " * 100, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    return text


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "a photograph"
    exif[0x011A] = 300.0
    return exif


def honest() -> dict[str, tuple[Image.Image, str, dict[str, Any]]]:
    """Images as Pillow writes them, with every option that changes their structure."""
    image = ramp(90, 70)
    known = {"icc_profile": _profile(), "exif": _exif()}
    found: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {}
    for mode, progressive, subsampling, restart in itertools.product(
        ("L", "RGB", "CMYK"), (False, True), ("4:4:4", "4:2:2", "4:2:0"), (0, 3)
    ):
        found[f"jpeg {mode} {progressive} {subsampling} {restart}"] = (
            image.convert(mode),
            "jpeg",
            {
                "progressive": progressive,
                "subsampling": subsampling,
                "restart_marker_blocks": restart,
                "comment": "hello",
                "optimize": True,
                **known,
            },
        )
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        source = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257) if ";" in mode else image
        image = source if ";" in mode else image.convert(mode)
        found[f"png {mode}"] = image, "png", {"pnginfo": _text(), "dpi": (72, 72), **known}
    for mode in ("L", "P", "RGB"):
        found[f"gif {mode}"] = image.convert(mode), "gif", {"comment": b"hello" * 300, "interlace": mode == "L"}
        found[f"bmp {mode}"] = image.convert(mode), "bmp", {}
    found["gif animated"] = (
        image.convert("P"), "gif",
        {"save_all": True, "append_images": [image.rotate(90)], "loop": 0, "transparency": 3, "disposal": 2},
    )  # fmt: skip
    found["png animated"] = image, "png", {"save_all": True, "append_images": [image.rotate(90)], "duration": 40}
    for lossless in (False, True):
        for mode in ("RGB", "RGBA"):
            found[f"webp {mode} {lossless}"] = image.convert(mode), "webp", {"lossless": lossless, **known}
    found["webp animated"] = image, "webp", {"save_all": True, "append_images": [image.rotate(90)], **known}
    return found


HONEST = honest()


@pytest.mark.parametrize(("image", "name", "options"), HONEST.values(), ids=HONEST.keys())
def test_cuts_change_no_pixel(image: Image.Image, name: str, options: dict[str, Any]) -> None:
    assert pixels_equal(encoded(image, name, **options), name)


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "tiff", "avif"])
def test_a_file_without_anything_to_cut_out_is_not_copied(name: str) -> None:
    body = encoded(ramp().convert("L"), name)
    assert scan(body, name).body is body


@pytest.mark.parametrize("name", LIMITS.formats)
def test_no_cut_file_gets_anything_but_a_rejection(name: str) -> None:
    body = encoded(ramp(), name)
    for end in range(0, len(body), 7):
        try:
            scan(body[:end], name)
        except Rejected as error:
            assert error.reason in ("broken-image", "too-complex")  # noqa: PT017  # an answer is fine as well


def test_many_bitstreams_with_layers_of_their_own_are_taken_and_with_frames_of_any_number_are_not() -> None:
    frame = b"\x32\x01\x10"
    assert scan(avif_of_bitstreams(frame * 4, 1_000), "avif").size is None
    with pytest.raises(Rejected, match="72 frames"):
        scan(avif_of_bitstreams(frame * 12, 10), "avif")


def test_frames_of_a_track_count_as_frames_of_an_item() -> None:
    stream = b"\x32\x01\x10" * 65
    head = box(b"ftyp", b"avis\0\0\0\0avifavis")
    sizes = box(b"stsz", struct.pack(">LLLL", 0, 0, 1, len(stream)))
    body = head + box(b"moov", box(b"stbl", sizes, box(b"stco", struct.pack(">LLL", 0, 1, len(head) + 60)))) + stream
    with pytest.raises(Rejected, match="65 frames"):
        scan(body, "avif")
