#!/bin/sh
# Sends an image event for each object named: the worker then tags and captions it.
#
#   TAGSTREAM_KAFKA_SERVERS=kafka:9092 ./produce.sh photos 2026/cat.jpg 2026/dog.jpg
#
# Needs jq, and kafka-console-producer.sh from the bin/ of any Kafka on the PATH (from 5.0 on, its --property is
# --reader-property). The key of a record is bucket/key, so that all that is said of one object stays in order. An
# object whose key has a tab or a line break needs another client.
set -eu
[ $# -ge 2 ] || { echo "usage: ./produce.sh BUCKET KEY [KEY ...]" >&2; exit 1; }
bucket=$1
shift
for key in "$@"; do
    jq -nr --arg id "$(cat /proc/sys/kernel/random/uuid)" --arg bucket "$bucket" --arg key "$key" \
        '"\($bucket)/\($key)\t\({schema: "image-event/1", $id, $bucket, $key} | tojson)"'
done |
    kafka-console-producer.sh --bootstrap-server "$TAGSTREAM_KAFKA_SERVERS" --topic "${TOPIC:-images}" \
        --property parse.key=true
