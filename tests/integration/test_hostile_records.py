"""Records, messages and objects that are made to hurt, on a real worker: each costs itself, and no other waits."""

import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path

import confluent_kafka
import pytest
import zstandard

from tagstream_testing.local.apache_kafka import ApacheKafka
from tests.fixtures import Stack, Unique
from tests.support.raw_kafka import CONTROL, GZIP, ZSTD, batch, overwrite, produce, record, varint
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo, worker
from workers.backends.kafka import ensure_topics, tail

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20
zstd = zstandard.ZstdCompressor().compress


@pytest.fixture
def site(stack: Stack, unique: Unique) -> Site:
    return Site(stack, unique("hostile"), partitions=1)


class Writer:
    """Writes to the one partition of a site's input, and knows the offsets."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.good: list[int] = []

    def put(self, data: bytes) -> int:
        error, offset = produce(self._site.stack.kafka.servers, self._site.images, 0, data)
        assert error == 0, f"the broker refused it with {error}"
        return offset

    def put_good(self) -> None:
        self.good.append(self.put(batch([record(self._site.own("cat.jpg"))])))

    def put_behind_its_back(self, make: Callable[[bytes, int], bytes]) -> int:
        """Write a batch into the broker's log in place of another one; returns its offset."""
        place = batch([record(b"place" * 40)])
        offset = self.put(place)
        sizes = (make(b"x" * size, offset) for size in range(len(place)))
        made = next(data for data in sizes if len(data) == len(place))
        log = self._site.stack.kafka.folder / "data"
        # The broker sets the offset of an accepted batch.
        overwrite(log, self._site.images, 0, offset.to_bytes(8, "big") + place[8:], made)
        return offset


def test_a_worker_gives_every_odd_record_its_outcome_and_continues(site: Site, tmp_path: Path) -> None:
    """Guard: `BoundedReading`; without it the second record ends all polling, and 400 MB come from 13 kB."""
    site.upload("cat.jpg", photo(1))
    event = site.own("cat.jpg")
    writer = Writer(site)
    writer.put_good()
    # Sound, though kafka-python can't read them
    writer.good.append(writer.put(batch([record(event, headers=[(b"\xff\xfe", b"x"), (b"\xff\xfe", None)])])))
    writer.good.append(writer.put(batch([record(event, timestamp=-9)], timestamp=-1)))
    # Of today to the broker, which adds both numbers in 64 bits: a sum of more fits into no dead letter
    today = int(time.time() * 1000)
    timeless = writer.put(batch([record(b"no JSON", timestamp=today - 2**63)], timestamp=-(2**63)))
    # Batches from a broker with a damaged disk
    spoilt = writer.put_behind_its_back(lambda more, at: batch([record(b"s" + more)], base_offset=at, spoil=1))
    codec = writer.put_behind_its_back(lambda more, at: batch([record(more)], base_offset=at, attributes=6))
    writer.put_behind_its_back(lambda more, at: batch([record(more)], base_offset=at, attributes=CONTROL))
    garbage = writer.put_behind_its_back(lambda more, at: batch([b"\xff" * 9 + more], base_offset=at))
    writer.put_good()
    with worker(site, "one", tmp_path) as process:
        eventually(lambda: site.behind() == 0, 60, process.said)
        before = process.peak_memory()
        # Batches that a broker accepts, and no reader should open
        raw = varint(5_000_000) + bytes(10_000_000)
        headers = writer.put(batch([record(event, raw_headers=raw)], attributes=ZSTD, compress=zstd))
        bomb = writer.put(batch([record(bytes(400 * MIB))], attributes=ZSTD, compress=zstd))
        swarm = [record(None, key=None, delta=n) for n in range(150_000)]
        many = writer.put(batch(swarm, attributes=GZIP, compress=gzip.compress))
        writer.put_good()
        eventually(lambda: site.behind() == 0, 30, process.said)
        assert process.peak_memory() - before < 160 * MIB
        assert process.get("/livez")[0] == 200
        assert process.terminate() == 0, process.said()
    assert sorted(found.event.offset for found in site.enriched_images()) == sorted(writer.good)
    letters = [
        (dead_letter.offset, dead_letter.last_offset, dead_letter.failures[0].reason) for dead_letter in site.letters()
    ]
    assert letters == [
        (timeless, timeless, "undecodable"),
        (spoilt, spoilt, "batch-unreadable"),
        (codec, codec, "batch-unreadable"),
        (garbage, garbage, "batch-unreadable"),
        (headers, headers, "too-many-headers"),
        (bomb, bomb, "batch-too-large"),
        (many, many + len(swarm) - 1, "batch-too-large"),
    ]
    assert all(dead_letter.truncated for dead_letter in site.letters() if dead_letter.offset != timeless)


def test_readers_of_a_topic_skip_unreadable_batches(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Guard: a `tail`, or a list of dead letters, ended with an error at the first such record, or never."""
    writer = Writer(site)
    writer.put_good()
    odd = writer.put(batch([record(b"odd", headers=[(b"\xff", b"x")])]))
    bomb = writer.put(batch([record(bytes(400 * MIB))], attributes=ZSTD, compress=zstd))
    writer.put_good()
    with tail(site.stack.kafka.servers, [site.images], start="beginning", follow=False) as reading:
        assert [found.offset for found in reading] == sorted([*writer.good, odd])
    (said,) = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    assert said.startswith(f"{site.images}:0:{bomb} is passed over (batch-too-large): ")


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_what_other_clients_compress_is_read_byte_for_byte(kafka: ApacheKafka, unique: Unique, codec: str) -> None:
    """As librdkafka writes it, and as Java does in the broker, which recompresses for a topic."""
    as_it_comes, by_broker = unique("as-it-comes"), unique("by-broker")
    ensure_topics(kafka.servers, {as_it_comes: (1, {}), by_broker: (1, {"compression.type": codec})})
    values = [b'{"n": %d}' % n * (1 + n % 50) + os.urandom(n % 300) for n in range(2_000)]
    for topic, own_codec in ((as_it_comes, codec), (by_broker, "none")):
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": kafka.servers, "compression.type": own_codec, "linger.ms": 200}
        )
        for value in values:
            producer.produce(topic, value)
        assert producer.flush(20) == 0
        with tail(kafka.servers, [topic], start="beginning", follow=False) as reading:
            assert [found.value for found in reading] == values
