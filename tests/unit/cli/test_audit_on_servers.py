"""`tagstream audit` on real servers finds the planted faults, with coordinates, and no others."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.fixtures import Stack, Unique
from tests.support.command import Tagstream
from tests.support.ran import Ran
from tests.support.waiting import eventually
from tests.support.worker_process import settings_of
from tests.unit.audit.history import dead_letter, outcome, record
from workers.backends.kafka import ensure_topics

RECORDS = 40
PARTITIONS = 2


@dataclass(frozen=True)
class AuditedTopics:
    """Topics of one audit, written to by hand."""

    servers: str
    name: str

    def topic(self, name: str) -> str:
        return f"{self.name}.{name}"

    @contextmanager
    def transaction(self, *, commit: bool = True) -> Iterator[Callable[..., None]]:
        """Writes (topic, partition, value, headers, key), which are decided at the end of the block."""
        producer = Producer({"bootstrap.servers": self.servers, "transactional.id": self.name})
        producer.init_transactions(30)
        producer.begin_transaction()

        def write(topic: str, partition: int, value: bytes, headers: Any = (), key: bytes | None = None) -> None:
            producer.produce(self.topic(topic), value, key, partition, headers=list(headers))

        yield write
        producer.flush(30)
        (producer.commit_transaction if commit else producer.abort_transaction)(30)

    def commit(self, offsets: dict[int, int]) -> None:
        group = Consumer({"bootstrap.servers": self.servers, "group.id": self.name, "enable.auto.commit": False})
        try:
            places = [TopicPartition(self.topic("images"), number, offset) for number, offset in offsets.items()]
            eventually(lambda: _committed(group, places), 60)
        finally:
            group.close()

    def send_records(self) -> None:
        """Records for each partition, and three more that no worker has reached."""
        with self.transaction() as write:
            for offset in range(RECORDS + 3):
                for number in range(PARTITIONS):
                    write("images", number, record(offset, 2 if offset == 7 else 1).value)
        self.commit(dict.fromkeys(range(PARTITIONS), RECORDS))

    def outcome(self, of: int, offset: int, index: int = 0) -> tuple[str, int, bytes]:
        value = outcome(offset, index, of=of, at=("", 0, 0)).value
        return (
            "enriched",
            offset % PARTITIONS,
            (value or b"").replace(b'"images"', f'"{self.topic("images")}"'.encode()),
        )


def _committed(group: Consumer, places: list[TopicPartition]) -> bool:
    """Whether the group took them: its coordinator may not be there yet."""
    try:
        group.commit(offsets=places, asynchronous=False)
    except KafkaException:
        return False
    return True


@pytest.fixture
def site(stack: Stack, unique: Unique, monkeypatch: pytest.MonkeyPatch) -> AuditedTopics:
    site = AuditedTopics(stack.kafka.servers, unique("audit"))
    names = ("images", "enriched", "dead", "skipped")
    ensure_topics(site.servers, {site.topic(name): (PARTITIONS, {}) for name in names})
    for variable, value in settings_of(stack, site.name).items():
        monkeypatch.setenv(variable, value)
    return site


def faults(ran: Ran) -> dict[str, list[str]]:
    report = json.loads(ran.out)
    return {
        fault: [one["record"] for one in told["first"]] for fault, told in report["faults"].items() if told["count"]
    }


def test_missing_doubled_and_out_of_order_outcomes_are_named(site: AuditedTopics, tagstream: Tagstream) -> None:
    assert tagstream("audit").code == 2, "nothing is committed yet"
    site.send_records()
    images = site.topic("images")
    with site.transaction() as write:
        for offset in range(RECORDS):
            for number in range(PARTITIONS):
                if (number, offset) in ((0, 20), (1, 30)):
                    continue
                write(*site.outcome(number, offset))
                if offset == 7:
                    named = dead_letter(offset, (1,), of=number, at=("", 0, 0)).headers
                    own = [(name, images.encode() if name == "tagstream-topic" else value) for name, value in named]
                    write("dead", 0, b"", own)
    with site.transaction(commit=False) as write:
        write(*site.outcome(0, 20))
        write(*site.outcome(1, 11))
    with site.transaction() as write:
        write(*site.outcome(0, 20)[:1], 0, site.outcome(0, 20)[2])
        write(*site.outcome(1, 11))
        write("enriched", 0, b"no outcome")

    ran = tagstream("audit", "--json")
    assert ran.code == 1, ran.err
    report = json.loads(ran.out)
    assert faults(ran) == {
        "missing": [f"{images}:1:30"],
        "doubled": [f"{images}:1:11"],
        "out-of-order": [f"{images}:0:20"],
    }
    assert (report["records"], report["events"], report["strange"]) == (2 * RECORDS, 2 * RECORDS + 2, 1)
    assert report["in_flight"] == PARTITIONS * 3, "three records; the marker of their transaction is none"
    assert not report["unverifiable"]

    told = tagstream("audit")
    assert told.code == 1
    for words in (f"{images}:1:30: event 0 without outcome", f"{images}:1:11: event 0 came again, at {site.name}.enr"):
        assert words in told.out
    assert tagstream("audit", "--from", "12", "--to", "1:30", "--to", "0:20").code == 0
    assert faults(tagstream("audit", "--from", "1:31", "--from", f"{images}:0:15", "--json")).keys() == {"out-of-order"}
    assert tagstream("audit", "--since", "1h", "--json").code == 1
    ran = tagstream("audit", "--until", "1h", "--json")
    assert (ran.code, json.loads(ran.out)["records"]) == (0, 0)
    ran = tagstream("audit", "--until", "1h")
    assert (ran.code, "nothing was audited: the group has committed no record of this range" in ran.out) == (0, True)
    ran = tagstream("audit", "--from", "9:0")
    assert (ran.code, ran.out) == (2, "")
    assert "no input partition 9" in ran.err


def test_a_forged_outcome_is_named_and_a_partition_can_be_judged_alone(
    site: AuditedTopics, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.assembly.auditing.SETTLED_S", 0.5)
    images = site.topic("images")
    site.send_records()
    with site.transaction() as write:
        for offset in range(RECORDS):
            for number in range(PARTITIONS):
                write(*site.outcome(number, offset))
                if offset == 7:
                    write(*site.outcome(number, offset, 1))
    assert tagstream("audit").code == 0
    with site.transaction() as write:
        for number, offset in ((0, 99_999), (1, RECORDS + 1), (9, 3)):
            write(*site.outcome(number, offset))
    found = {"without-record": [f"{images}:0:99999", f"{images}:9:3"], "uncommitted": [f"{images}:1:{RECORDS + 1}"]}
    ran = tagstream("audit", "--json")
    assert (ran.code, faults(ran)) == (1, found)
    assert tagstream("audit").code == 1
    assert tagstream("audit", "--from", "0:4", "--to", "1:6", "--to", "0:6").code == 0, "beyond is not asked about"

    told = tagstream("audit", "--from", "1:4", "--to", "1:6", "--json").json
    assert (told["records"], [one["partition"] for one in told["ranges"]]) == (2, [1])
    ran = tagstream("audit", "--from", "1:4", "--json")
    assert faults(ran) == {"uncommitted": found["uncommitted"]}
    once = {"DELIVERY": "at_least_once"}
    assert tagstream("audit", "--from", "1:4", "--json", **once).json["unverifiable"].keys() == {"uncommitted"}
    assert tagstream("audit", "--from", "0:4", **once).code == 1
