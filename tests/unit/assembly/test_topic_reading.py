"""Reading a topic to its present end."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from workers.assembly import topic_reading
from workers.assembly.topic_reading import Foreign, drain, read_topic
from workers.cli.terminal import note
from workers.environment import read
from workers.errors import Unavailable
from workers.types import Partition, ReadRecord

PLACE = Partition("t", 0)


def record_at(offset: int) -> ReadRecord:
    return ReadRecord("t", 0, offset, 0, b"k", b"v", ())


@dataclass
class Reading:
    batches: list[int]
    markers: int = 0
    position: int = field(default=0, init=False)
    closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.end = sum(self.batches) + self.markers

    def poll(self, _timeout_s: float) -> list[ReadRecord]:
        if not self.batches:
            self.position = self.end
            return []
        count = self.batches.pop(0)
        self.position += count
        return [record_at(offset) for offset in range(self.position - count, self.position)]

    def left(self) -> dict[Partition, int]:
        return {PLACE: self.end - self.position}

    def positions(self) -> dict[Partition, int]:
        return {PLACE: self.position}

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_error: object) -> None:
        self.closed = True


def test_all_records_are_taken_and_positions_are_kept_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading([1_500, 1_500, 10], markers=2)
    monkeypatch.setattr("workers.assembly.topic_reading.tail", lambda *_topics, **_how: reading)
    taken: list[int] = []
    kept: list[int] = []

    def take(read: ReadRecord) -> None:
        taken.append(read.offset)
        if read.offset % 1_000 == 7:
            raise ValueError("odd")

    settings = read({"TAGSTREAM_KAFKA_SERVERS": "127.0.0.1:9"})
    foreign = read_topic(settings, "t", take, keep=lambda positions: kept.append(positions[PLACE]))
    assert taken == list(range(3_010))
    assert kept == [3_000, 3_012]
    assert (foreign.count, foreign.first) == (4, "t:0:7: odd")
    assert reading.closed


def test_a_partition_that_does_not_move_ends_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_reading, "STALLED_S", 0.05)
    reading = Reading([3])
    reading.end = 5
    monkeypatch.setattr(reading, "poll", lambda _timeout_s: [])
    reading.position = 3
    with pytest.raises(Unavailable, match="t:0 can't be read beyond offset 3"):
        drain(reading, "offsets", print)  # type: ignore[arg-type]  # not a Tail


def test_foreign_records_are_reported_once_with_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    foreign = Foreign()
    assert list(foreign.notes("no outcomes")) == []
    for offset in (4, 5):
        foreign.note(record_at(offset), ValueError("\x1b[2J"))
    note(*foreign.notes("no outcomes"))
    told = capsys.readouterr().err
    assert "2 records" in told
    assert "t:0:4: " in told
    assert "\x1b" not in told
