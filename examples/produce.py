"""Sends an image event for each object named: the worker then tags and captions it.

    pip install confluent-kafka
    TAGSTREAM_KAFKA_SERVERS=kafka:9092 python produce.py photos 2026/cat.jpg 2026/dog.jpg

The key of a record is `bucket/key`, so that all that is said of one object stays in order.
"""

import json
import os
import sys
import uuid

from confluent_kafka import KafkaError, Message, Producer

TOPIC = os.environ.get("TOPIC", "images")


def main(bucket: str, keys: list[str]) -> int:
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failures.append(error)
            print(f"{(message.key() or b'').decode()}: {error.str()}", file=sys.stderr)

    producer = Producer(
        {
            "bootstrap.servers": os.environ["TAGSTREAM_KAFKA_SERVERS"],
            "enable.idempotence": True,
            "reconnect.backoff.ms": 2_000,  # while no broker answers, a line for each try
        }
    )
    for key in keys:
        event = {"schema": "image-event/1", "id": str(uuid.uuid4()), "bucket": bucket, "key": key}
        producer.produce(TOPIC, json.dumps(event), key=f"{bucket}/{key}", on_delivery=delivered)
    waiting = producer.flush(60)
    print(f"{len(keys) - len(failures) - waiting} of {len(keys)} events are in the topic {TOPIC}")
    return 1 if failures or waiting else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python produce.py BUCKET KEY [KEY ...]")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
