"""Every metric of the product, with its one-line meaning. A new metric is added here first.

The instruments come from OpenTelemetry's API: without a provider they go nowhere; `service` sets the provider
(Prometheus endpoint, OTLP). Labels never hold keys, captions or anything of unbounded variety.

What OpenTelemetry's messaging conventions (1.44) have a name for has that name and their attributes, `messaging.…`;
what is our own is called `tagstream_…`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from opentelemetry import metrics
from opentelemetry.context import Context, get_current
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.util.types import AttributeValue

from workers.types import OUTCOME_KINDS

_meter = metrics.get_meter("tagstream")

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
MESSAGING_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)
"""The conventions' bounds, and two more: a record waits as long as an outage lasts."""
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


@dataclass(frozen=True)
class Metric:
    """One metric, under OpenTelemetry's name and labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    unit: str
    labels: tuple[str, ...]

    @property
    def exposed(self) -> str:
        """Its name on the page for Prometheus."""
        name = self.name.replace(".", "_")
        if self.unit == "s" and not name.endswith("_seconds"):
            name += "_seconds"
        return f"{name}_total" if self.kind == "counter" else name

    @property
    def exposed_labels(self) -> tuple[str, ...]:
        return tuple(label.replace(".", "_") for label in self.labels)


ALL: list[Metric] = []


class Counter:
    """Adds up here, and is read when it is scraped: OpenTelemetry's own sum takes ten times as long for each `add`
    (measured: 7 us, and 130 where the code has left the processor's caches). Thread-safe.
    """

    def __init__(self, name: str, meaning: str, *, unit: str = "1", labels: tuple[str, ...] = ()) -> None:
        ALL.append(Metric(name, "counter", meaning, unit, labels))
        self._lock = threading.Lock()
        self._totals: dict[frozenset[tuple[str, AttributeValue]], float] = {}
        self._instrument = _meter.create_observable_counter(name, [self.observe], unit, meaning)

    def add(self, amount: float = 1, **labels: AttributeValue) -> None:
        series = frozenset(labels.items())
        with self._lock:
            self._totals[series] = self._totals.get(series, 0) + amount

    def begin(self, **labels: AttributeValue) -> None:
        """Show 0 until something is counted: to Prometheus a series that begins with 1 has not increased, so that the
        first of what is counted would not be seen."""
        self.add(0, **labels)

    def observe(self, _: CallbackOptions) -> Iterator[Observation]:
        """The sums so far, for the scraping thread."""
        with self._lock:
            totals = list(self._totals.items())
        return (Observation(total, dict(series)) for series, total in totals)


Reading: TypeAlias = tuple[float, Mapping[str, AttributeValue]]
Reader: TypeAlias = Callable[[], Iterable[Reading]]


class ObservedGauge:
    """A gauge that is read on scrape and costs working threads nothing.

    Its readers are called on the scraping thread; they must answer at once.
    """

    def __init__(self, name: str, meaning: str, *, unit: str = "1", labels: tuple[str, ...] = ()) -> None:
        self.metric = Metric(name, "gauge", meaning, unit, labels)
        ALL.append(self.metric)
        self._readers: tuple[Reader, ...] = ()
        self._instrument = _meter.create_observable_gauge(name, [self._observe], unit, meaning)

    def add(self, reader: Reader) -> None:
        """Show this reader's values until `remove`; each set of labels should be said by one reader."""
        self._readers = (*self._readers, reader)

    def remove(self, reader: Reader) -> None:
        self._readers = tuple(known for known in self._readers if known != reader)

    def _observe(self, _: CallbackOptions) -> Iterator[Observation]:
        for reader in self._readers:
            for value, labels in reader():
                yield Observation(value, labels)


@contextmanager
def shown(readers: Mapping[ObservedGauge, Reader]) -> Iterator[None]:
    """While the body runs, these gauges show what their readers say."""
    for gauge, reader in readers.items():
        gauge.add(reader)
    try:
        yield
    finally:
        for gauge, reader in readers.items():
            gauge.remove(reader)


_AT_ONCE = 64
"""Measurements of a histogram that are handed on together."""


class Histogram:
    """Keeps some measurements until it is scraped, or has enough of them: handed on one after the other, each takes
    OpenTelemetry a fifth of the time that one takes whose code has left the processor's caches. Thread-safe.
    """

    def __init__(
        self,
        name: str,
        meaning: str,
        *,
        unit: str = "s",
        labels: tuple[str, ...] = (),
        buckets: Sequence[float] = SECONDS,
    ) -> None:
        ALL.append(Metric(name, "histogram", meaning, unit, labels))
        self._kept: deque[tuple[float, Mapping[str, AttributeValue], Context]] = deque()
        _HISTOGRAMS.append(self)
        self._instrument = _meter.create_histogram(
            name, unit, meaning, explicit_bucket_boundaries_advisory=list(buckets)
        )

    def record(self, value: float, context: Context | None = None, /, **labels: AttributeValue) -> None:
        """Count a measurement. If the span of `context` (of the thread's own by default) is sampled, it is remembered
        as an example of what is in its bucket."""
        self._kept.append((value, labels, get_current() if context is None else context))
        if len(self._kept) >= _AT_ONCE:
            self.hand_on()

    def hand_on(self) -> None:
        """Hand the kept measurements to OpenTelemetry."""
        while self._kept:
            try:
                value, labels, context = self._kept.popleft()
            except IndexError:  # another thread is about it too
                return
            self._instrument.record(value, labels, context)


_HISTOGRAMS: list[Histogram] = []


def hand_on_all(_: CallbackOptions) -> Sequence[Observation]:
    """Hand on all measurements, before histograms are read."""
    for histogram in _HISTOGRAMS:
        histogram.hand_on()
    return ()


_hand_on_first = _meter.create_observable_gauge("tagstream_nothing", [hand_on_all])
"""Shows nothing: a reader calls all that is observed before it reads histograms."""


Operation: TypeAlias = Literal["poll", "process", "publish", "send"]


def messaging(
    operation: Operation, *, topic: str | None = None, group: str | None = None, error: str | None = None
) -> dict[str, AttributeValue]:
    """The attributes of a `messaging.…` metric, by OpenTelemetry's conventions.

    Args:
        operation: what is done. Ours is one name, `publish`: it stands for a transaction from its begin to its commit.
        error: why it failed (`error.type`); a success has none.
    """
    labels: dict[str, AttributeValue] = {"messaging.system": "kafka", "messaging.operation.name": operation}
    if operation == "publish":
        labels["messaging.operation.type"] = "send"  # of operations' durations alone
    known = {"messaging.destination.name": topic, "messaging.consumer.group.name": group, "error.type": error}
    return labels | {name: value for name, value in known.items() if value is not None}


_OPERATION = ("messaging.system", "messaging.operation.name")
_CONSUMED = (*_OPERATION, "messaging.destination.name", "messaging.consumer.group.name")

CONSUMED_MESSAGES = Counter(
    "messaging.client.consumed.messages", "Records taken from the input topics", unit="{message}", labels=_CONSUMED
)
PROCESS_SECONDS = Histogram(
    "messaging.process.duration",
    "From taking a record to its commit, by lane: live, background",
    labels=(*_CONSUMED, "lane"),
    buckets=MESSAGING_SECONDS,
)
SENT_MESSAGES = Counter(
    "messaging.client.sent.messages",
    "Messages sent to the output topics; those of a transaction that failed have an error, and are sent again",
    unit="{message}",
    labels=(*_OPERATION, "messaging.destination.name", "error.type"),
)
OPERATION_SECONDS = Histogram(
    "messaging.client.operation.duration",
    "From begin to commit of one transaction (operation `publish`)",
    labels=(*_OPERATION, "messaging.operation.type", "error.type"),
    buckets=MESSAGING_SECONDS,
)
OUTCOMES = Counter(
    "tagstream_outcomes", f"Outcomes published and committed: {', '.join(OUTCOME_KINDS)}", labels=("kind",)
)
DEAD_LETTERS = Counter(
    "tagstream_dead_letters", "Failures in dead letters, by stage and reason", labels=("stage", "reason")
)
TAGGED_IMAGES = Counter(
    "tagstream_tagged_images",
    "Live images that asked for tags, by how many they have: this many or more, and fewer than the next value",
    labels=("model", "tags"),
)
TAGS = Counter(
    "tagstream_tags",
    "Tags of the model in live images, by score: this score or more, and less than the next value",
    labels=("model", "score"),
)
CAPTIONED_IMAGES = Counter(
    "tagstream_captioned_images",
    "Live images with a caption, by its words: this many or more, and fewer than the next value",
    labels=("model", "words"),
)
ADDED_RESULTS = Counter(
    "tagstream_added_results",
    "Results of roles in live images, by the words that searches find: this many or more, fewer than the next value",
    labels=("role", "model", "words"),
)
CAPTION_REQUESTS = Counter(
    "tagstream_caption_requests",
    "Calls of the service of TAGSTREAM_CAPTIONER, by result: answered, refused, failed, unavailable, misplaced",
    labels=("result",),
)
CAPTION_SECONDS = Histogram("tagstream_caption_seconds", "One call of that service, with its repetitions")
CAPTION_TOKENS = Counter(
    "tagstream_caption_tokens",
    "Tokens of that service, by kind: prompt, completion, or reserved where an answer did not say",
    unit="{token}",
    labels=("kind",),
)
CAPTIONS_MISSING = Counter(
    "tagstream_captions_missing",
    "Images that left without that service's caption, by reason of their outcome",
    labels=("reason",),
)
SKIPS = Counter("tagstream_skips", "Events skipped, by reason", labels=("reason",))
DROPPED_JOBS = Counter(
    "tagstream_dropped_jobs", "Jobs dropped because their partition was revoked; the new owner processes them"
)
TRANSACTIONS = Counter("tagstream_transactions_published", "Transactions published and committed")
TRANSACTIONS_FAILED = Counter(
    "tagstream_transactions_failed", "Transactions that failed or whose result is unknown, by cause", labels=("cause",)
)
RECOVERIES = Counter("tagstream_publisher_recoveries", "Producers rebuilt after a failed transaction")
STAGE_SECONDS = Histogram(
    "tagstream_stage_seconds",
    "Time of one image (a batch for annotate) in a stage, of at most 20 images a second",
    labels=("stage",),
)
BOUND = Counter(
    "tagstream_bound_looks",
    "Looks, one a second, by what most images waited for: store, decoder, model, cache, broker, memory, input",
    labels=("by",),
)
BATCH_IMAGES = Histogram("tagstream_batch_images", "Images in a batch on the device", unit="1", buckets=SIZES)
BATCHES = Counter(
    "tagstream_batches",
    "Batches on the device, by why they left: full, ready (the device was free and took all there was), "
    "alone (one image that made the model fail)",
    labels=("left",),
)
SAFE_BATCH = ObservedGauge(
    "tagstream_safe_batch", "The batch size that is known to be safe on this device, by role", labels=("role",)
)
IN_FLIGHT = ObservedGauge(
    "tagstream_images_in_flight", "Images between their record's arrival and its commit, by stage", labels=("stage",)
)
BUDGET_BYTES = ObservedGauge("tagstream_budget_bytes", "Bytes reserved of a budget", unit="By", labels=("budget",))
BUDGET_PEAK_BYTES = ObservedGauge(
    "tagstream_budget_peak_bytes",
    "Most bytes of a budget that were ever reserved at once",
    unit="By",
    labels=("budget",),
)
BUDGET_LIMIT_BYTES = ObservedGauge("tagstream_budget_limit_bytes", "Size of a budget", unit="By", labels=("budget",))
LEDGER_RECORDS = ObservedGauge(
    "tagstream_ledger_records", "Records that wait for those before them, or for their commit"
)
LAG_RECORDS = ObservedGauge(
    "tagstream_lag_records",
    "Offsets up to the last record of a partition of this worker that are not committed, as of its last fetch",
    labels=("topic", "partition", "lane"),
)
LAG_SECONDS = ObservedGauge(
    "tagstream_lag_seconds",
    "Since the oldest record of a partition of this worker that was read and not committed was appended by the broker, "
    "where the topic notes that, or else was read",
    unit="s",
    labels=("topic", "partition", "lane"),
)
HELD_UP_SECONDS = ObservedGauge(
    "tagstream_held_up_seconds",
    "For how long an open transaction of a producer has hidden the next records of a partition of this worker; 0: none",
    unit="s",
    labels=("topic", "partition", "lane"),
)
COMMITTED_OFFSET = ObservedGauge(
    "tagstream_committed_offset",
    "The offset below which all of a partition of this worker is committed",
    labels=("topic", "partition", "lane"),
)
PARTITIONS = ObservedGauge(
    "tagstream_partitions", "Partitions assigned to this worker, by state: reading, paused, opening", labels=("state",)
)
CACHE = Counter("tagstream_cache_lookups", "Cache look-ups by level and answer", labels=("level", "answer"))
CACHE_ERRORS = Counter(
    "tagstream_cache_errors", "Cache calls given up and values refused, by cause; each one is a miss", labels=("cause",)
)
COALESCED = Counter("tagstream_coalesced", "Images that took the answer of an equal one in flight")
BREAKERS = ObservedGauge(
    "tagstream_breakers",
    "Breakers by state: closed, open, half-open (a probe is on its way); of the object store one for each bucket",
    labels=("dependency", "state"),
)
RETRIES = Counter("tagstream_retries", "Calls to a dependency tried again", labels=("dependency",))
RENDITIONS = Counter(
    "tagstream_renditions",
    "Requests for renditions, by what came: read, absent, refused (401, 403), older (than the original), shape (of "
    "another picture), broken (empty, undecodable, or larger than its original), failed (the store); an image whose "
    "rendition is not used is read itself. One that is read may turn out to be of another shape, or broken",
    labels=("answer",),
)
DECODERS_LOST = Counter(
    "tagstream_decoders_lost",
    "Decoding processes that ended before their time and were replaced, by cause: clock, death, bad-answer",
    labels=("cause",),
)
STDERR_LINES = Counter(
    "tagstream_stderr_lines",
    "Lines that libraries wrote to standard error, by process: decoder (codecs, about images) or worker",
    labels=("of",),
)
READY = ObservedGauge("tagstream_ready", "1 when warmed up and joined to the group")
BATCH_FAILURES = Counter(
    "tagstream_batch_failures", "Batches that raised and were halved, by cause: memory, error", labels=("cause",)
)
SELF_TESTS = Counter(
    "tagstream_self_tests", "Self-tests of the models on the device, by result: right, wrong", labels=("result",)
)
SELF_TEST_AGE = ObservedGauge(
    "tagstream_self_test_age_seconds", "Since the last self-test that was right, or the start", unit="s"
)
INDEX_RECORDS = Counter(
    "tagstream_index_records",
    "Records of the enriched topic that `tagstream index run` took in: outcome, tombstone, unreadable",
    labels=("kind",),
)
INDEX_FLAWS = Counter(
    "tagstream_index_flaws",
    "Outcomes that are indexed in part: characters were replaced, an embedding or words of results left out",
    labels=("kind",),
)
INDEX_LAG = ObservedGauge(
    "tagstream_index_lag", "Offsets of this indexer's partitions that are not in the tables", labels=("topic",)
)
WORKER_ANSWERS = ObservedGauge(
    "tagstream_worker_answers",
    "Whether a process of `TAGSTREAM_WORKERS` answered this scrape (1), or its samples are missing (0)",
    labels=("worker",),
)
"""Made by the process that answers for all of them."""
