"""The compose file's worker, collector and Prometheus, run here with their own commands and files: from an image to its
trace, and from its latency back to that trace. A receiver of ours takes Jaeger's place."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tests.dashboards.composed import ComposedCollector, ComposedPrometheus
from tests.fixtures import up_or_skip
from tests.integration.deploy.composed import ComposedKafka, ComposedWorker, composed_servers, send_a_photo
from tests.support.otlp import Received, otlp_receiver
from tests.support.waiting import eventually

pytestmark = [pytest.mark.dashboards, pytest.mark.servers, pytest.mark.timeout(300)]


class Observed(NamedTuple):
    event_id: str
    received: Received
    prometheus: ComposedPrometheus


@pytest.fixture(scope="module")
def broker(scratch: Scratch) -> Iterator[ComposedKafka]:
    yield from up_or_skip(ComposedKafka(scratch.path / "observed-kafka"))


@pytest.fixture(scope="module")
def observed(broker: ComposedKafka, s3: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    with otlp_receiver() as received, composed_servers(broker, s3, folder) as addresses:
        jaeger = {"jaeger:4318": received.url.removeprefix("http://")}
        with ComposedCollector(folder / "collector", jaeger) as collector:
            otlp, own = (f"127.0.0.1:{port}" for port in collector.ports)
            addresses |= {"collector:4318": otlp, "collector:8888": own}
            with ComposedWorker(folder / "worker", addresses, observed=True) as worker:
                scraped = worker.url.removeprefix("http://")
                with ComposedPrometheus(folder / "prometheus", addresses, scraped) as prometheus:
                    event_id = send_a_photo(addresses, s3, "cat.jpg")
                    eventually(lambda: bool(received.about("tagstream.event_id", event_id)), 90, worker.log_tail)
                    yield Observed(event_id, received, prometheus)


def asked(observed: Observed, query: str) -> list[Any]:
    return list(observed.prometheus.ask("query", query=query)["result"])


def soon(observed: Observed, holds: Callable[[], bool]) -> None:
    eventually(holds, 60, observed.prometheus.log_tail)


def test_an_images_trace_goes_through_the_collector(observed: Observed) -> None:
    [image] = observed.received.about("tagstream.event_id", observed.event_id)
    assert (image.name, image.attributes["tagstream.subject"]) == ("annotate image", "photos/cat.jpg")
    assert observed.received.paths == ["/v1/traces"] * len(observed.received.paths)


def test_prometheus_scrapes_the_worker_and_the_collector(observed: Observed) -> None:
    soon(observed, lambda: len(asked(observed, 'up{job=~"tagstream|collector"} == 1')) == 2)
    soon(observed, lambda: bool(asked(observed, 'tagstream_outcomes_total{kind="enriched"} >= 1')))
    soon(observed, lambda: bool(asked(observed, "otelcol_receiver_accepted_spans >= 1")))


def test_a_latency_in_prometheus_leads_to_the_images_trace(observed: Observed) -> None:
    [image] = observed.received.about("tagstream.event_id", observed.event_id)

    def traces() -> set[str]:
        found = observed.prometheus.ask(
            "query_exemplars",
            query='messaging_process_duration_seconds_bucket{job="tagstream"}',
            start="0",
            end="9999999999",
        )
        return {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}

    soon(observed, lambda: traces() == {image.trace_id})


def test_the_rules_of_the_project_are_loaded(observed: Observed) -> None:
    groups = observed.prometheus.ask("rules")["groups"]
    assert [rule for group in groups for rule in group["rules"] if rule["type"] == "alerting"]
