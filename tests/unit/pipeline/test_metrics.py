"""Metrics: gauges, drift, stage times, and OpenTelemetry's names for messages."""

import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, get_args

import pytest
from opentelemetry.metrics import CallbackOptions

from schemas.dead_letter import REASONS, REASONS_OF
from schemas.enriched_image import SkipReason
from tagstream_testing.memory import ManualClock
from tagstream_testing.memory_broker import Fault
from tests.support.harness import BUCKET, ColourTagger, EchoCaptioner, Harness
from tests.support.kinds import BrightnessKind, BrightnessModel
from tests.support.manual_pipeline import ManualPipeline
from tests.support.measured import measuring
from tests.support.tasks import a_task
from tests.support.waiting import eventually
from workers import metrics
from workers.backends.result_cache import ProbingBreaker
from workers.errors import Unavailable
from workers.pipeline.activity import HeldUp, age_of
from workers.pipeline.commit.after_commit import NUMBERS_OF_TAGS, NUMBERS_OF_WORDS, TENTHS, Drift
from workers.pipeline.commit.ledger import Entry, Rendered
from workers.pipeline.kind_role import KindRole
from workers.pipeline.rendering import content_of
from workers.pipeline.roles import make_roles
from workers.pipeline.stages.finish import EACH_S, StageTimes
from workers.pipeline.task import Task
from workers.types import Assignment, Content, Partition, Record

Shown = dict[tuple[str, ...], float]


def look(gauge: metrics.ObservedGauge) -> Shown:
    seen = gauge._observe(CallbackOptions())
    return {tuple(str(v) for v in (o.attributes or {}).values()): o.value for o in seen}


@pytest.fixture
def harness() -> Harness:
    harness = Harness()
    for number in range(20):
        harness.put(f"{number}.png", (number, 0, 200))
    return harness


def test_a_worker_shows_where_its_images_and_partitions_are_and_nothing_after_its_end(harness: Harness) -> None:
    harness.tagger.gate.clear()
    with harness.running(polled_bytes=5_000, jobs_ahead=3):
        for number in range(20):
            harness.send(harness.event(f"{number}.png"), partition=0)
        harness.tagger.waiting.wait(10)
        eventually(lambda: look(metrics.LEDGER_RECORDS) == {(): 3})
        assert sum(look(metrics.IN_FLIGHT).values()) == 3
        assert look(metrics.READY) == {(): True}
        assert look(metrics.BUDGET_LIMIT_BYTES) == {("encoded",): 256 << 20, ("decoded",): 512 << 20}
        assert look(metrics.BUDGET_BYTES)["decoded",] > 0
        assert look(metrics.BUDGET_PEAK_BYTES)["encoded",] > 0
        eventually(lambda: look(metrics.PARTITIONS) == {("reading",): 1, ("paused",): 1, ("opening",): 0})
        harness.tagger.gate.set()
        harness.settled()
        eventually(lambda: look(metrics.LEDGER_RECORDS) == {(): 0})
    for gauge in (metrics.IN_FLIGHT, metrics.PARTITIONS, metrics.LEDGER_RECORDS, metrics.READY, metrics.BUDGET_BYTES):
        assert look(gauge) == {}


