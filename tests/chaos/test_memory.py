"""Ten times the work that the budgets hold: it waits in Kafka, and the worker's memory stays within its limit.

The measured memory is the family's: the worker, its decoders and the fork server, shared pages counted once. Every test
has a guard of its own, and `workers.intake.heap`; otherwise the C library keeps 70 to 420 MB of freed memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.chaos.account import Account
from tests.chaos.shared_worker import is_committed
from tests.fixtures import Stack, Unique
from tests.support.broker import lag
from tests.support.images import encoded, png_chunk
from tests.support.processes import Watched, children, resident
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker
from workers.intake.decoding import Decoding
from workers.intake.limits import Limits
from workers.types import Transform

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

MIB = 1 << 20
TIMES = 10
DECODERS = 6
"""More than budgets have room for, so that it is the budgets that hold them back."""
AHEAD = 14
"""Most images in progress: far more than the budgets hold, and fewer than there are."""
POLLED_BYTES, LEDGER_BYTES = 64 << 10, 4 * MIB
COMPACT = Transform(size=224, fit="crop", resize=256, interpolation="bicubic")
"""The worker's tagger's."""
ALLOWED_BYTES = 48 * MIB
"""Above the sum of the budgets, and kept afterwards: by the C library, the clients and the decoders."""

SMALL = {
    "TAGSTREAM_REDIS_URL": "",
    "TAGSTREAM_DECODE_THREADS": str(DECODERS),
    "jobs_ahead": str(AHEAD),
    "polled_bytes": str(POLLED_BYTES),
    "batch_bytes": str(POLLED_BYTES),
    "ledger_bytes": str(LEDGER_BYTES),
}


@dataclass(frozen=True)
class Store:
    """A bucket with more than a worker of these budgets has room for."""

    bucket: str
    keys: Sequence[str]
    full: str
    encoded_bytes: int
    decoded_bytes: int
    object_bytes: int

    @property
    def budgets(self) -> int:
        return self.encoded_bytes + self.decoded_bytes + POLLED_BYTES + LEDGER_BYTES

    @property
    def settings(self) -> dict[str, str]:
        return {
            "TAGSTREAM_BUCKETS": self.bucket,
            "encoded_bytes": str(self.encoded_bytes),
            "decoded_bytes": str(self.decoded_bytes),
            "TAGSTREAM_MAX_OBJECT_BYTES": str(self.object_bytes),
        }


def uploaded(stack: Stack, name: str, bodies: Iterator[bytes]) -> list[str]:
    """These keys, in a bucket of this name, with a few small images."""
    site = Site(stack, name)
    for number in range(DECODERS):
        site.upload(f"small-{number}.jpg", photo(number))
    keys = []
    for number, body in enumerate(bodies):
        keys.append(f"{number}")
        site.upload(keys[-1], body)
    return keys


@pytest.fixture(scope="module")
def heavy(stack: Stack) -> Store:
    """Objects of 20 MB, PNGs of noise; two fit into the budget."""

    def bodies() -> Iterator[bytes]:
        pixels = np.random.default_rng(0).integers(0, 256, (2_580, 2_580, 3), dtype=np.uint8)
        for number in range(2 * TIMES):
            pixels[0, 0] = number
            body = encoded(Image.fromarray(pixels), "png", compress_level=0)
            assert 20_000_000 > len(body) - 20_000 > 19_900_000, len(body)
            yield body

    return Store("heavy", uploaded(stack, "heavy", bodies()), "encoded", 40 * MIB, 100 * MIB, 20 * MIB)


@pytest.fixture(scope="module")
def vast(stack: Stack) -> Store:
    """JPEGs and PNGs of 50 megapixels and some hundred kB; one or two fit into the budget."""

    image = Image.new("RGB", (8_000, 6_250), (200, 120, 40))
    jpeg, png = encoded(image, "jpeg"), encoded(image, "png", compress_level=1)
    decoding = Decoding([COMPACT], Limits(facts="on"))
    # A decoder process holds the file a second time.
    largest = max(decoding.decode_bytes(decoding.inspect(body)) + len(body) for body in (jpeg, png))

    def bodies() -> Iterator[bytes]:
        for number in range(TIMES):
            text = b"%04d" % number  # no two are equal: equal ones would be decoded once
            yield jpeg[:2] + b"\xff\xfe\0\x06" + text + jpeg[2:]
            yield png[:33] + png_chunk(b"tEXt", b"Comment\0" + text) + png[33:]

    return Store("vast", uploaded(stack, "vast", bodies()), "decoded", 40 * MIB, 2 * largest + MIB, MIB)


@pytest.fixture
def site(stack: Stack, unique: Unique) -> Site:
    return Site(stack, unique("memory"), partitions=1)


def decoders(process: WorkerProcess) -> int:
    assert process.pid is not None
    return sum(len(children(fork_server)) for fork_server in children(process.pid))


def assert_overload_waits(site: Site, store: Store, account: Account, folder: Path, **said: object) -> None:
    """A warm worker gets all the store's objects at once. `said`: further fields of each event."""

    def send(keys: Sequence[str]) -> None:
        # An event's size counts while it waits; its note is never read.
        site.send([(site.own(key, bucket=store.bucket, note="n" * 16_000, **said), ()) for key in keys])

    with worker(site, "w", folder, **SMALL, **store.settings) as process:
        assert process.pid is not None
        send([f"small-{number}.jpg" for number in range(DECODERS)])
        eventually(lambda: is_committed(site), 60, process.said)
        eventually(lambda: decoders(process) == DECODERS, 60, process.said)
        with Watched(process.pid) as watched:
            send(store.keys)
            eventually(lambda: process.metric("tagstream_partitions", state="paused") > 0, 60, process.said)
            assert behind(site) > 2 * TIMES - AHEAD
            eventually(lambda: fullness(process, store.full) > 0.9, 60, process.said)
            account.landed()
            eventually(lambda: is_committed(site), 120, process.said)
        assert watched.samples > 10, "too few samples to know the peak by"
        assert watched.growth < store.budgets + ALLOWED_BYTES
        assert resident(process.pid) - watched.idle < ALLOWED_BYTES
        assert process.terminate() == 0, process.said()
    account.assert_site(site)


def behind(site: Site) -> int:
    lags = lag(site.stack.kafka.servers, site.name, [site.images])
    return sum(records or 0 for records in lags.values())


def fullness(process: WorkerProcess, budget: str) -> float:
    """The most that was ever reserved of a budget, as a part of it."""
    peak = process.metric("tagstream_budget_peak_bytes", budget=budget)
    return peak / process.metric("tagstream_budget_limit_bytes", budget=budget)


def test_ten_times_the_objects_of_20_mb(site: Site, heavy: Store, account: Account, tmp_path: Path) -> None:
    """Guard: the budget of encoded bytes; otherwise all admitted images are fetched."""
    assert_overload_waits(site, heavy, account, tmp_path)


def test_ten_times_the_objects_of_20_mb_with_a_size_of_one_byte_in_each_event(
    site: Site, heavy: Store, account: Account, tmp_path: Path
) -> None:
    """Guard: no byte is read that is not reserved. Without it an event of a few bytes lifts the budget."""
    assert_overload_waits(site, heavy, account, tmp_path, size=1)


def test_ten_times_the_images_of_50_megapixels(site: Site, vast: Store, account: Account, tmp_path: Path) -> None:
    """Guard: a decode reserves its header's estimate; otherwise each decoder takes its 200 MB at once."""
    assert_overload_waits(site, vast, account, tmp_path)
