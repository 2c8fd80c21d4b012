"""`Header.decode_bytes` is an upper bound of a decode's memory, whatever the format, the mode and the layout."""

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.image_event import ImageEvent
from tagstream_testing.memory import MemoryObjectStore
from tests.support.apart import Apart
from tests.support.images import encoded
from tests.unit.intake import greedy
from tests.unit.intake.memory import needs_linux, peak_bytes
from workers.errors import Rejected
from workers.intake import ProcessIntake
from workers.intake.decoding import Decoding
from workers.intake.header import Header, guard, read_header
from workers.intake.limits import FLAT, Limits
from workers.intake.transform import decode
from workers.types import Assignment, Coordinates, Job, Partition, Transform

pytestmark = [needs_linux, pytest.mark.slow]

LIMITS = Limits(max_object_bytes=1 << 30)
NOISE = 3 << 20
"""Pages that the process touches for other reasons, such as those after a trim of its heap."""

Case = Callable[[int, int], bytes]


@lru_cache(20)
def file_of(make: Case, width: int, height: int) -> bytes:
    """The file, made once: to write one takes longer than to read it."""
    return make(width, height)


def detailed(mode: str, width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    grey = ((x * 7 + y * 3) % 251).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    if mode in ("I", "F"):
        return Image.fromarray(grey.astype(np.int32 if mode == "I" else np.float32))
    colour = Image.fromarray(np.stack([grey, grey[::-1], grey[:, ::-1]], axis=-1))
    if mode == "P":
        return colour.convert("P", palette=Image.Palette.ADAPTIVE)
    return colour.convert(mode)


def saved(mode: str, name: str, **options: Any) -> Case:
    return lambda width, height: encoded(detailed(mode, width, height), name, **options)


def animated(name: str, **options: Any) -> Case:
    def make(width: int, height: int) -> bytes:
        first = detailed("RGB", width, height)
        return encoded(first, name, save_all=True, append_images=[first.rotate(180)], **options)

    return make


def deep_tiff(samples: int, photometric: int, *, rows: int | None = None, planar: bool = False) -> Case:
    """Sixteen bits a sample, deflated, which Pillow does not write itself."""

    def make(width: int, height: int) -> bytes:
        return tiff_of(width, height, samples, 16, photometric, rows or height, planar=planar)

    return make


def tiled_tiff(side: int, samples: int, bits: int = 8) -> Case:
    def make(width: int, height: int) -> bytes:
        return tiff_of(width, height, samples, bits, 2 if samples > 2 else 1, side, tile=side)

    return make


def striped_tiff(samples: int, bits: int, compression: int) -> Case:
    def make(width: int, height: int) -> bytes:
        return tiff_of(width, height, samples, bits, 2 if samples > 1 else 1, 1, compression=compression)

    return make


def tiff_of(
    width: int,
    height: int,
    samples: int,
    bits: int,
    photometric: int,
    rows: int,
    *,
    planar: bool = False,
    tile: int = 0,
    compression: int = 8,
) -> bytes:
    """A TIFF with black strips of this many rows, or square tiles, each deflated or plain."""
    across = tile or width
    block_bytes = rows * ((across * bits * (1 if planar else samples) + 7) // 8)
    block = zlib.compress(bytes(block_bytes)) if compression == 8 else bytes(block_bytes)
    blocks = -(-width // across) * -(-height // rows) * (samples if planar else 1)
    offsets = struct.pack("<L", 8) * blocks  # all of them share one
    counts = struct.pack("<L", len(block)) * blocks
    tags = [
        greedy.long(256, width),
        greedy.long(257, height),
        greedy.short(258, *[bits] * samples),
        greedy.short(259, compression),
        greedy.short(262, photometric),
        greedy.short(277, samples),
        greedy.short(284, 2 if planar else 1),
        *([greedy.short(338, 2)] if samples == 4 and photometric == 2 else []),
    ]
    if tile:
        tags += [greedy.long(322, tile), greedy.long(323, tile), (324, 4, blocks, offsets), (325, 4, blocks, counts)]
    else:
        tags += [(273, 4, blocks, offsets), greedy.long(278, rows), (279, 4, blocks, counts)]
    return greedy.tiff(sorted(tags), block)


def oriented(case: Case, orientation: int) -> Case:
    def make(width: int, height: int) -> bytes:
        with Image.open(io.BytesIO(case(width, height))) as image:
            image.load()
            exif = Image.Exif()
            exif[0x0112] = orientation
            return encoded(image, "tiff", exif=exif, compression="tiff_lzw")

    return make


def run_length_bmp(width: int, height: int) -> bytes:
    rows = (b"\xff\x01" * (width // 255) + bytes((width % 255, 2)) + b"\0\0") * height + b"\0\1"
    palette = bytes(range(256)) * 4
    head = struct.pack("<LllHHLLllLL", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    offset = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<LHHL", offset + len(rows), 0, 0, offset) + head + palette + rows


CASES: dict[str, Case] = {
    "jpeg": saved("RGB", "jpeg"),
    "jpeg of a scan for each component": lambda w, h: greedy.jpeg(w, h),
    "jpeg of four components in four scans": lambda w, h: greedy.jpeg(w, h, sampled=(0x11,) * 4),
    "jpeg progressive": saved("RGB", "jpeg", progressive=True),
    "tiff of 16 bits in one strip": deep_tiff(3, 2),
    "tiff in tiles": tiled_tiff(512, 3),
    "tiff turned": oriented(saved("RGB", "tiff"), 6),
    "png of 16-bit grey": saved("I;16", "png"),
    "png in a palette": saved("P", "png"),
    "gif": saved("P", "gif"),
    "bmp in run lengths": run_length_bmp,
    "webp": saved("RGB", "webp", method=0),
    "webp animated": animated("webp", method=0),
    "avif": saved("RGB", "avif", speed=10),
}

MORE: dict[str, Case] = {
    **{f"jpeg {m}{' progressive' * p} q{q} {s}": saved(m, "jpeg", progressive=p, quality=q, subsampling=s)
       for m, p, q, s in itertools.product(("L", "RGB", "CMYK"), (False, True), (50, 95), ("4:4:4", "4:2:0"))},
    "jpeg sampled 4 by 4": lambda w, h: greedy.jpeg(w, h, sampled=(0x44, 0x11, 0x11)),
    "jpeg sampled 4 by 1": lambda w, h: greedy.jpeg(w, h, sampled=(0x41, 0x11, 0x14)),
    "jpeg of a hundred scans": lambda w, h: greedy.jpeg(w, h, progressive=True, scans=100),
    **{f"png {m}": saved(m, "png", compress_level=1) for m in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    **{f"bmp {m}": saved(m, "bmp") for m in ("1", "L", "P", "RGB", "RGBA")},
    **{f"gif {m}": saved(m, "gif") for m in ("1", "L", "P", "RGB")},
    "gif animated": animated("gif"),
    **{f"webp {m}{' lossless' * x}": saved(m, "webp", lossless=x, method=0)
       for m, x in itertools.product(("RGB", "RGBA"), (False, True))},
    "webp animated and lossless": animated("webp", lossless=True, method=0),
    **{f"avif {m} {s}": saved(m, "avif", speed=10, subsampling=s)
       for m, s in itertools.product(("RGB", "RGBA", "L"), ("4:4:4", "4:2:0"))},
    "avif with film grain": saved("RGB", "avif", speed=10, subsampling="4:4:4", advanced={"film-grain-test": "1"}),
    "avif animated": animated("avif", speed=10),
    **{f"tiff {m} {c}": saved(m, "tiff", compression=c)
       for m, c in itertools.product(
           ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
           ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd"))},
    **{f"tiff {m} {c}": saved(m, "tiff", compression=c)
       for m, c in itertools.product(("L", "RGB", "CMYK", "YCbCr"), ("jpeg",))},
    **{f"tiff 1 {c}": saved("1", "tiff", compression=c) for c in ("group3", "group4", "tiff_ccitt")},
    **{f"tiff in one strip {m} {c}": saved(m, "tiff", compression=c, strip_size=1 << 30)
       for m, c in itertools.product(("L", "RGB", "RGBA", "YCbCr"), ("tiff_lzw", "jpeg", "zstd"))
       if (m, c) != ("RGBA", "jpeg")},
    **{f"tiff 16 bit {s} {p} rows {r} planar {q}": deep_tiff(s, p, rows=r, planar=q)
       for (s, p), r, q in itertools.product(((1, 1), (3, 2), (4, 2), (4, 5)), (None, 16), (False, True))},
    **{f"tiff tiles of {t}, {s} x {b} bits": tiled_tiff(t, s, b)
       for t, s, b in itertools.product((16, 256, 2048), (1, 3), (8, 16))},
    **{f"tiff turned {o} {m}": oriented(saved(m, "tiff"), o)
       for o, m in itertools.product((2, 3, 6), ("L", "RGB", "I;16", "F"))},
    **{f"tiff {c}, a strip for each row, {s} x {b} bits": striped_tiff(s, b, c)
       for s, b, c in ((1, 8, 8), (3, 16, 8), (1, 8, 1), (3, 8, 1))},
}  # fmt: skip


def check(apart: Apart, make: Case, width: int, height: int) -> None:
    held, header = apart(_held_by_decoding, make(16, 16), file_of(make, width, height))
    estimate = header.decode_bytes
    room = estimate // 4 if header.format in FLAT else 0  # of tiles beyond the image
    assert held <= estimate + room + NOISE, f"{held / 1e6:.1f} MB held, {estimate / 1e6:.1f} estimated: {header}"


def _held_by_decoding(small: bytes, body: bytes) -> tuple[int, Header]:
    guard(LIMITS)
    _decode(small)  # one-time imports and tables
    found: list[Header] = []
    held = peak_bytes(lambda: found.append(_decode(body)))
    return held, found[0]


def _decode(body: bytes) -> Header:
    header = read_header(body, LIMITS)
    decode(body, header.format, (Transform(32),))
    return header


@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_decoding_holds_no_more_than_was_estimated(apart: Apart, make: Case) -> None:
    check(apart, make, 2000, 1500)


@pytest.mark.chaos
@pytest.mark.parametrize("size", [(3000, 2000), (12_000, 64), (64, 12_000)], ids=str)
@pytest.mark.parametrize("make", {**CASES, **MORE}.values(), ids={**CASES, **MORE}.keys())
def test_no_format_mode_or_layout_holds_more_than_was_estimated(
    apart: Apart, make: Case, size: tuple[int, int]
) -> None:
    check(apart, make, *size)


TRANSFORMS: dict[str, Transform] = {
    "squashed": Transform(384),
    "squashed to many pixels": Transform(1500, interpolation="bicubic"),
    "cut": Transform(224, fit="crop", resize=256),
    "cut of many pixels": Transform(800, fit="crop", resize=1000),
    "turned and cut": Transform(224, fit="crop", resize=256, exif_transpose=True),
    "turned and padded": Transform(1120, fit="pad", interpolation="bicubic", exif_transpose=True),
}


def _inspected_and_decoded(decoding: Decoding, body: bytes) -> int:
    header = decoding.inspect(body)
    decoding.decode(body, header.format)
    return decoding.decode_bytes(header)


@pytest.mark.parametrize("size", [(2000, 1500), (64, 12_000), (12_000, 64), (3, 40_000), (700, 50)], ids=str)
@pytest.mark.parametrize("transforms", [*((each,) for each in TRANSFORMS.values()), TRANSFORMS.values()],
                         ids=[*TRANSFORMS, "all"])  # fmt: skip
def test_transforming_is_part_of_the_estimate(
    apart: Apart, transforms: Iterable[Transform], size: tuple[int, int]
) -> None:
    grey = saved("L", "png")
    held, estimate = apart(_held_by_all, tuple(transforms), grey(16, 16), grey(*size))
    assert held <= estimate + NOISE, f"{held / 1e6:.1f} MB held, {estimate / 1e6:.1f} estimated"


def _held_by_all(transforms: tuple[Transform, ...], small: bytes, body: bytes, gap: float = 0.0) -> tuple[int, int]:
    guard(LIMITS)
    decoding = Decoding(transforms, LIMITS, gap)
    _inspected_and_decoded(decoding, small)
    estimates: list[int] = []
    held = peak_bytes(lambda: estimates.append(_inspected_and_decoded(decoding, body)))
    return held, estimates[0]


SCALED: dict[str, Case] = {
    "jpeg": CASES["jpeg"],
    "jpeg progressive": CASES["jpeg progressive"],
    "jpeg CMYK": saved("CMYK", "jpeg", quality=95),
    "jpeg grey": saved("L", "jpeg"),
    "jpeg of a hundred scans": MORE["jpeg of a hundred scans"],
}


@pytest.mark.parametrize("make", SCALED.values(), ids=SCALED.keys())
def test_a_scaled_jpeg_holds_no_more_than_was_estimated_and_that_is_less_than_in_full(apart: Apart, make: Case) -> None:
    transforms = Transform(160), Transform(150, "crop", 160, exif_transpose=True)
    bodies = make(16, 16), file_of(make, 2000, 1500)
    held, estimate = apart(_held_by_all, transforms, *bodies, 3.0)
    assert held <= estimate + NOISE, f"{held / 1e6:.1f} MB held, {estimate / 1e6:.1f} estimated"
    assert estimate < Decoding(transforms, LIMITS).inspect(bodies[1]).decode_bytes - 2000 * 1500


def _decodes_in_a_child(cases: dict[str, Case], width: int, height: int) -> None:
    store = MemoryObjectStore()
    refused = {}
    with closing(ProcessIntake(store, (Transform(32),), LIMITS, children=1, decode_s=60)) as intake:
        for name, make in cases.items():
            store.put("photos", name, file_of(make, width, height))
            event = ImageEvent(id="1", dialect="own", action="enrich", index=0, bucket="photos", key=name)
            job = Job(Coordinates("images", 0, 0, 0), Assignment(Partition("images", 0), "member"), event)
            fetched = intake.fetch(job, LIMITS.max_object_bytes).result(60)
            try:
                intake.decode(fetched, intake.inspect(fetched).result(60)).result(60)
            except Rejected as error:
                refused[name] = str(error)
    assert refused == {}


def test_the_limit_of_its_own_estimate_is_enough_for_every_format() -> None:
    _decodes_in_a_child(CASES, 2000, 1500)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("size", [(3000, 2000), (40, 30)], ids=str)
def test_the_limit_of_its_own_estimate_is_enough_for_every_mode_and_layout(size: tuple[int, int]) -> None:
    _decodes_in_a_child({**CASES, **MORE}, *size)
