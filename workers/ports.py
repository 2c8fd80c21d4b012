"""The ports: protocols for everything that the pipeline needs from outside (Kafka, store, cache, models, clock).

Each Protocol has a contract suite (tests/contract) that runs on the in-memory fake (tagstream_testing/memory.py) and on
the real server. Raised errors are those of workers/errors.py; anything else is a bug.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from schemas.correction import Word
from workers.types import (
    Assignment,
    Caption,
    DecodedImage,
    Facts,
    Fetched,
    ImageAbout,
    Job,
    LabelScores,
    Membership,
    ObjectVersion,
    Partition,
    Pixels,
    Polled,
    RemoteAnswer,
    StoredObject,
    Subset,
    Transaction,
    Transform,
)


class RecordSource(Protocol):
    """The input topics as one member of the consumer group.

    `membership` and `commit` are what a publisher needs of it; these, `ends` and `held_up` may be called by any thread.
    All else belongs to the poll thread.
    """

    def membership(self) -> Membership:
        """Our member id and generation in the group, by the client."""

    def commit(self, offsets: Mapping[Partition, int], timeout_s: float) -> None:
        """Commit outside a transaction, for at_least_once, under the current membership.

        Raises Exception: the client's own errors; the publisher of the same client says what they mean.
        """

    def joined(self) -> bool:
        """Whether every topic exists and we are a member of the group. A member may have no partition."""

    def poll(self, timeout_s: float) -> Polled:
        """Return all records that arrived, waiting at most `timeout_s` for the first.

        Records of one partition come in offset order (offsets may have gaps). An assignment ends by itself when its
        partition is revoked or lost, or when the member id changes with or without a callback; a partition that we
        still (or again) hold then starts a new assignment, as does one whose assignment the caller ended. Records are
        never of an ended assignment at the time of the poll, nor of one that was not started.

        Raises:
            Misconfigured: a topic does not exist, or the group may not be joined.
            Broken: an offset is out of range (the text names the gap).
        """

    def start(self, assignment: Assignment, offset: int) -> None:
        """Deliver the assignment's partition from `offset` on. Does nothing when the assignment has ended."""

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Deliver nothing of these until `resume`; what is not assigned is ignored. Polling must go on.

        A pause ends with its assignment: when the partition's next one is started, it delivers.
        """

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Undo `pause`; no record is lost or comes twice by it."""

    def ends(self) -> Mapping[Partition, int]:
        """The known end offset of each of our partitions, as last fetched.

        What of a partition is not read yet may be no records.
        """

    def positions(self) -> Mapping[Partition, int]:
        """Where each started partition is read next: all committed records before it were delivered.

        It moves over what is no record: markers, and what was aborted or compacted away.
        """

    def held_up(self) -> Mapping[Partition, float]:
        """Seconds since when an open transaction blocks each partition of ours. Partitions without one are omitted."""

    def close(self) -> None:
        """Leave the group (ends every assignment). Bounded in time."""


class Publisher(Protocol):
    """Publishes messages and commits offsets, all or nothing. Every call belongs to the publish thread."""

    max_message_bytes: Mapping[str, int]
    """For each output topic the largest `Message.size` that it takes; `recover` brings it up to date."""

    lost: Mapping[Assignment, str]
    """Assignments whose committed offset can't be had because a transaction on their partition never ends, each with a
    sentence for people (`transaction marker lost: …`). It goes when `committed` has an answer after all; those that
    have ended mean nothing. Replaced, never changed: any thread may read it."""

    def publish(self, transaction: Transaction) -> None:
        """Send the messages and commit the offsets, if there are any. When it returns, both are done.

        Raises:
            Unpublished: not done, or not known to be. `recover` must follow, whatever the cause.
            Misconfigured: we are not allowed to publish.
            Broken: a stalled client, or another process with our transactional id.
        """

    def recover(self) -> None:
        """After `Unpublished`: leave nothing of the failed transaction in flight, then be able to publish again.

        Returns when it is so, waiting as long as the broker is away (it reports each try to the log and metrics), or
        soon after `interrupt`, and then nothing can be published any more. Raises Broken: the old client can't be
        stopped, or the id is stolen again.
        """

    def committed(self, assignment: Assignment) -> int | None:
        """The group's committed offset of the partition, with no pending transaction.

        For a group without one: resolve TAGSTREAM_OFFSET_RESET to a position, commit it, return it.
        None: the assignment has ended meanwhile, or there is no answer for now (ask again, also when it is `lost`: the
        broker is then asked at a slow rate).
        """

    def interrupt(self) -> None:
        """Make calls no longer wait for a broker: the process ends. Any thread."""

    def stuck(self) -> str | None:
        """The call that hangs although the dependency answers others, or None. One watching thread's call.

        The publish thread can't be freed then: the process has to end.
        """

    def close(self) -> None:
        """Bounded in time; leaves no transaction open."""


