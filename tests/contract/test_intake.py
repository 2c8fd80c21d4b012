"""The intake's port, in every form it has."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import Any, Literal, TypeAlias

import numpy as np
import pytest

from schemas.image_event import ImageEvent
from tagstream_testing.memory import MemoryObjectStore
from tests.support.images import encoded, noise, png_bomb, ramp
from tests.support.inline_intake import InlineIntake
from tests.unit.intake.deadly import LARGEST, decoding, read
from workers.errors import Gone, LargerThanReserved, Rejected, Superseded, TagstreamError, Unavailable
from workers.intake import Limits, ProcessIntake
from workers.intake.transform import apply
from workers.ports import Intake
from workers.types import Assignment, Coordinates, Job, Partition, Transform

SQUASH, CROP = Transform(32), Transform(24, "crop", 28, "bicubic")
EPOCH, OTHER = (Assignment(Partition("images", number), "member") for number in (0, 1))

Make: TypeAlias = Callable[..., Intake]


def inline(store: MemoryObjectStore, limits: Limits) -> Intake:
    return InlineIntake(store, (SQUASH, CROP), limits)


def processes(store: MemoryObjectStore, limits: Limits) -> Intake:
    return ProcessIntake(store, (SQUASH, CROP), limits, fetch_threads=4, children=2)


@pytest.fixture
def store() -> MemoryObjectStore:
    store = MemoryObjectStore()
    store.make_bucket("photos")
    return store


@pytest.fixture(params=[inline, processes])
def make(request: pytest.FixtureRequest, store: MemoryObjectStore) -> Iterator[Make]:
    made: list[Intake] = []

    def build(**limits: object) -> Intake:
        made.append(request.param(store, Limits(**limits)))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for intake in made:
        intake.close()


@pytest.fixture
def intake(make: Make) -> Intake:
    return make()


def job(key: str, *, assignment: Assignment = EPOCH, **more: Any) -> Job:
    event = ImageEvent(id="1", dialect="own", action="enrich", index=0, bucket="photos", key=key, **more)
    return Job(Coordinates("images", assignment.partition.number, 0, 0), assignment, event)


def test_an_image_is_fetched_with_its_facts(intake: Intake, store: MemoryObjectStore) -> None:
    body = encoded(ramp(50, 40), "png")
    stored = store.put("photos", "a.jpg", body)

    fetched, facts = read(intake, job("a.jpg", etag=stored.etag))

    assert facts.sha256 == hashlib.sha256(body).hexdigest()
    assert (facts.etag, facts.version_id, facts.last_modified) == (stored.etag, stored.version_id, stored.last_modified)
    assert (facts.format, facts.width, facts.height, facts.size) == ("png", 50, 40, len(body))
    assert 50 * 40 * 4 <= facts.decode_bytes < 1_000_000
    assert fetched.size == len(body)
    assert fetched.inspect_bytes == fetched.size + Limits().inspect_held_bytes("png", fetched.size)


def test_an_image_is_decoded_for_every_transform(intake: Intake, store: MemoryObjectStore) -> None:
    image = noise(60, 50)
    store.put("photos", "a.png", encoded(image, "png"))
    decoded = decoding(intake, job("a.png")).result(10)
    assert set(decoded.pixels) == {SQUASH, CROP}
    for transform, array in decoded.pixels.items():
        assert np.array_equal(array, apply(transform, image))


def test_an_image_is_decoded_for_some_transforms_alone(make: Make, store: MemoryObjectStore) -> None:
    """The place of the pixels is used again and again, and nothing of an earlier image may be in them."""
    images = [noise(60, 50, seed) for seed in range(24)]
    for number, image in enumerate(images):
        store.put("photos", f"{number}", encoded(image, "png"))
    intake = make()
    every = intake.decode_bytes(read(intake, job("0"))[1])
    wanted = [(SQUASH,), (CROP,), (SQUASH, CROP), ()]
    futures = []
    for number in range(len(images)):
        fetched, facts = read(intake, job(f"{number}"))
        transforms = wanted[number % 4]
        futures.append(intake.decode(fetched, facts, transforms))
        assert (intake.decode_bytes(facts, transforms) < every) == (len(transforms) < 2)
    for number, (image, future) in enumerate(zip(images, futures, strict=True)):
        decoded = future.result(10).pixels
        assert set(decoded) == set(wanted[number % 4])
        assert all(np.array_equal(pixels, apply(transform, image)) for transform, pixels in decoded.items())


def test_the_limit_of_memory_holds_for_the_transforms_that_are_asked_for(make: Make, store: MemoryObjectStore) -> None:
    store.put("photos", "a", encoded(ramp(50, 40), "png"))
    intake = make()
    needed = intake.decode_bytes(read(intake, job("a"))[1], [SQUASH])
    small = make(decode_bytes=needed)
    fetched, facts = read(small, job("a"))
    with pytest.raises(Rejected, match="decode-memory"):
        small.decode_bytes(facts, [SQUASH, CROP])
    with pytest.raises(Rejected, match="decode-memory"):
        small.decode(fetched, facts).result(10)
    assert small.decode_bytes(facts, [SQUASH]) == needed


@pytest.mark.slow
def test_a_photo_of_every_format_is_inspected_within_a_partitions_share(
    intake: Intake, store: MemoryObjectStore
) -> None:
    """Guard: the bound is by format. 32 MiB and more for any photo had no room in a share of sixteen partitions."""
    for name in Limits().formats:
        store.put("photos", name, encoded(noise(640, 480), name))
        fetched = intake.fetch(job(name), LARGEST).result(10)
        assert fetched.inspect_bytes < (32 << 20 if name == "tiff" else 16 << 20), name


def test_a_glance_equals_an_inspection(intake: Intake, store: MemoryObjectStore) -> None:
    for name in Limits().formats:
        store.put("photos", name, encoded(noise(64, 48), name))
        fetched = intake.fetch(job(name), LARGEST).result(10)
        facts = intake.inspect(fetched).result(10)
        assert fetched.facts == (facts if name == "jpeg" else None), name


@pytest.mark.parametrize(
    ("body", "stage", "reason"),
    [
        (b"x" * 5001, "fetch", "object-too-large"),
        (b"", "fetch", "empty-object"),
        (b"hello", "decode", "not-an-image"),
        (encoded(ramp(), "ico"), "decode", "format-not-allowed"),
        (encoded(ramp(), "png")[:30], "decode", "broken-image"),
        (png_bomb(3000, 3000), "decode", "too-many-pixels"),
        (encoded(ramp(1, 1), "png"), "decode", "too-small"),
    ],
)
def test_each_limit_has_its_own_reason(
    make: Make, store: MemoryObjectStore, body: bytes, stage: str, reason: str
) -> None:
    store.put("photos", "a", body)
    with pytest.raises(Rejected) as rejected:
        read(make(max_object_bytes=5000, max_pixels=1_000_000), job("a"))
    assert (rejected.value.stage, rejected.value.reason) == (stage, reason)


def test_an_object_too_large_by_its_event_is_not_asked_for(make: Make, store: MemoryObjectStore) -> None:
    with pytest.raises(Rejected, match="object-too-large"):
        make(max_object_bytes=5000).fetch(job("a", size=5001), LARGEST).result(10)
    assert store.reads == []


def test_no_more_is_read_of_an_object_than_was_reserved_for_it(intake: Intake, store: MemoryObjectStore) -> None:
    body = encoded(ramp(), "png")
    store.put("photos", "a", body)
    with pytest.raises(LargerThanReserved) as larger:
        intake.fetch(job("a", size=1), len(body) - 1).result(10)
    assert larger.value.size == len(body)
    assert intake.fetch(job("a", size=1), len(body)).result(10).size == len(body)


def test_an_object_over_the_limit_is_rejected_however_little_was_reserved(make: Make, store: MemoryObjectStore) -> None:
    store.put("photos", "a", b"x" * 5001)
    for reserved in (1, 5000, LARGEST):
        with pytest.raises(Rejected, match="object-too-large"):
            make(max_object_bytes=5000).fetch(job("a", size=1), reserved).result(10)


def test_a_truncated_image_is_rejected_when_it_is_decoded(intake: Intake, store: MemoryObjectStore) -> None:
    store.put("photos", "a", encoded(noise(64, 64), "jpeg")[:-900])
    with pytest.raises(Rejected, match="broken-image"):
        decoding(intake, job("a")).result(10)


def test_a_wrong_ending_does_not_matter(intake: Intake, store: MemoryObjectStore) -> None:
    store.put("photos", "a.gif", encoded(ramp(), "webp"))
    assert read(intake, job("a.gif"))[1].format == "webp"


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("s3", "HTTP 500"),
        Unavailable("s3", "HTTP 403", fault="forbidden"),
        Unavailable("s3", "no end", fault="too-slow"),
    ],
)
def test_the_stores_fault_arrives_unchanged(intake: Intake, store: MemoryObjectStore, error: TagstreamError) -> None:
    store.put("photos", "a", encoded(ramp(), "png"))
    store.fail("photos", "a", error, times=1)
    arrived = intake.fetch(job("a"), LARGEST).exception(10)
    assert (type(arrived), str(arrived)) == (type(error), str(error))
    assert isinstance(arrived, Unavailable)
    assert isinstance(error, Unavailable)
    assert (arrived.fault, arrived.advice) == (error.fault, error.advice)
    assert intake.fetch(job("a"), LARGEST).exception(10) is None


def test_a_removed_or_replaced_object_is_reported_as_such(intake: Intake, store: MemoryObjectStore) -> None:
    with pytest.raises(Gone):
        intake.fetch(job("a"), LARGEST).result(10)
    store.put("photos", "a", encoded(ramp(), "png"))
    with pytest.raises(Superseded):
        intake.fetch(job("a", etag="another"), LARGEST).result(10)


def test_the_events_version_is_fetched(intake: Intake, store: MemoryObjectStore) -> None:
    older = store.put("photos", "a", encoded(ramp(30, 30), "png"))
    store.put("photos", "a", encoded(ramp(40, 40), "png"))
    assert read(intake, job("a", version_id=older.version_id))[1].width == 30


@pytest.mark.parametrize("discarded", [False, True])
def test_an_object_can_be_inspected_again_and_decoded_or_discarded_once(
    intake: Intake, store: MemoryObjectStore, discarded: bool
) -> None:
    store.put("photos", "a", encoded(ramp(), "png"))
    fetched, facts = read(intake, job("a"))
    assert intake.inspect(fetched).result(10) == facts
    if discarded:
        intake.discard(fetched)
        intake.discard(fetched)
    else:
        intake.decode(fetched, facts).result(10)
    with pytest.raises(RuntimeError):
        intake.decode(fetched, facts).result(10)
    with pytest.raises(RuntimeError):
        intake.inspect(fetched).result(10)


def test_neither_bytes_nor_pixels_are_in_a_repr(intake: Intake, store: MemoryObjectStore) -> None:
    body = encoded(ramp(), "png")
    store.put("photos", "a", body)
    fetched = intake.fetch(job("a"), LARGEST).result(10)
    assert repr(fetched.handle) == f"<EncodedBytes {len(body)}>"
    intake.discard(fetched)
    assert repr(fetched.handle) == "<EncodedBytes>"


def test_after_close_every_future_is_cancelled(intake: Intake, store: MemoryObjectStore) -> None:
    store.put("photos", "a", encoded(ramp(), "png"))
    fetched, facts = read(intake, job("a"))
    intake.close()
    intake.close()
    futures: list[Future[Any]] = [
        intake.fetch(job("a"), LARGEST),
        intake.inspect(fetched),
        intake.decode(fetched, facts),
    ]
    assert not wait(futures, 5).not_done
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(0)


@pytest.mark.slow
@pytest.mark.parametrize("make", [processes], indirect=True)
@pytest.mark.parametrize("kind", ["inspect", "decode"])
def test_no_image_waits_for_all_images_of_another_partition(
    intake: Intake, store: MemoryObjectStore, kind: Literal["inspect", "decode"]
) -> None:
    """Guard: a queue a partition. By one for all, who sends slow images to one partition holds the others."""
    store.put("photos", "large", encoded(noise(1200, 1200), "png"))
    store.put("photos", "small", encoded(ramp(), "png"))
    decoding(intake, job("small")).result(30)  # children are ready
    many = [read(intake, job("large")) for _ in range(40)]
    fetched, facts = read(intake, job("small", assignment=OTHER))
    waiting: list[Future[Any]] = [intake.decode(*each) for each in many]
    one = intake.inspect(fetched) if kind == "inspect" else intake.decode(fetched, facts)
    one.result(60)
    assert sum(future.done() for future in waiting) < 20, "it came after most that were there before"
    assert not wait(waiting, 100).not_done
