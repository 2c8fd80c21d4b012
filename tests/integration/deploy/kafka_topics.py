"""Replaces Kafka's kafka-topics.sh: makes a topic, and accepts only the options that our files use."""

import argparse

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--bootstrap-server", required=True)
    parser.add_argument("--create", action="store_true", required=True)
    parser.add_argument("--if-not-exists", action="store_true")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--config", action="append", default=[])
    wanted = parser.parse_args()
    topic = NewTopic(wanted.topic, wanted.partitions, config=dict(each.split("=", 1) for each in wanted.config))
    admin = AdminClient({"bootstrap.servers": wanted.bootstrap_server})
    (made,) = admin.create_topics([topic]).values()
    try:
        made.result(30)
    except KafkaException as error:
        if not (wanted.if_not_exists and error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS):
            raise


if __name__ == "__main__":
    main()
