"""What a worker reads, works on and sends is measured under the names of OpenTelemetry's messaging conventions."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
from tests.support.harness import Harness
from workers.service.telemetry import make_telemetry
from tagstream_testing.memory_broker import Fault

telemetry = make_telemetry(instance="w", version="1", otlp_traces=False, otlp_metrics=False)
telemetry.install()
harness = Harness(partitions=1)
harness.broker.fail_next(Fault.SEND)
harness.put("0.png", (255, 0, 0))
harness.send(harness.event("0.png"))
harness.send(b"of no form")
with harness.running():
    harness.settled()
print(telemetry.metrics_page().decode())
telemetry.close()
"""
"""In a process of its own: a meter provider is set once."""

KAFKAS_OWN = (
    "-W",
    "ignore:read_text is deprecated:DeprecationWarning",
    "-W",
    "ignore:open_text is deprecated:DeprecationWarning",
)
"""kafka-python reads its protocol files so while it is imported."""
KAFKA = 'messaging_system="kafka"'


@pytest.fixture(scope="module")
def page() -> list[str]:
    run = subprocess.run(
        [sys.executable, "-W", "error", *KAFKAS_OWN, "-c", PROGRAM], check=True, capture_output=True, timeout=120
    )
    return run.stdout.decode().splitlines()


def labels(page: list[str], name: str, *but: str) -> set[frozenset[str]]:
    """The sets of labels that a metric has samples for, without those named and without the empty ones, which to
    Prometheus are none."""
    found = [
        line.removeprefix(name + "{").rpartition("}")[0].split(",") for line in page if line.startswith(name + "{")
    ]
    return {
        frozenset(label for label in labels if label.partition("=")[0] not in but and not label.endswith('=""'))
        for labels in found
    }


def value(page: list[str], name: str, **wanted: str) -> float:
    """The sum of a metric's samples with these labels."""
    lines = [line for line in page if line.startswith(name + "{")]
    of = [line for line in lines if all(f'{label}="{value}"' in line for label, value in wanted.items())]
    return sum(float(line.rpartition(" ")[2]) for line in of)


def test_each_record_is_measured_from_its_arrival_to_its_commit(page: list[str]) -> None:
    name = "messaging_process_duration_seconds_count"
    assert value(page, name) == 2
    assert labels(page, name) == {
        frozenset(
            {
                KAFKA,
                'messaging_operation_name="process"',
                'messaging_destination_name="images"',
                'messaging_consumer_group_name="tagstream"',
            }
        )
    }


def test_messages_are_counted_by_topic_and_again_with_the_error_of_a_transaction_that_failed(page: list[str]) -> None:
    name = "messaging_client_sent_messages_total"
    send = {KAFKA, 'messaging_operation_name="send"'}
    assert labels(page, name, "messaging_destination_name", "error_type") == {frozenset(send)}
    assert value(page, name, error_type="send") >= 1
    assert value(page, name) - value(page, name, error_type="send") == 2
    assert value(page, name, messaging_destination_name="images.enriched", error_type="") == 1
    assert value(page, name, messaging_destination_name="images.dead-letters", error_type="") == 1


def test_each_transaction_is_measured_with_its_error_if_it_failed(page: list[str]) -> None:
    name = "messaging_client_operation_duration_seconds_count"
    publish = {KAFKA, 'messaging_operation_name="publish"', 'messaging_operation_type="send"'}
    assert labels(page, name) == {frozenset(publish), frozenset({*publish, 'error_type="send"'})}
    assert value(page, name, error_type="send") == 1
