"""Renditions on their way through a worker: read in their originals' place, or passed over."""

import hashlib
import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from schemas.correction import correction
from schemas.enriched_image import EnrichedImage, ReadRendition
from tagstream_testing.memory import MemoryCorrections, MemoryResultCache
from tests.support.exif import PARIS, TAKEN, tiff, whole
from tests.support.harness import BUCKET, ColourTagger
from tests.support.inline_intake import InlineIntake
from tests.support.manual_pipeline import ManualPipeline
from tests.support.measured import measuring
from tests.support.readers import Told, read
from workers import metrics
from workers.errors import Fault, Unavailable
from workers.intake import Limits
from workers.ports import ResultCache
from workers.rendition import NO_RENDITIONS, Rendition

WEB = Rendition.of("{bucket}/web/{key}.jpg", [BUCKET])
COPY = "web/a.jpg"
RED, BLUE = (255, 0, 0), (0, 0, 255)
MORE = bytes(100_000)
"""So that a file has more than the bytes that are looked at first."""
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + MORE


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (64, 48), exif: bytes = b"", note: str = "") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "JPEG", exif=exif and b"Exif\0\0" + exif, comment=note)
    return out.getvalue()


ORIGINAL = jpeg(RED, exif=whole("<")) + MORE
"""Turned by its EXIF: upright it is 48 wide."""
GOOD = jpeg(BLUE, (24, 32))


def pipeline(cache: ResultCache | None = None, rendition: Rendition = WEB, **more: Any) -> ManualPipeline:
    return ManualPipeline(cache=cache, facts=more.pop("facts", "place"), rendition=rendition, **more)


def limited(max_object_bytes: int, fetch_s: float = 25.0) -> ManualPipeline:
    transforms, allowed = (ColourTagger.transform,), Limits(max_object_bytes, fetch_s, facts="place")
    return pipeline(make_intake=lambda store: InlineIntake(store, transforms, allowed, rendition=WEB))


def told(manual: ManualPipeline, key: str = "a", **event: Any) -> Told:
    """The outcome of one more event, a second after what was stored."""
    manual.clock.advance(1)
    manual.handle(key, **event)
    assert not manual.in_flight, "nothing waits"
    (outcome,) = manual.done[max(manual.done)]
    manual.commit_all()
    manual.pipeline.lookup.work()
    return read(outcome)


def image_of(outcome: Told) -> EnrichedImage:
    assert isinstance(outcome, EnrichedImage), outcome
    return outcome


def test_a_rendition_is_read_in_the_place_of_its_original_which_all_else_is_of() -> None:
    manual = pipeline()
    stored = manual.store.put(BUCKET, "a", ORIGINAL)
    manual.clock.advance(5)
    manual.store.put(BUCKET, COPY, GOOD)
    with measuring(metrics.RENDITIONS) as measured:
        outcome = image_of(told(manual, etag=stored.etag))
        assert measured.by("answer", metrics.RENDITIONS) == {"read": 1}
    assert manual.reads == ["a", COPY]
    assert [tag.name for tag in outcome.tags] == ["blue"]
    source, image = outcome.source, outcome.image
    assert source.read == ReadRendition(bucket=BUCKET, key=COPY, width=24, height=32, orientation=1)
    assert (source.key, source.etag, source.version_id) == ("a", stored.etag, stored.version_id)
    assert source.last_modified == stored.last_modified
    assert source.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert (image.of, image.format, image.width, image.height) == ("rendition", "jpeg", 64, 48)
    assert (image.bytes, image.taken_at, image.orientation) == (len(ORIGINAL), TAKEN, 6)
    assert image.place is not None
    assert (image.place.latitude, image.place.longitude) == PARIS
    assert image.thumbhash is not None


Change = Callable[[ManualPipeline], object]


def copy(body: bytes) -> Change:
    return lambda manual: manual.store.put(BUCKET, COPY, body)


def failing(fault: Fault) -> Change:
    def make(manual: ManualPipeline) -> None:
        manual.store.put(BUCKET, COPY, GOOD)
        manual.store.fail(BUCKET, COPY, Unavailable("s3", "no", fault=fault))

    return make


