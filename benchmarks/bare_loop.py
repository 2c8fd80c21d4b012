"""What any Python program would do with kafka-python: read records, write as many messages, and commit both.

    python -m benchmarks.bare_loop SERVERS DELIVERY INPUT OUTPUT BYTES READY

With exactly_once the messages and their offsets are a transaction; with at_least_once the offsets are committed after
them. READY is the file that it makes once it reads. It goes on until it is killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kafka import KafkaConsumer, KafkaProducer
from kafka.structs import OffsetAndMetadata

TRANSACTION = 500
"""Records in a transaction; as many as the worker puts into one at most."""


def main(servers: str, delivery: str, read: str, written: str, size: str, ready: str) -> None:
    transactional = delivery == "exactly_once"
    consumer = KafkaConsumer(
        read,
        bootstrap_servers=servers,
        group_id=read,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    producer = KafkaProducer(
        bootstrap_servers=servers,
        transactional_id=read if transactional else None,
        acks="all",
        linger_ms=2,
        retry_backoff_ms=15,  # the default makes every transaction wait in steps of 100 ms for the one before
    )
    if transactional:
        producer.init_transactions()
    while not consumer.assignment():
        consumer.poll(timeout_ms=100, max_records=1)
    consumer.seek_to_beginning()
    Path(ready).touch()
    value = b"x" * int(size)
    while True:
        batches = consumer.poll(timeout_ms=1_000, max_records=TRANSACTION)
        if not batches:
            continue
        if transactional:
            producer.begin_transaction()
        for partition, records in batches.items():
            for record in records:
                producer.send(written, value, record.key, partition=partition.partition)
        offsets = {at: OffsetAndMetadata(records[-1].offset + 1, "", -1) for at, records in batches.items()}
        if transactional:
            producer.send_offsets_to_transaction(offsets, consumer.group_metadata())
            producer.commit_transaction()
        else:
            producer.flush()
            consumer.commit(offsets)


if __name__ == "__main__":
    main(*sys.argv[1:])
