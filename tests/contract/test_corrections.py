"""The port of corrections, on the fake in memory and on a topic."""

from collections.abc import Iterator

import pytest

from schemas.correction import CorrectionRecord, Word, correction, withdrawal
from tagstream_testing.memory import MemoryCorrections
from tests.fixtures import Unique
from tests.support.waiting import eventually
from workers.backends.kafka import KafkaEmitter, ensure_topics
from workers.backends.kafka import reader as kafka_reader
from workers.backends.kafka.corrections import KafkaCorrections
from workers.errors import Misconfigured
from workers.ports import CorrectionLog

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


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.servers)])
def world(request: pytest.FixtureRequest, unique: Unique) -> Iterator[OnKafka | InMemory]:
    made = (
        InMemory()
        if request.param == "memory"
        else OnKafka(request.getfixturevalue("kafka").servers, unique("corrections"))
    )
    yield made
    made.log.close()


def never() -> bool:
    return False


def test_all_earlier_corrections_are_known_once_it_caught_up(world: OnKafka | InMemory) -> None:
    world.produce(
        *(correction("photos", f"{n}.jpg", added=["dog"], removed=["cat"]) for n in range(50)),
        correction("photos", "7.jpg", removed=["dog"], by="ann"),
        withdrawal("photos", "8.jpg"),
    )
    log: CorrectionLog = world.log
    log.catch_up(never)
    assert log.on("photos/6.jpg", SHA) == Word(("dog",), ("cat",))
    assert log.on("photos/7.jpg", SHA) == Word((), ("cat", "dog"), ("ann",))
    assert log.on("photos/8.jpg", SHA) is None


def test_later_corrections_are_followed_and_nothing_is_read_twice(world: OnKafka | InMemory) -> None:
    world.produce(correction("photos", "a.jpg", added=["dog"]))
    world.log.catch_up(never)
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
    world.log.catch_up(never)
    assert world.log.on("photos/a.jpg", SHA) == Word(("dog",), ())


@pytest.mark.servers
def test_a_bad_record_is_named_in_the_log(kafka: object, unique: Unique, caplog: pytest.LogCaptureFixture) -> None:
    world = OnKafka(kafka.servers, unique("corrections"))  # type: ignore[attr-defined]
    world.produce(CorrectionRecord(b"k", b"{"))
    world.log.catch_up(never)
    assert f"{world.topic}:" in caplog.text
    assert "is an invalid correction, ignored" in caplog.text


@pytest.mark.servers
def test_more_than_may_be_held_ends_it_with_the_setting_named(kafka: object, unique: Unique) -> None:
    world = OnKafka(kafka.servers, unique("corrections"))  # type: ignore[attr-defined]
    world.produce(*(correction("photos", f"{n}.jpg", added=[f"tag {i}" for i in range(200)]) for n in range(50)))
    with pytest.raises(Misconfigured, match="TAGSTREAM_MEMORY"):
        world.log.catch_up(never)


@pytest.mark.servers
def test_a_topic_that_does_not_exist_is_said(kafka: object, unique: Unique) -> None:
    log = KafkaCorrections(kafka.servers, unique("none"), max_bytes=MIB)  # type: ignore[attr-defined]
    with pytest.raises(Misconfigured, match="does not exist"):
        log.catch_up(never)


def test_a_stop_is_not_kept_waiting_by_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_reader, "_CONNECT_S", 0.5)
    asked = iter([False, True, True])
    KafkaCorrections("127.0.0.1:1", "corrections", max_bytes=MIB).catch_up(lambda: next(asked))