@pytest.mark.parametrize(
    ("make", "answers"),
    [
        (lambda _: None, {"absent": 1}),
        (failing("forbidden"), {"refused": 1}),
        (failing("service"), {"failed": 1}),
        (failing("too-slow"), {"failed": 1}),
        (copy(jpeg(BLUE, (32, 24))), {"read": 1, "shape": 1}),
        (copy(jpeg(BLUE, (24, 31))), {"read": 1, "shape": 1}),
        (copy(b""), {"broken": 1}),
        (copy(b"no image"), {"read": 1, "broken": 1}),
        (copy(GOOD[:-200]), {"read": 1, "broken": 1}),
        (copy(jpeg(BLUE, (2, 2))), {"read": 1, "broken": 1}),  # smaller than TAGSTREAM_MIN_SIDE
        (copy(GOOD + 2 * MORE), {"broken": 1}),  # larger than what its original reserves
    ],
)
def test_a_useless_rendition_is_passed_over_at_once(make: Change, answers: dict[str, int]) -> None:
    manual = pipeline()
    stored = manual.store.put(BUCKET, "a", ORIGINAL)
    make(manual)
    with measuring(metrics.RENDITIONS, metrics.RETRIES) as measured:
        outcome = image_of(told(manual, etag=stored.etag, size=len(ORIGINAL)))
        assert measured.by("answer", metrics.RENDITIONS) == answers
        assert not measured.by("dependency", metrics.RETRIES)
    assert [tag.name for tag in outcome.tags] == ["red"]
    assert (outcome.source.read, outcome.image.of) == (None, None)
    assert (outcome.image.width, outcome.image.orientation) == (64, 6)
    assert manual.pipeline.fetch.bucket_breakers.breakers() == {"closed": 1, "open": 0, "half-open": 0}


def test_a_rendition_that_does_not_come_leaves_its_original_time() -> None:
    manual = limited(20 << 20, fetch_s=0.4)
    manual.store.put(BUCKET, "a", ORIGINAL)
    manual.store.put(BUCKET, COPY, GOOD)
    manual.store.delay(BUCKET, COPY, 0.3)
    manual.store.delay(BUCKET, "a", 0.05)
    with measuring(metrics.RENDITIONS) as measured:
        assert image_of(told(manual)).source.read is None
        assert measured.by("answer", metrics.RENDITIONS) == {"failed": 1}
    manual.store.delay(BUCKET, "a", 0.25)
    manual.handle("a")
    assert manual.in_flight == {"wait-store": 1}, "both requests for the original share one time"


def test_a_rendition_from_before_its_original_is_of_another_content() -> None:
    manual = pipeline()
    manual.store.put(BUCKET, COPY, GOOD)
    manual.clock.advance(1)
    manual.store.put(BUCKET, "a", ORIGINAL)
    assert image_of(told(manual)).source.read is None


def test_what_can_not_be_read_itself_is_read_by_its_rendition() -> None:
    manual = limited(50_000)
    manual.store.put(BUCKET, "a", ORIGINAL)
    manual.store.put(BUCKET, COPY, GOOD)
    for size in (None, len(ORIGINAL)):
        assert image_of(told(manual, size=size)).image.bytes == len(ORIGINAL)
    manual.store.remove(BUCKET, COPY)
    for size in (None, len(ORIGINAL)):
        assert told(manual, size=size).reason == "object-too-large"  # type: ignore[union-attr]  # a Failure

    manual = pipeline()
    manual.store.put(BUCKET, "a", HEIC)
    manual.store.put(BUCKET, COPY, GOOD)
    image = image_of(told(manual)).image
    assert (image.format, image.width, image.bytes) == ("jpeg", 24, len(HEIC)), "its own size is not known"
    manual.store.put(BUCKET, "a", tiff("<") + MORE)  # as a camera's raw file
    manual.clock.advance(1)
    manual.store.put(BUCKET, COPY, GOOD)
    manual.clock.advance(1)
    image = image_of(told(manual)).image
    assert (image.format, image.width, image.taken_at, image.orientation) == ("jpeg", 24, TAKEN, 1)
    manual.store.put(BUCKET, "a", HEIC)
    manual.store.put(BUCKET, COPY, b"no image")
    assert told(manual).reason == "format-not-allowed"  # type: ignore[union-attr]  # a Failure, of the original


