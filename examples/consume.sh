#!/bin/sh
# Shows each image's tags and caption.
#
#   TAGSTREAM_KAFKA_SERVERS=kafka:9092 ./consume.sh                                      # what comes, until Ctrl-C
#   TAGSTREAM_KAFKA_SERVERS=kafka:9092 ./consume.sh --from-beginning --max-messages 10   # or other options of Kafka's
#
# Needs jq, and kafka-console-consumer.sh from the bin/ of any Kafka on the PATH. Without read_committed outcomes that
# were never committed are shown too. Shown as they come: an index keeps of each document_id the greatest version.
set -eu
kafka-console-consumer.sh --bootstrap-server "$TAGSTREAM_KAFKA_SERVERS" --topic "${TOPIC:-images.enriched}" \
    --isolation-level read_committed "$@" |
    jq -r --unbuffered 'select(.schema? // "" | startswith("enriched-image/"))
        | [.subject, ([.tags[] | "\(.name) \(.score * 100 | round / 100)"] | join(", ")), .caption.text] | @tsv'
