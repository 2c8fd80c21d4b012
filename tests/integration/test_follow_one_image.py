"""One query by an image's id or key finds its spans and the lines of the log about it."""

import json
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.fixtures import Stack
from tests.support.otlp import Received, otlp_receiver
from tests.support.worker_process import Site, WorkerProcess, photo, worker

pytestmark = pytest.mark.servers

LOG = {"TAGSTREAM_LOG_FORMAT": "json", "TAGSTREAM_LOG_LEVEL": "debug"}


class Followed(NamedTuple):
    site: Site
    received: Received
    lines: list[dict[str, Any]]

    def said_of(self, field: str, value: str) -> list[str]:
        """The messages of those lines that have a value in a field, or in the list of that field."""
        return [line["message"] for line in self.lines if value in _listed(line.get(field))]


@pytest.fixture(scope="module")
def followed(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    site = Site(stack, f"followed-{uuid.uuid4().hex[:8]}")
    site.upload("sound.jpg", photo(uuid.uuid4().int % 10**6))  # which no other test has put into the cache
    site.upload("broken.jpg", photo(2)[:300])
    site.send([(site.own("sound.jpg"), ()), (site.own("broken.jpg"), ())])
    with otlp_receiver() as received:
        settings = {**LOG, "OTEL_EXPORTER_OTLP_ENDPOINT": received.url, "OTEL_METRICS_EXPORTER": "none"}
        with worker(site, "w", tmp_path_factory.mktemp("followed"), **settings) as process:
            process.finish()
        yield Followed(site, received, lines_of(process))


def lines_of(process: WorkerProcess) -> list[dict[str, Any]]:
    """Its log: JSON except for lines that Python writes before the log is started."""
    return [json.loads(line) for line in process.said().splitlines() if line.startswith("{")]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_an_events_id_finds_its_trace_its_batch_and_every_line_about_it(followed: Followed) -> None:
    [image] = followed.received.about("tagstream.event_id", "id-sound.jpg")
    [batch] = followed.received.about("tagstream.event_ids", "id-sound.jpg")
    assert (image.name, image.service, image.attributes["tagstream.end"]) == ("annotate image", "tagstream", "done")
    assert image.span_id in batch.links
    admitted, done = followed.said_of("tagstream.event_id", "id-sound.jpg")
    assert admitted.endswith("is admitted")
    assert "is done: enriched" in done
    _, broken = followed.said_of("tagstream.event_id", "id-broken.jpg")
    assert "dead letter, broken-image in decode" in broken


def test_a_key_finds_the_same_as_the_id_where_debug_lines_are_written(followed: Followed) -> None:
    subject = f"{followed.site.name}/broken.jpg"
    assert followed.said_of("tagstream.subject", subject) == followed.said_of("tagstream.event_id", "id-broken.jpg")
    assert followed.received.about("tagstream.subject", subject) == followed.received.about(
        "tagstream.event_id", "id-broken.jpg"
    )
    told = [line for line in followed.lines if "broken.jpg" in json.dumps(line) and line["level"] != "debug"]
    assert all("tagstream.subject" not in line for line in told)


def test_log_trace_and_outcome_name_the_same_trace(followed: Followed) -> None:
    [image] = followed.received.about("tagstream.event_id", "id-sound.jpg")
    [seen] = followed.site.read(followed.site.enriched)
    assert (dict(seen.headers)["traceparent"] or b"").split(b"-")[1:3] == [
        image.trace_id.encode(),
        image.span_id.encode(),
    ]
    lines = [line for line in followed.lines if line.get("trace_id") == image.trace_id]
    assert {line["tagstream.event_id"] for line in lines} == {"id-sound.jpg"}
    place = (lines[0]["tagstream.topic"], lines[0]["tagstream.partition"], lines[0]["tagstream.offset"])
    attributes = image.attributes
    assert place == (
        attributes["messaging.destination.name"],
        int(attributes["messaging.destination.partition.id"]),
        attributes["messaging.kafka.offset"],
    )