def test_a_small_original_takes_one_request() -> None:
    manual = pipeline()
    manual.store.put(BUCKET, "a", jpeg(RED))
    manual.store.put(BUCKET, COPY, GOOD)
    assert image_of(told(manual)).source.read is None
    assert manual.reads == ["a"]


def test_an_older_version_has_no_rendition() -> None:
    manual = pipeline()
    old = manual.store.put(BUCKET, "a", ORIGINAL)
    new = manual.store.put(BUCKET, "a", jpeg((0, 255, 0), exif=whole("<")) + MORE)
    manual.store.put(BUCKET, COPY, GOOD)
    for version, name in ((old, "red"), (new, "blue")):
        outcome = image_of(told(manual, version_id=version.version_id))
        assert ([tag.name for tag in outcome.tags], outcome.source.etag) == ([name], version.etag)

    manual = pipeline()
    old = manual.store.put(BUCKET, "a", ORIGINAL)
    manual.store.remove(BUCKET, "a")
    assert [tag.name for tag in image_of(told(manual, version_id=old.version_id, etag=old.etag)).tags] == ["red"]


def test_an_original_that_changed_since_its_event_is_superseded_and_one_that_is_gone_skipped() -> None:
    manual = pipeline()
    manual.store.put(BUCKET, "a", ORIGINAL)
    manual.store.put(BUCKET, COPY, GOOD)
    assert told(manual, etag="another").reason == "superseded"  # type: ignore[union-attr]  # a Skip
    manual.store.remove(BUCKET, "a")
    assert told(manual).reason == "gone"  # type: ignore[union-attr]  # a Skip


def test_a_known_original_asks_the_store_for_nothing_while_the_settings_stay() -> None:
    first = pipeline()
    stored = first.store.put(BUCKET, "a", ORIGINAL)
    first.store.put(BUCKET, COPY, GOOD)
    outcome = image_of(told(first, etag=stored.etag))
    first.clock.advance(1)

    intake = InlineIntake(first.store, (first.tagger.transform,), Limits(facts="place"), rendition=WEB)

    def later(**changed: Any) -> tuple[EnrichedImage, list[str]]:
        first.store.reads.clear()
        return image_of(told(pipeline(first.cache, intake=intake, **changed), etag=stored.etag)), first.reads

    again, reads = later()
    assert (again.source, again.image, reads) == (outcome.source, outcome.image, [])
    assert again.cache.source == "hit"
    for changed in (NO_RENDITIONS, Rendition.of("{bucket}/w/{key}.jpg", [BUCKET])):
        assert later(rendition=changed)[1] == ["a", COPY], "its place is another by now"
    assert later(allows=Limits(facts="on").allow)[1] == ["a", COPY], "it tells where it was taken"


def test_a_rendition_of_this_second_is_believed_once_the_object_is_seen_again() -> None:
    manual = pipeline()
    stored = manual.store.put(BUCKET, "a", ORIGINAL)
    manual.clock.advance(1)
    manual.store.put(BUCKET, COPY, GOOD)
    manual.clock.advance(-1)
    outcome = image_of(told(manual, etag=stored.etag))
    assert (manual.reads, outcome.source.read is None) == (["a", COPY, "a"], False)


def test_a_rendition_that_was_made_after_the_first_event_is_known_once_it_was_read() -> None:
    manual = pipeline()
    stored = manual.store.put(BUCKET, "a", ORIGINAL)
    assert image_of(told(manual, etag=stored.etag)).source.read is None
    manual.store.put(BUCKET, COPY, GOOD)
    assert image_of(told(manual, etag=stored.etag)).source.read is None, "it is known"

    green = ColourTagger()
    green.digest = "d" * 64
    intake = InlineIntake(manual.store, (green.transform,), Limits(facts="place"), rendition=WEB)
    for number in range(2):
        later = pipeline(manual.cache, intake=intake, tagger=green)
        manual.store.reads.clear()
        assert image_of(told(later, etag=stored.etag)).source.read is not None
        assert manual.reads == ([] if number else ["a", COPY])


