"""A whole worker in memory: any message, any file under its key, a failing store, a cache with foreign writers."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random

from schemas.dead_letter import read_dead_letter_headers
from schemas.enriched_image import EnrichedImage, Retraction, Skip, read_output
from tagstream_testing.memory import MemoryResultCache
from tests.fuzz import mutators
from tests.fuzz.containers import damaged
from tests.fuzz.fuzzer import Bounds, Target
from tests.fuzz.mutators import NULL, Parts, headers, nullable
from tests.fuzz.targets.images import files
from tests.fuzz.targets.messages import messages, validator
from tests.support.harness import BUCKET
from tests.support.manual_pipeline import ManualPipeline
from workers.errors import Gone, Rejected, Superseded, TagstreamError, Unavailable
from workers.types import Headers, Message

KEY = "a.jpg"
"""Real messages name it, so the file under it is read as often as a mutation leaves its name alone."""
GOOD = "good.png"
UNREADABLE_S = 20.0

FAULTS: Mapping[bytes, Callable[[], TagstreamError] | None] = {
    b"sound": None,
    b"down": lambda: Unavailable("s3", "HTTP 500"),
    b"gone": lambda: Gone("no such object"),
    b"superseded": lambda: Superseded("another etag"),
    b"refused": lambda: Rejected("fetch", "object-too-large", "too large"),
}


def situations() -> Iterator[Parts]:
    """The message, the file under its key, the store's failures, a seed for the cache's answers, and headers."""
    images = files()
    for number, (value, *named) in enumerate(messages()):
        fault = list(FAULTS)[number % 7 % len(FAULTS)]
        yield (value, images[number % len(images)], fault, b"%d" % (number % 3), *named)


def mutated(random: Random, parts: Parts) -> Parts:
    """The message and its headers most of the time; the file by its pieces."""
    value, image, fault, lies, *named = (*parts, *[b""] * (4 - len(parts)))
    if random.random() < 0.4:
        (image,) = damaged(random, (image,))
    if random.random() < 0.2:
        fault = random.choice(list(FAULTS))
    if random.random() < 0.3:
        lies = b"%d" % random.randrange(1_000_000)
    if random.random() < 0.7:
        value, *named = mutators.anything(random, (value, *named)) or (NULL,)
    return (value, image, fault, lies, *named)


def worked(parts: Parts) -> str:
    value, image, fault, lies, *named = (*parts, *[b""] * (4 - len(parts)))
    cache = _Lying()
    manual = ManualPipeline(cache=cache, buckets=(BUCKET,), unreadable_s=UNREADABLE_S, retry_min_s=0.5, retry_max_s=2.0)
    manual.store.put(BUCKET, KEY, image)
    manual.put(GOOD)
    hostile = nullable(value), headers(tuple(named))
    goods = set()
    if lies not in (b"", b"0"):
        _send(manual, hostile)
        goods.add(_send(manual, _GOOD))
        manual.turns(5, every_s=1.0)
        cache.random = Random(lies)
    if (error := FAULTS.get(fault)) is not None:
        manual.store.fail(BUCKET, KEY, error())
    for _ in range(2):
        goods.add(_send(manual, _GOOD))
        _send(manual, hostile)
    for _ in range(60):  # others of the bucket are read meanwhile, so that what fails alone is known to
        goods.add(_send(manual, _GOOD))
        manual.turns(1.0, every_s=1.0)
        if not manual.in_flight:
            break
    return _checked(manual, goods)


_GOOD = (json.dumps({"schema": "image-event/1", "id": "good", "bucket": BUCKET, "key": GOOD}).encode(), ())


def _send(manual: ManualPipeline, record: tuple[bytes | None, Headers]) -> int:
    value, headers = record
    offset = manual.send(value, key=b"key", headers=headers)
    manual.turn()
    return offset


class _Lying(MemoryResultCache):
    """With a `random` its entries are damaged, as any client that may write to it can damage them."""

    random: Random | None = None

    def lookup(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._damaged(value) for value in super().lookup(keys)]

    def lookup_fields(self, fields: Sequence[tuple[str, str]]) -> list[bytes | None]:
        return [self._damaged(value) for value in super().lookup_fields(fields)]

    def hashes(self, names: Sequence[str]) -> list[dict[str, bytes]]:
        return [{name: self._damaged(value) or b"" for name, value in each.items()} for each in super().hashes(names)]

    def _damaged(self, value: bytes | None) -> bytes | None:
        return value if value is None or self.random is None else mutators.content(self.random, value)


def _checked(manual: ManualPipeline, goods: set[int]) -> str:
    records = manual.sent[0]
    assert not manual.in_flight, f"still in flight: {manual.in_flight}"
    ready = manual.pipeline.ledger.ready(1_000_000, 1 << 40)
    assert ready is not None, "nothing to publish"
    assert list(ready.transaction.offsets.values()) == [records], f"{ready.transaction} of {records} records"
    kinds = _published(ready.transaction.messages)
    for offset in goods:
        assert kinds[offset, 0] == ["EnrichedImage"], f"{offset}: {kinds[offset, 0]}"
    return " ".join(sorted({kind for (offset, _), found in kinds.items() if offset not in goods for kind in found}))[
        :80
    ]


def _published(messages: Iterable[Message]) -> dict[tuple[int, int], list[str]]:
    """What leaves, by offset and index: read back as a reader would, each valid under its published schema."""
    kinds: dict[tuple[int, int], list[str]] = {}
    letters: Counter[int] = Counter()
    for message in messages:
        assert message.size < 1 << 20
        if message.topic == "dead":
            dead_letter = read_dead_letter_headers(message.headers)
            letters[dead_letter.offset] += 1
            for failure in dead_letter.failures:
                kinds.setdefault((dead_letter.offset, failure.index), []).append(failure.reason)
            continue
        output = read_output(message.value or b"")
        name = {EnrichedImage: "enriched-image-1.json", Retraction: "image-retraction-1.json", Skip: "skipped-1.json"}[
            type(output)
        ]
        validator(name).validate(json.loads(message.value or b""))
        place = output.event.offset, output.event.index
        kinds.setdefault(place, []).append(type(output).__name__)
    assert all(count == 1 for count in letters.values()), "one dead letter a record"
    assert all(len(found) == 1 for found in kinds.values()), kinds
    return kinds


TARGETS = (
    Target(
        "worker",
        situations,
        worked,
        mutated,
        ("/schemas/", "/workers/"),
        Bounds(seconds=3.0, seconds_per_mib=60.0, mib=128.0, mib_per_mib=128.0),
    ),
)
