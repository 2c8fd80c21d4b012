"""The port of corrections, on the fake in memory and on a topic."""

from collections.abc import Iterator

import pytest

from schemas.correction import CorrectionRecord, Word, correction, withdrawal
from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.memory import MemoryCorrections
from tests.fixtures import Unique
from tests.support.waiting import eventually
from workers.backends.kafka import KafkaEmitter, ensure_topics
from workers.backends.kafka import reader as kafka_reader
from workers.backends.kafka.corrections import KafkaCorrections
from workers.errors import Misconfigured

SHA = "a" * 64
MIB = 1 << 20


class OnKafka:
    def __init__(self, servers: str, topic: str) -> None:
        self.servers, self.topic = servers, topic
        ensure_topics(servers, {topic: (2, {})})
        self.log = KafkaCorrections(servers, topic, max_bytes=MIB, people=True)

    def produce(self, *records: CorrectionRecord) -> None:
        with KafkaEmitter(self.servers) as emitter:
            for record in records:
                emitter.send(self.topic, record.key, record.value)
            emitter.flush()


class InMemory:
    def __init__(self) -> None:
        self.log = MemoryCorrections(people=True)

    def produce(self, *records: CorrectionRecord) -> None:
        for record in records:
            self.log.produce(record)


@pytest.fixture
def on_kafka(kafka: ApacheKafka, unique: Unique) -> Iterator[OnKafka]:
    made = OnKafka(kafka.servers, unique("corrections"))
    yield made
    made.log.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.servers)])
def world(request: pytest.FixtureRequest) -> OnKafka | InMemory:
    world: OnKafka | InMemory = InMemory() if request.param == "memory" else request.getfixturevalue("on_kafka")
    return world


def test_all_earlier_corrections_are_known_once_it_caught_up(world: OnKafka | InMemory) -> None:
    world.produce(
        *(correction("photos", f"{n}.jpg", added=["dog"], removed=["cat"]) for n in range(50)),
        correction("photos", "7.jpg", removed=["dog"], by="ann"),
        withdrawal("photos", "8.jpg"),
    )
    world.log.catch_up(bool)
    assert world.log.on("photos/6.jpg", SHA) == Word(("dog",), ("cat",))
    assert world.log.on("photos/7.jpg", SHA) == Word((), ("cat", "dog"), ("ann",))
    assert world.log.on("photos/8.jpg", SHA) is None


def test_later_corrections_are_followed_and_nothing_is_read_twice(world: OnKafka | InMemory) -> None:
    world.produce(correction("photos", "a.jpg", added=["dog"]))
    world.log.catch_up(bool)
    world.produce(correction("photos", "a.jpg", removed=["dog"]), correction("photos", "b.jpg", added=["sea"]))

    def known() -> bool:
        world.log.follow(0.1)
        return world.log.on("photos/b.jpg", SHA) is not None and world.log.on("photos/a.jpg", SHA) != Word(("dog",), ())

    eventually(known)
    assert world.log.on("photos/a.jpg", SHA) == Word((), ("dog",))
    assert world.log.on("photos/b.jpg", SHA) == Word(("sea",), ())


def test_an_invalid_record_is_ignored(world: OnKafka | InMemory) -> None:
    world.produce(
        CorrectionRecord(b"photos/a.jpg", b"{"),
        correction("photos", "a.jpg", added=["dog"]),
        CorrectionRecord(b"\xff", b""),
    )
    world.log.catch_up(bool)
    assert world.log.on("photos/a.jpg", SHA) == Word(("dog",), ())


@pytest.mark.servers
def test_a_bad_record_is_named_in_the_log(on_kafka: OnKafka, caplog: pytest.LogCaptureFixture) -> None:
    on_kafka.produce(CorrectionRecord(b"k", b"{"))
    on_kafka.log.catch_up(bool)
    assert f"{on_kafka.topic}:" in caplog.text
    assert "is an invalid correction, ignored" in caplog.text


@pytest.mark.servers
def test_more_than_may_be_held_ends_it_with_the_setting_named(on_kafka: OnKafka) -> None:
    on_kafka.produce(*(correction("photos", f"{n}.jpg", added=[f"tag {i}" for i in range(200)]) for n in range(50)))
    with pytest.raises(Misconfigured, match="TAGSTREAM_MEMORY"):
        on_kafka.log.catch_up(bool)


@pytest.mark.servers
def test_a_topic_that_does_not_exist_is_said(kafka: ApacheKafka, unique: Unique) -> None:
    log = KafkaCorrections(kafka.servers, unique("none"), max_bytes=MIB)
    with pytest.raises(Misconfigured, match="does not exist"):
        log.catch_up(bool)


def test_a_stop_is_not_kept_waiting_by_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_reader, "_CONNECT_S", 0.5)
    asked = iter([False, True, True])
    KafkaCorrections("127.0.0.1:1", "corrections", max_bytes=MIB).catch_up(lambda: next(asked))