class ObjectStore(Protocol):
    """Reads objects of the buckets. Thread-safe."""

    def get(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None,
        etag: str | None,
        max_bytes: int,
        deadline_s: float,
        first_bytes: int = 0,
        patient: bool = True,
    ) -> StoredObject:
        """Read one object's stored bytes, never more than `max_bytes`.

        With an `etag` (quotes or not), only that one.

        Args:
            first_bytes: read only so many, at most `max_bytes`, of an object of any size; 0: all.
            patient: try again after a failure that may pass.

        Raises:
            Gone: no such object (or version).
            Superseded: the etag is another one.
            LargerThanReserved: larger than `max_bytes`, by its Content-Length or while streaming.
            Rejected: empty ("empty-object").
            Unavailable: anything else that came instead of the object; its `fault` says what the answer tells about
                the cause ("too-slow": more than `deadline_s` seconds for the whole body).
        """

    def head(self, bucket: str, key: str, *, deadline_s: float) -> ObjectVersion:
        """The object's current version, whichever an event named.

        Raises:
            Gone: there is no object of this key (any more), whatever older versions there are; with the answer's date.
            Rejected: no client can ask for this name.
            BucketGone: there is no such bucket.
            Unavailable: anything else that came instead of an answer, as with `get`.
        """


class ResultCache(Protocol):
    """The result cache: may forget, never fails and never stalls. Thread-safe. Failed calls are counted misses.

    Two shapes of entry, both with a time to live: plain keys, and fields of a hash that go together.
    """

    def lookup(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of these keys, one answer a key; None is a miss (or a cache that doesn't answer in time)."""

    def lookup_fields(self, fields: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """The values of these (hash, field) pairs, one answer a pair."""

    def remember(self, values: Mapping[str, bytes], fields: Mapping[tuple[str, str], bytes]) -> None:
        """Keep plain values and hash fields for the configured time to live; none of more than 1 MiB."""

    def hashes(self, names: Sequence[str]) -> list[dict[str, bytes]]:
        """All fields of these hashes; none of a hash of more than 10,000 fields."""

    def forget(self, names: Sequence[str]) -> None:
        """Drop keys and whole hashes."""

    def close(self) -> None: ...


class CorrectionLog(Protocol):
    """People's corrections of images' tags, as they arrive. One thread reads at a time; any may ask."""

    def catch_up(self, stopping: Callable[[], bool]) -> None:
        """Read the whole topic, waiting for absent brokers; `stopping` ends it early.

        Raises Misconfigured: there is no such topic, or it may not be read, or it holds more than fits the memory.
        """

    def follow(self, timeout_s: float) -> None:
        """Read new corrections, waiting at most about this long. An absent broker is waited for by later calls.

        Raises:
            As `catch_up`.
        """

    def on(self, subject: str, sha256: str, etag: str = "", since: str | None = None) -> Word | None:
        """The correction of this content of the subject, or None; as `schemas.correction.Corrections.on`."""

    def close(self) -> None: ...


class Intake(Protocol):
    """Fetches, inspects and decodes images, in threads or child processes. Thread-safe; futures carry the errors.

    The caller reserves memory before each call and gives it back at its end: an intake holds the encoded bytes from
    `fetch` to the end of `decode` or `discard`. Only `inspect` and `decode` look into the bytes, which may be made to
    break whatever reads them.
    """

    def fetch(self, job: Job, max_bytes: int) -> Future[Fetched]:
        """Get at most `max_bytes` bytes: the object or its rendition.

        If a glance at these tells what `inspect` would say, the answer has it as `facts`, and `inspect` need not be
        called.

        Fails with Gone, Superseded, Unavailable, Rejected (an object over the limit, or an empty one), or with
        LargerThanReserved: over `max_bytes`, and within the limit as far as is known. Of a job that asks for
        `only_newest`, it is Superseded too if the object by now is another than the event names.

        A removal's job reads nothing and never succeeds: it is Gone if the object is, or Superseded if it is there.
        """

    def inspect(self, fetched: Fetched) -> Future[Facts]:
        """Read the image's header, and check it against the limits. The bytes are kept.

        Fails with Rejected (limits, formats, a broken header).
        """

    def decode_bytes(self, facts: Facts, transforms: Sequence[Transform] | None = None) -> int:
        """Most memory of `decode`, besides a copy of the bytes."""

    def decode(
        self, fetched: Fetched, facts: Facts, transforms: Sequence[Transform] | None = None
    ) -> Future[DecodedImage]:
        """Decode once, at a scale that suits all `transforms`, and apply each. Fails with Rejected.

        Args:
            facts: what `inspect` said of these same bytes.
            transforms: some of those that the intake was made with; None: all.
        """

    def discard(self, fetched: Fetched) -> None:
        """Drop the bytes unread (a cache hit, an ended assignment)."""

    def at_work(self) -> tuple[Job | None, float]:
        """The image longest in a decoder's hands, and its seconds there.

        None: no decoder has an image, for so long. An image that only waits for its turn is in no decoder's hands.
        """

    def on_doubt(self, doubted: Callable[[Collection[str]], None]) -> None:
        """Call `doubted` with the hashes of contents that may be wrong.

        From any thread: `inspect` or `decode` may have lied about these, so that their results of the last minute are
        not to be kept.
        """

    def close(self) -> None:
        """Drop waiting requests, wait for running ones; bounded in time."""


class ModelIdentity(Protocol):
    """What names a model in outcomes and in cache keys."""

    name: str
    digest: str
    """sha256 in hex over all that an answer depends on besides the precision: weights, labels, vocabulary, transform,
    architecture, options, floor. The cache and the ids of events go by it."""
    precision: str
    transform: Transform
    random_weights: bool
    """Seeded random weights, for trials: the answers mean nothing, and every event says so."""


class Model(ModelIdentity, Protocol):
    """The base of taggers and captioners. `forward` runs on the device thread and nowhere else."""

    max_batch: int
    """The largest batch known to be safe on this device."""

    def warm_up(self) -> None:
        """Run every shape once, check the golden answer, settle `max_batch`.

        Raises Broken: the device fails, or the answer is not the golden one.
        """

    def self_test_image(self) -> Pixels:
        """A known good image, after its transform."""


@runtime_checkable
class SelfTested(Model, Protocol):
    """Optional: a model with a known answer for its self-test image."""

    def check_self_test(self, answer: Any) -> None:
        """Compare the answer for `self_test_image` with the right one, after `warm_up`.

        Args:
            answer: of a tagger, what `forward` gives; of a captioner, the `Caption` under no guide.

        Raises:
            Broken: it is another one, by more than the precision and the batch explain.
        """


@runtime_checkable
class Tagger(Model, Protocol):
    """Scores labels."""

    labels: Sequence[str]
    """Names by label id; may repeat (a noun and a verb)."""
    translations: Mapping[str, Sequence[str]]
    """Other languages' names by label id, e.g. "zh".

    Optional beside them: `parents`, a sequence of at most three wider names by label id, nearest first."""
    thresholds: Sequence[float]
    """By label id: a tag is shown when its score is greater."""
    profiles: Mapping[str, Sequence[float]]
    """Other thresholds that the bundle offers by name, each by label id."""
    floor: float
    """Scores below are not kept."""

    def forward(self, images: Sequence[Pixels]) -> Sequence[Any]:
        """One answer for each image, in the same order, on the host.

        Raises:
            OutOfMemoryError of the device as `MemoryError`; anything else blames an image or the device.
        """

    def postprocess(self, raw: Any) -> LabelScores:
        """One answer as scores above the floor. Any thread.

        Raises ValueError: not a number among the scores (a broken device).
        """


@runtime_checkable
class SubsetTagger(Tagger, Protocol):
    """Optional: a tagger that saves work by scoring only some labels."""

    def forward_subsets(self, images: Sequence[Pixels], subsets: Sequence[Subset | None]) -> Sequence[Any]:
        """As `forward`, but each image for its own labels alone; None means all that the tagger scores.

        `postprocess` makes of an answer the scores that it makes of `forward`'s, without those of labels outside the
        subset, whatever the other images of the batch are scored for.

        Args:
            subsets: one for each image; their ids are among the labels that the tagger scores.

        Raises:
            As `forward`.
        """


@runtime_checkable
class Captioner(Model, Protocol):
    """Writes an image's caption, guided by a tag string."""

    options_digest: str
    """Decoding options, as part of a cache key."""

    def guide(self, names: Sequence[str]) -> str:
        """The exact guide string for these tag names."""

    def forward(self, images: Sequence[Pixels], guides: Sequence[str]) -> Sequence[Any]:
        """As `Tagger.forward`; guides go with images one by one."""

    def postprocess(self, raw: Any) -> Caption: ...


class RemoteCaptioner(Protocol):
    """Has captions written by a service elsewhere. It waits instead of computing. Thread-safe."""

    name: str
    """The wanted model."""
    digest: str
    """sha256 in hex over all that an answer depends on, known without a call: model, prompt, schema, side, language."""
    transform: Transform
    guided: bool
    """Whether the prompt holds the tags."""
    fields: type[BaseModel] | None
    """The user's own fields that an answer has besides its caption; None: no schema asks for any."""

    def encode(self, pixels: Pixels, about: ImageAbout) -> bytes:
        """The JPEG to send, of the transform's pixels, without black margins.

        Args:
            pixels: (size, size, 3) uint8, as `transform` gives them.
        """

    def ask(
        self,
        jpeg: bytes,
        tags: Sequence[str],
        partition: Partition,
        late: Callable[[RemoteAnswer], None],
        *,
        background: bool = False,
    ) -> Future[RemoteAnswer]:
        """Ask for an image. Partitions take turns, live ones first; those of one are asked in order.

        The future is done at the latest after TAGSTREAM_CAPTION_WAIT_S, on any thread. It is done at once where the
        service is known to be away, the day's tokens are spent, or the turn would not come in time. It may be
        cancelled: then the image is not asked about, if it has not been yet.

        Fails with Unanswered.

        Args:
            late: takes an answer that comes after the future is done, for the cache. Any thread.
        """

    def start(self) -> None:
        """Find out whether the service answers; else the first `ask` does."""
        ...

    def unready(self) -> str | None:
        """Why no image can be captioned until a setting changes: a wrong key or model name, a service that
        drops images, no money; else None."""

    def close(self) -> None:
        """Stop asking; bounded in time."""


@runtime_checkable
class ResultModel(Model, Protocol):
    """The model of a result that another package adds (`schemas.result_kinds`)."""

    def forward(self, images: Sequence[Pixels], about: Sequence[ImageAbout]) -> Sequence[Any]:
        """As `Tagger.forward`; `about` goes with images one by one. A self-test image has the size of its pixels."""

    def postprocess(self, raw: Any) -> BaseModel:
        """One answer as the kind's `result`. Any thread.

        Raises ValueError: the answer contains NaN (a broken device).
        """


class Clock(Protocol):
    """Time as a port, so that tests can set it."""

    def monotonic(self) -> float:
        """Seconds that never jump."""

    def wall(self) -> float:
        """Seconds since the Unix epoch; may jump, so only ever for what a person or a message reads."""

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))
