"""`tagstream skip`: past a record that no version can handle."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from workers.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from workers.backends.kafka import KafkaRecordSource
    from workers.ports import Publisher
    from workers.settings import Settings
    from workers.vocabulary import Epoch, Message, Record

JOIN_S = 30.0
"""How long to wait for the partition to be ours, and for the record."""


def skip(
    record: Annotated[str, typer.Argument(metavar="TOPIC:PARTITION:OFFSET", help="The record, as the log names it.")],
) -> None:
    """Pass one record: it becomes a dead letter ("skipped-by-operator"), and the group goes on behind it.

    For a record that stops every worker by a bug of ours. It must be the next one of its partition. Stop the group's
    workers first: whoever holds the partition would otherwise be asked to give it up.

    tagstream skip images:3:41977
    """
    from workers.settings import read

    topic, partition, offset = parse_place(record)
    Skipping(read(os.environ).require("kafka_servers"), topic, partition, offset).run()
    typer.echo(f"{record} is a dead letter now; the group goes on at offset {offset + 1}")


def parse_place(text: str) -> tuple[str, int, int]:
    """Topic, partition and offset of "images:3:41977".

    Raises:
        Misconfigured: it is not such a text.
    """
    found = re.fullmatch(r"([A-Za-z0-9._-]+):(\d+):(\d+)", text)
    if found is None:
        raise Misconfigured(f"{text!r} is not TOPIC:PARTITION:OFFSET, such as images:3:41977")
    return found[1], int(found[2]), int(found[3])


class Skipping:
    """One short membership of the group, just long enough to publish the dead letter and commit the next offset."""

    def __init__(self, settings: Settings, topic: str, partition: int, offset: int) -> None:
        if topic not in settings.input_topics:
            raise Misconfigured(f"{topic!r} is not among TAGSTREAM_INPUT_TOPICS={','.join(settings.input_topics)}")
        self._settings = settings
        self._topic = topic
        self._partition = partition
        self._offset = offset

    def run(self) -> None:
        """Publish the dead letter and commit the offset behind it, in one transaction.

        Raises:
            Misconfigured: the record is not the next one, or does not exist.
            Unavailable: another member keeps the partition, or a neighbour does not answer.
            Unpublished: the group changed meanwhile; nothing was done.
        """
        from workers.cli.neighbours import publisher, record_source

        source = record_source(self._settings)
        try:
            way_out = publisher(self._settings, source, f"{self._settings.group}-skip-{self._topic}-{self._partition}")
            try:
                self._skip(source, way_out)
            finally:
                way_out.close()
        finally:
            source.close()

    def _skip(self, source: KafkaRecordSource, way_out: Publisher) -> None:
        from workers.vocabulary import Run

        epoch = self._take_partition(source)
        self._require_next(way_out, epoch)
        record = self._read(source, epoch)
        letter = self._dead_letter(record, way_out)
        way_out.publish(Run([letter], {epoch: self._offset + 1}))

    def _take_partition(self, source: KafkaRecordSource) -> Epoch:
        deadline = time.monotonic() + JOIN_S
        while time.monotonic() < deadline:
            for epoch in source.poll(0.2).started:
                if epoch.partition == (self._topic, self._partition):
                    return epoch
        raise Unavailable(
            "kafka",
            f"{self._topic}:{self._partition} did not become ours within {JOIN_S:g} s: it does not exist, or another "
            f"member of the group {self._settings.group!r} keeps it. Stop the workers first",
        )

    def _require_next(self, way_out: Publisher, epoch: Epoch) -> None:
        deadline = time.monotonic() + JOIN_S
        committed = way_out.committed(epoch)
        while committed is None and epoch.current and time.monotonic() < deadline:
            committed = way_out.committed(epoch)
        if committed is None:
            why = way_out.lost.get(epoch, f"the committed offset of {epoch.partition} is not known yet; try again")
            raise Unavailable("kafka", why)
        if committed != self._offset:
            raise Misconfigured(
                f"the next record of {epoch.partition} is {committed}, not {self._offset}: nothing was skipped"
            )

    def _read(self, source: KafkaRecordSource, epoch: Epoch) -> Record:
        source.start(epoch, self._offset)
        deadline = time.monotonic() + JOIN_S
        while time.monotonic() < deadline:
            for record in source.poll(0.2).records:
                if record.epoch is not epoch:
                    continue
                if record.offset == self._offset:
                    return record
                raise Misconfigured(f"{epoch.partition} has no record at {self._offset}; the next is {record.offset}")
        raise Misconfigured(f"{epoch.partition} has no record at {self._offset} (yet)")

    def _dead_letter(self, record: Record, way_out: Publisher) -> Message:
        from schemas.dead_letter import Failure, dead_letter_headers, strip_own_headers, without_nulls
        from workers import __version__
        from workers.vocabulary import Message

        original = without_nulls(record.key, record.value, strip_own_headers(record.headers))
        failure = Failure(index=0, stage="publish", reason="skipped-by-operator", detail="passed by `tagstream skip`")
        topic = self._settings.dead_letter_topic

        def letter(key: bytes, value: bytes, kept: tuple[tuple[str, bytes | None], ...], truncated: bool) -> Message:
            added = dead_letter_headers(
                topic=record.partition.topic,
                partition=record.partition.number,
                offset=record.offset,
                timestamp_ms=record.timestamp_ms,
                failures=[failure],
                attempts=1,
                worker=__version__,
                models={},
                nulls=original.nulls,
                truncated=truncated,
            )
            return Message(topic, key, value, kept + added)

        whole = letter(original.key, original.value, original.headers, False)
        if whole.size <= way_out.max_message_bytes[topic]:
            return whole
        return letter(b"", b"", (), True)
