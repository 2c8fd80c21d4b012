"""TIFF and AVIF: a flat bound of memory is reserved, and a child is held to it and to a clock."""

import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.image_event import ImageEvent
from tagstream_testing.memory import MemoryObjectStore
from tests.support.images import avif_of_frames, encoded, noise, ramp, tiff_with_a_tile_of
from tests.unit.intake import greedy
from tests.unit.intake.greedy import long, short, tiff_with_strips
from tests.unit.intake.memory import needs_linux
from tests.unit.intake.test_scan import avif_of, box
from workers.errors import Rejected
from workers.intake import ProcessIntake
from workers.intake.decoding import Decoding
from workers.intake.limits import MIB, Limits
from workers.types import Assignment, Coordinates, Job, Partition, Transform

LIMITS = Limits(max_object_bytes=64 * MIB)
TRANSFORM = Transform(8)


def declared(body: bytes, width: int, height: int) -> bytes:
    at = body.index(b"ispe") + 8
    return body[:at] + struct.pack(">LL", width, height) + body[at + 8 :]


BOMBS: dict[str, Callable[[], bytes]] = {
    "tiff of strips": lambda: tiff_with_strips(1_000_000),
    "tiff of strips that nothing lists": lambda: greedy.tiff(
        [long(256, 3), long(257, 10_000_000), short(258, 8), short(259, 8), short(262, 1), long(278, 1)]
    ),
    "tiff of tiles": lambda: greedy.tiff(
        [long(256, 7000), long(257, 7000), short(258, 8), short(259, 8), long(322, 16), long(323, 16)]
    ),
    "tiff of one tag's values": lambda: tiff_with_strips(8, (339, 3, 4_000_000, bytes(8_000_000))),
    "tiff of tags": lambda: greedy.tiff([short(40_000 + n % 20_000, 1) for n in range(60_000)]),
    "big tiff of tags": lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**40),
    "tiff of a huge tile": lambda: tiff_with_a_tile_of(20_000),
    "tiff of a profile": lambda: tiff_with_strips(8, (34_675, 7, 16 * MIB, bytes(16 * MIB))),
    "tiff of resolutions": lambda: tiff_with_strips(8, (282, 5, 2 * MIB, bytes(16 * MIB))),
    "avif of samples": lambda: avif_of(box(b"stbl", box(b"stsz", struct.pack(">LLL", 0, 1, 2**31)))),
    "avif of metadata": lambda: avif_of(
        box(b"iinf", bytes(4), struct.pack(">H", 1), box(b"infe", b"\2\0\0\0", struct.pack(">HH", 7, 0), b"Exif\0")),
        box(b"iloc", b"\0\0\0\0\x44\0", struct.pack(">HHHHLL", 1, 7, 0, 1, 0, 2_000_000)),
    ),
    "avif of larger frames": lambda: declared(encoded(noise(3000, 2000), "avif", speed=10), 80, 60),
}
"""Each is a function: some take a second, in every process that only collects tests."""


class Bench:
    def __init__(self, intake: ProcessIntake, store: MemoryObjectStore) -> None:
        self.intake = intake
        self.store = store
        intake.check().result(60)
        self.held = self.peak()
        self.may_hold = 0

    def peak(self) -> int:
        (pid,) = self.intake.pids
        line = next(each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def verdict(self, body: bytes) -> tuple[str, int]:
        """What becomes of an object, and the bytes that were reserved for it at most."""
        self.store.put("photos", "a", body)
        event = ImageEvent(id="1", dialect="own", action="enrich", index=0, bucket="photos", key="a")
        job = Job(Coordinates("images", 0, 0, 0), Assignment(Partition("images", 0), "member"), event)
        fetched = self.intake.fetch(job, LIMITS.max_object_bytes).result(30)
        reserved = fetched.inspect_bytes
        try:
            facts = self.intake.inspect(fetched).result(60)
            reserved = max(reserved, self.intake.decode_bytes(facts))
            self.intake.decode(fetched, facts).result(60)
        except Rejected as error:
            return error.reason, reserved
        return "", reserved


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    store = MemoryObjectStore()
    with closing(ProcessIntake(store, (TRANSFORM,), LIMITS, children=1)) as intake:
        yield Bench(intake, store)


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_has_a_verdict_within_its_reservation(bench: Bench, name: str) -> None:
    body = BOMBS[name]()
    reason, reserved = bench.verdict(body)
    assert reason in {"", "broken-image", "decode-memory", "decode-timeout"}
    bench.may_hold = max(bench.may_hold, LIMITS.decode_address_bytes(reserved) + len(body))
    assert bench.peak() - bench.held < bench.may_hold
    assert bench.verdict(encoded(ramp(), "avif" if "avif" in name else "tiff"))[0] == "", "the decoder is spoiled"


@pytest.mark.slow
@needs_linux
def test_a_picture_may_have_sixty_four_frames_and_no_more(bench: Bench) -> None:
    """Guard: a decoder reads all frames before the shown one, 20,000 in five seconds."""
    reasons = [bench.verdict(avif_of_frames(64, count))[0] for count in (1, 64, 65)]
    assert reasons == ["", "", "too-complex"]


def test_a_pixel_takes_32_bytes_and_the_file_four_times_its_size_and_no_more_than_an_image_may() -> None:
    image = Image.fromarray(np.zeros((480, 640, 3), np.uint8))
    for name in ("tiff", "avif"):
        body = encoded(image, name)
        decoding = Decoding([TRANSFORM], LIMITS)
        after = decoding.decode_bytes(decoding.inspect(encoded(image, "bmp")))
        taken = decoding.decode_bytes(decoding.inspect(body))
        flat = 32 * 640 * 480 + 4 * len(body)
        assert flat <= taken <= flat + after
        small = Decoding([TRANSFORM], Limits(decode_bytes=MIB))
        assert small.decode_bytes(small.inspect(body)) == MIB


@pytest.mark.slow
@needs_linux
def test_the_clock_ends_one_that_takes_long(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setattr("workers.intake.processes.intake.FLAT_S", 0.05)
    assert bench.verdict(encoded(noise(2000, 1500), "avif", speed=10))[0] == "decode-timeout"