def test_a_persons_word_on_the_original_holds_for_its_rendition_read_or_known() -> None:
    said = MemoryCorrections()
    manual = pipeline(corrections=said)
    stored = manual.store.put(BUCKET, "a", ORIGINAL)
    manual.store.put(BUCKET, COPY, GOOD)
    content = hashlib.sha256(ORIGINAL).hexdigest()
    said.produce(correction(BUCKET, "a", added=["kite"], sha256=content, etag=stored.etag))
    said.follow(0)
    for source in ("miss", "hit"):
        outcome = image_of(told(manual, etag=stored.etag))
        assert (outcome.cache.source, [tag.name for tag in outcome.tags]) == (source, ["kite", "blue"])


def test_the_removal_of_an_original_purges_what_is_known_of_its_rendition() -> None:
    cache = MemoryResultCache()
    manual = pipeline(cache, forget_on_remove=True)
    manual.store.put(BUCKET, "a", ORIGINAL)
    manual.store.put(BUCKET, COPY, GOOD)
    etag = manual.store.head(BUCKET, "a", deadline_s=1).etag
    content = image_of(told(manual, etag=etag)).source.sha256

    def kept(removed: str) -> list[str]:
        manual.remove(removed)
        return [name for name in (*cache._values, *cache._hashes) if content in name]

    assert kept(COPY)
    assert read(manual.done[max(manual.done)][0]).reason == "rendition"  # type: ignore[union-attr]  # a Skip
    assert kept("a") == []


def test_equal_renditions_share_results_and_not_their_originals_facts() -> None:
    manual = pipeline()
    manual.store.put(BUCKET, "a", ORIGINAL)
    manual.store.put(BUCKET, "b", jpeg(RED, (48, 64)) + MORE)
    for key in "ab":
        manual.store.put(BUCKET, f"web/{key}.jpg", GOOD)
    manual.handle("a", "b")
    one, other = (image_of(read(outcome)) for (outcome,) in (manual.done[number] for number in sorted(manual.done)))
    assert len(manual.tagger.batches) == 1
    assert (one.image.taken_at, one.image.width, one.image.orientation) == (TAKEN, 64, 6)
    assert (other.image.taken_at, other.image.width, other.image.orientation) == (None, 48, 1)
    assert other.image.place is None
    assert one.source.sha256 == other.source.sha256
    assert one.source.read != other.source.read
    assert one.image.thumbhash == other.image.thumbhash


def test_of_equal_renditions_that_are_broken_each_original_is_read() -> None:
    manual = pipeline()
    colours = {"a": RED, "b": (0, 255, 0), "c": RED}
    for key, colour in colours.items():
        manual.store.put(BUCKET, key, jpeg(colour, exif=whole("<"), note=key) + MORE)
        manual.store.put(BUCKET, f"web/{key}.jpg", b"no image")
    manual.handle(*colours)
    outcomes = [image_of(read(manual.done[number][0])) for number in sorted(manual.done)]
    assert [outcome.tags[0].name for outcome in outcomes] == ["red", "green", "red"]
    assert [outcome.source.read for outcome in outcomes] == [None] * 3
    assert not manual.in_flight
    assert not any(budget.used for stage in manual.pipeline.stages for budget in stage.budgets.values())


def test_a_rendition_of_another_shape_is_not_used_though_an_equal_one_was() -> None:
    manual = pipeline()
    for key, size in (("a", (48, 64)), ("b", (64, 48)), ("c", (48, 64))):
        manual.store.put(BUCKET, key, jpeg(RED, size, note=key) + MORE)
        manual.store.put(BUCKET, f"web/{key}.jpg", GOOD)  # as one picture for all that a converter can't read
    manual.handle(*"abc")
    outcomes = [image_of(read(manual.done[number][0])) for number in sorted(manual.done)]
    assert [outcome.tags[0].name for outcome in outcomes] == ["blue", "red", "blue"]


def test_a_size_and_an_orientation_are_of_the_same_file() -> None:
    manual = pipeline()
    out = io.BytesIO()
    Image.new("RGB", (64, 48), RED).save(out, "WEBP", exif=b"Exif\0\0" + whole("<"))  # behind its pixels
    manual.store.put(BUCKET, "a", out.getvalue() + MORE)
    manual.store.put(BUCKET, COPY, GOOD)
    image = image_of(told(manual)).image
    assert (image.format, image.width, image.orientation) == ("webp", 64, None)
