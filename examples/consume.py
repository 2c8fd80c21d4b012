"""Shows each image's tags and caption, as an indexer would store them.

    pip install confluent-kafka
    TAGSTREAM_KAFKA_SERVERS=kafka:9092 python consume.py               # until Ctrl-C
    TAGSTREAM_KAFKA_SERVERS=kafka:9092 python consume.py --until-end   # what is there now

`isolation.level=read_committed` leaves out what was never committed. What is older than what was shown before is passed
over, by `version`: schemas/README.md has the whole rule.
"""

import json
import os
import sys
from urllib.parse import quote

from confluent_kafka import Consumer, KafkaError, KafkaException

TOPIC = os.environ.get("TOPIC", "images.enriched")


def line(output: dict) -> str | None:
    """What to show of a message; None for kinds that this program does not know."""
    kind = output["schema"].partition("/")[0]
    if kind == "enriched-image":
        tags = ", ".join(f"{tag['name']} {tag['score']:.2f}" for tag in output["tags"])
        caption = output["caption"]["text"] if output["caption"] else ""
        return f"{output['subject']}\t{tags}\t{caption}"
    if kind == "image-retraction":
        return f"{output['subject']}\tremoved" + (" in one version" if output["scope"] == "version" else "")
    return None


def is_newest(output: dict, newest: dict[str, int]) -> bool:
    """Whether nothing newer came before it.

    Args:
        newest: the greatest version of each document. An index keeps it there, also once the document is gone.
    """
    key, version, source = output.get("document_id", output["subject"]), output.get("version", 0), output["source"]
    known = newest.get(key, 0)
    newest[key] = max(known, version)
    if "image" in output:  # the version of the object that it was made of may be gone
        made_of = quote(source["version_id"] or "null", safe="")
        known = max(known, newest.get(f"{source['bucket']}?versionId={made_of}/{source['key']}", 0))
    return version >= known


def main(until_end: bool) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["TAGSTREAM_KAFKA_SERVERS"],
            "group.id": os.environ.get("GROUP", "my-indexer"),
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": until_end,
            "reconnect.backoff.ms": 2_000,  # while no broker answers, a line for each try
        }
    )
    consumer.subscribe([TOPIC])
    ended: set[int] = set()
    newest: dict[str, int] = {}
    try:
        while not (until_end and ended and ended == {place.partition for place in consumer.assignment()}):
            message = consumer.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
                continue
            if error is not None:
                raise KafkaException(error)
            output = json.loads(message.value() or b"null")  # null: a tombstone, behind the retraction that said it
            shown = None if output is None else line(output)
            if shown is not None and is_newest(output, newest):
                print(shown, flush=True)  # an indexer writes here, and commits only then
            consumer.commit(message)
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()


if __name__ == "__main__":
    main("--until-end" in sys.argv[1:])