def test_a_worker_tells_which_partition_an_open_transaction_holds_up(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("workers.pipeline.worker.HeldUp", partial(HeldUp, after_s=0.1))
    monkeypatch.setattr("workers.pipeline.worker._WATCH_S", 0.01)
    caplog.set_level("INFO", "workers.pipeline.activity")
    abort = harness.broker.append_open("images", 0, b"k", b"open")
    harness.send(harness.event("1.png"), partition=0)
    harness.send(harness.event("0.png"), partition=1)
    with harness.running() as worker:
        eventually(lambda: look(metrics.HELD_UP_SECONDS).get(("images", "0", "live"), 0) > 0.1)
        assert look(metrics.HELD_UP_SECONDS)["images", "1", "live"] == 0
        eventually(lambda: [line.split()[0] for line in worker.notices()] == ["images:0"])
        assert worker.unready() is None
        assert look(metrics.LAG_RECORDS)["images", "0", "live"] == 2
        eventually(lambda: "images:0 is held up" in caplog.text)
        abort()
        eventually(lambda: "images:0 is no longer held up" in caplog.text)
        assert not worker.notices()
        assert caplog.text.count("images:0 is held up by") == 1
        eventually(lambda: look(metrics.LAG_RECORDS) == {("images", "0", "live"): 0, ("images", "1", "live"): 0})
        assert look(metrics.HELD_UP_SECONDS) == {("images", "0", "live"): 0, ("images", "1", "live"): 0}


def test_a_worker_shows_how_far_each_of_its_partitions_is_behind(harness: Harness) -> None:
    harness.tagger.gate.clear()
    with harness.running(jobs_ahead=3):
        for number in range(20):
            harness.send(harness.event(f"{number}.png"), partition=0)
        harness.tagger.waiting.wait(10)
        eventually(lambda: look(metrics.LAG_RECORDS) == {("images", "0", "live"): 20, ("images", "1", "live"): 0})
        eventually(lambda: look(metrics.LAG_SECONDS)["images", "0", "live"] > 0.02)
        assert look(metrics.LAG_SECONDS)["images", "0", "live"] < 60
        assert look(metrics.LAG_SECONDS)["images", "1", "live"] == 0
        assert look(metrics.COMMITTED_OFFSET) == {("images", "0", "live"): 0, ("images", "1", "live"): 0}
        harness.tagger.gate.set()
        harness.settled()
        eventually(lambda: look(metrics.COMMITTED_OFFSET) == {("images", "0", "live"): 20, ("images", "1", "live"): 0})
        assert set(look(metrics.LAG_RECORDS).values()) == set(look(metrics.LAG_SECONDS).values()) == {0}
    for gauge in (metrics.LAG_RECORDS, metrics.LAG_SECONDS, metrics.COMMITTED_OFFSET):
        assert look(gauge) == {}


@pytest.mark.parametrize(
    ("made_at_s", "appended", "age_s"),
    [(940.0, True, 60.0), (1000.0, True, 0.0), (1060.0, True, 5.0), (940.0, False, 5.0), (0.001, False, 5.0)],
    ids=["an older one", "a new one", "one that is still to come", "a producer's time", "a false time"],
)
def test_the_age_of_a_record_is_by_the_brokers_time_or_our_own(made_at_s: float, appended: bool, age_s: float) -> None:
    clock = ManualClock(wall=995.0)
    taken_at = clock.monotonic()
    clock.advance(5.0)
    partition = Partition("images", 0)
    made_at_ms = int(made_at_s * 1000)
    record = Record(partition, 7, made_at_ms, None, b"", (), Assignment(partition, "m"), append_time=appended)
    assert age_of(Entry(record, taken_at), clock) == pytest.approx(age_s)
    assert age_of(None, clock) == 0


def test_the_breakers_of_the_object_store_are_counted_by_state(harness: Harness) -> None:
    harness.store.fail(BUCKET, None, Unavailable("s3", "away"))
    with harness.running(retry_max_s=0.2):
        for number in range(20):
            harness.send(harness.event(f"{number}.png"), partition=number % 2)

        def states() -> tuple[float, ...]:
            shown = look(metrics.BREAKERS)
            return tuple(shown["s3", state] for state in ("closed", "open", "half-open"))

        eventually(lambda: bool(look(metrics.BREAKERS)) and states()[0] == 0 and sum(states()) == 1)
        harness.store.heal()
        harness.settled()
        assert states() == (1, 0, 0)


def test_the_caches_breaker_is_shown_with_the_buckets_breakers() -> None:
    breaker = ProbingBreaker("x", lambda: False, first_pause_s=0.01)
    try:
        assert look(metrics.BREAKERS) == {("redis", "closed"): 1, ("redis", "open"): 0, ("redis", "half-open"): 0}
        breaker.failure("why")
        assert look(metrics.BREAKERS)["redis", "closed"] == 0
    finally:
        breaker.close()
    assert look(metrics.BREAKERS) == {}


COUNTED = (metrics.TAGGED_IMAGES, metrics.TAGS, metrics.CAPTIONED_IMAGES)
TAGGER = "colours cccccccccccc"


def not_empty(counts: Mapping[str, float]) -> dict[str, float]:
    return {name: count for name, count in counts.items() if count}


def test_scores_are_in_tenths_rounded_down_and_a_persons_tags_are_left_out() -> None:
    tags: list[dict[str, Any]] = [
        {"score": 1.0},
        {"score": 0.999},
        {"score": 0.35},
        {"score": 0.0},
        {"score": 1.0, "source": "person"},
    ]
    assert content_of(tags, None) == Content(bytes([9, 9, 3, 0]), None)


def test_an_image_without_a_wish_for_tags_does_not_count_as_untagged() -> None:
    assert content_of(None, {"text": ""}) == Content(None, 0)
    assert content_of((), {"text": " a red  cat"}) == Content(b"", 3)


@pytest.mark.parametrize(
    ("tags", "of"),
    [
        (0, "00"),
        (1, "01"),
        (3, "02"),
        (7, "04"),
        (63, "32"),
        (64, "64"),
        (4_585, "64"),
    ],
)
def test_an_image_is_counted_in_the_class_that_its_number_of_tags_has_reached(tags: int, of: str) -> None:
    with measuring(*COUNTED) as measured:
        drift = Drift(make_roles({"tagger": ColourTagger()}))
        drift.count([Rendered(None, "enriched", content=Content(bytes([4] * tags), None))])
        assert not_empty(measured.by("tags", metrics.TAGGED_IMAGES, model=TAGGER)) == {of: 1}
        assert not_empty(measured.by("score", metrics.TAGS)) == ({"0.4": tags} if tags else {})


class WordsOfBright(BrightnessKind):
    def words(self, result: dict[str, Any]) -> str:
        return "" if result["text"] == "dark" else "very\nbright one"


def test_results_of_a_role_are_counted_by_their_words() -> None:
    harness = Harness(partitions=1)
    harness.added = (KindRole(WordsOfBright(), BrightnessModel()),)
    for name, colour in {"grey": (200, 180, 190), "black": (0, 0, 0)}.items():
        harness.put(name, colour)
    with measuring(metrics.ADDED_RESULTS) as measured, harness.running():
        for name in ("grey", "black", "grey"):
            harness.send(harness.event(name, options={"want": ["brightness"]}))
        harness.send(harness.event("grey"))
        harness.settled()
        named = f"bright {BrightnessModel().digest[:12]}"
        found = measured.by("words", metrics.ADDED_RESULTS, role="brightness", model=named)
        assert found == dict.fromkeys(NUMBERS_OF_WORDS.values(), 0) | {"00": 1, "01": 2}


def test_classes_sort_by_their_names() -> None:
    for classes in (NUMBERS_OF_TAGS, NUMBERS_OF_WORDS, TENTHS):
        assert [name for _, name in sorted(classes.items())] == sorted(classes.values())


def test_every_class_is_shown_before_the_first_image() -> None:
    """A rate needs a value before the first image, or it begins with the second."""
    with measuring(*COUNTED) as measured:
        Drift(make_roles({"tagger": ColourTagger(), "captioner": EchoCaptioner()}))
        assert measured.by("tags", metrics.TAGGED_IMAGES) == dict.fromkeys(NUMBERS_OF_TAGS.values(), 0)
        assert measured.by("score", metrics.TAGS) == {f"0.{tenth}": 0 for tenth in range(10)}
        words = measured.by("words", metrics.CAPTIONED_IMAGES, model="echo eeeeeeeeeeee")
        assert words == dict.fromkeys(NUMBERS_OF_WORDS.values(), 0)


def test_a_worker_counts_each_committed_outcome_once() -> None:
    harness = Harness(partitions=1)
    colours: dict[str, Any] = {"red": (255, 0, 0), "pink": (255, 0, 200), "black": (0, 0, 0)}
    for name, colour in colours.items():
        harness.put(name, colour)
    harness.broker.fail_next(Fault.SEND)
    with measuring(*COUNTED) as measured, harness.running():
        for name in colours:
            harness.send(harness.event(name))
        harness.send(harness.event("red", options={"want": ["caption"]}))
        harness.send(harness.event("missing"))
        harness.settled()
        assert not_empty(measured.by("tags", metrics.TAGGED_IMAGES)) == {"00": 1, "01": 1, "02": 1}
        assert not_empty(measured.by("score", metrics.TAGS)) == {"0.7": 1, "0.9": 2}
        # "red" twice, "red and blue", and "nothing"
        assert not_empty(measured.by("words", metrics.CAPTIONED_IMAGES, model="template")) == {"01": 4}


def test_background_records_are_measured_as_such_and_show_no_drift() -> None:
    harness = Harness(partitions=1)
    harness.give("red", (255, 0, 0))
    with measuring(*COUNTED, metrics.PROCESS_SECONDS) as measured, harness.running(background=frozenset({"images"})):
        harness.settled()
        eventually(lambda: measured.by("lane", metrics.PROCESS_SECONDS) == {"background": 1})
        for gauge in (metrics.LAG_RECORDS, metrics.LAG_SECONDS, metrics.HELD_UP_SECONDS, metrics.COMMITTED_OFFSET):
            assert look(gauge).keys() == {("images", "0", "background")}
        assert not_empty(measured.by("tags", metrics.TAGGED_IMAGES)) == {}


def test_one_transaction_is_counted_with_one_call_for_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    drift = Drift(make_roles({"tagger": ColourTagger()}))
    calls: list[str] = []
    for metric in COUNTED:
        monkeypatch.setattr(metric, "add", lambda count, **labels: calls.append(f"{count} {labels}"))
    drift.count([Rendered(None, "enriched", content=Content(bytes([3, 9]), 5))] * 500)
    assert len(calls) == 4


PROGRAM = """
from tests.support.harness import Harness
from workers.service.telemetry import make_telemetry
from tagstream_testing.memory_broker import Fault

telemetry = make_telemetry(instance="w", version="1", otlp_traces=False, otlp_metrics=False)
telemetry.install()
harness = Harness(partitions=1)
harness.broker.fail_next(Fault.SEND)
harness.give("0.png", (255, 0, 0))
harness.send(b"of no form")
harness.work()
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
    """The sets of labels with samples of a metric, without the named and the empty ones."""
    found = [
        line.removeprefix(name + "{").rpartition("}")[0].split(",") for line in page if line.startswith(name + "{")
    ]
    return {
        frozenset(label for label in labels if label.partition("=")[0] not in but and not label.endswith('=""'))
        for labels in found
    }


def value(page: list[str], name: str, **wanted: str) -> float:
    lines = [line for line in page if line.startswith(name + "{")]
    of = [line for line in lines if all(f'{label}="{value}"' in line for label, value in wanted.items())]
    return sum(float(line.rpartition(" ")[2]) for line in of)


@pytest.mark.slow
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
                'lane="live"',
            }
        )
    }


@pytest.mark.slow
def test_messages_are_counted_by_topic_and_again_with_the_error_of_a_transaction_that_failed(page: list[str]) -> None:
    name = "messaging_client_sent_messages_total"
    send = {KAFKA, 'messaging_operation_name="send"'}
    assert labels(page, name, "messaging_destination_name", "error_type") == {frozenset(send)}
    assert value(page, name, error_type="send") >= 1
    assert value(page, name) - value(page, name, error_type="send") == 2
    assert value(page, name, messaging_destination_name="images.enriched", error_type="") == 1
    assert value(page, name, messaging_destination_name="images.dead-letters", error_type="") == 1


@pytest.mark.slow
def test_each_transaction_is_measured_with_its_error_if_it_failed(page: list[str]) -> None:
    name = "messaging_client_operation_duration_seconds_count"
    publish = {KAFKA, 'messaging_operation_name="publish"', 'messaging_operation_type="send"'}
    assert labels(page, name) == {frozenset(publish), frozenset({*publish, 'error_type="send"'})}
    assert value(page, name, error_type="send") == 1


def timed(**stages: float) -> Task:
    task = a_task()
    for stage, seconds in stages.items():
        task.took(stage, seconds)
    return task


def test_every_stage_that_an_image_passed_is_measured_and_the_device_by_batches_alone() -> None:
    harness = Harness()
    harness.give("0.png", (255, 0, 0))
    with measuring(metrics.STAGE_SECONDS) as measured, harness.running():
        harness.settled()
        stages = measured.by("stage", metrics.STAGE_SECONDS)
    assert {"lookup", "fetch", "inspect", "decode", "wait-device", "annotate", "finish"} <= stages.keys()
    assert set(stages.values()) == {1}


def test_of_many_images_some_are_measured_spread_evenly() -> None:
    with measuring(metrics.STAGE_SECONDS) as measured:
        times = StageTimes(ManualClock())
        times.record([timed(**{f"fetch-{number}": 1.0}) for number in range(100)])
        chosen = sorted(int(stage.removeprefix("fetch-")) for stage in measured.by("stage", metrics.STAGE_SECONDS))
    assert chosen == list(range(0, 100, 5))


def test_at_most_twenty_stage_times_are_measured_in_a_second() -> None:
    clock = ManualClock()
    with measuring(metrics.STAGE_SECONDS) as measured:
        times = StageTimes(clock)
        for _ in range(1_000):
            times.record([timed(fetch=1.0) for _ in range(3)])
            clock.advance(0.001)
        assert measured.by("stage", metrics.STAGE_SECONDS)["fetch"] <= 2 * EACH_S


def test_every_kind_of_outcome_is_shown_before_the_first() -> None:
    """An alert asks for the increase of dead letters, which the first of them is only after a zero."""
    with measuring(metrics.OUTCOMES) as measured:
        ManualPipeline()
        kinds = ("enriched", "partial", "retraction", "skip", "dead-letter")
        assert measured.by("kind", metrics.OUTCOMES) == dict.fromkeys(kinds, 0)


def test_every_reason_is_shown_before_the_first_dead_letter_or_skip_for_it() -> None:
    with measuring(metrics.DEAD_LETTERS, metrics.SKIPS) as measured:
        ManualPipeline()
        assert measured.by("reason", metrics.DEAD_LETTERS) == dict.fromkeys(REASONS, 0)
        for stage, reasons in REASONS_OF.items():
            assert measured.by("reason", metrics.DEAD_LETTERS, stage=stage) == dict.fromkeys(reasons, 0)
        assert measured.by("reason", metrics.SKIPS) == dict.fromkeys(get_args(SkipReason), 0)
