"""The facts of pictures on their way through a worker: from the pixels, from the cache, from equal images."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from PIL import Image

from schemas.enriched_image import EnrichedImage, ImageFacts
from tagstream_testing.memory import MemoryResultCache
from tests.support.exif import EXIF, PARIS, TAKEN, whole
from tests.support.harness import BUCKET, ColourTagger
from tests.support.manual_pipeline import ManualPipeline
from tests.support.readers import image_of
from workers.facts import pack_facts, unpack_facts
from workers.pipeline.cache_entries import content_of
from workers.pipeline.facts import fields_of
from workers.types import Document, FactsMode, PictureFacts

FULL = PictureFacts(TAKEN, 6, "0123456789abcdef", "3OcRJYB4d3h/iIeHeEh3eIhw+j2w", PARIS, "exif-broken")


def photo(*, broken: bool = False, note: str = "") -> bytes:
    """A JPEG with a date, an orientation and a place."""
    exif = whole("<", {EXIF: (4, (0xFFFFFF,))}) if broken else whole("<")
    picture = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * turn) for turn in range(3)])
    out = io.BytesIO()
    picture.save(out, "JPEG", comment=note, exif=b"Exif\0\0" + exif)
    return out.getvalue()


class Counting(MemoryResultCache):
    """Counts the calls that look up values."""

    calls = 0

    def lookup(self, keys: Sequence[str]) -> list[bytes | None]:
        self.calls += 1
        return super().lookup(keys)

    def facts(self) -> dict[str, bytes]:
        return {key: value for key, (_, value) in self._values.items() if ":facts:" in key}


def seen(manual: ManualPipeline, body: bytes | None = None) -> EnrichedImage:
    """The outcome of one more event of the photo."""
    etag = manual.store.put(BUCKET, "a", body or photo()).etag
    return again(manual, etag)


def again(manual: ManualPipeline, etag: str) -> EnrichedImage:
    manual.handle("a", etag=etag)
    (outcome,) = manual.done[max(manual.done)]
    manual.commit_all()
    return image_of(outcome)


def begun(facts: FactsMode = "on") -> tuple[ManualPipeline, Counting, EnrichedImage]:
    """A pipeline that has had the photo once."""
    cache = Counting()
    manual = ManualPipeline(cache=cache, facts=facts)
    return manual, cache, seen(manual)


def test_an_outcome_has_the_facts_of_its_picture_and_the_next_one_has_them_from_the_cache() -> None:
    manual, cache, first = begun()
    image = first.image
    assert (image.taken_at, image.orientation, image.place, image.facts_missing) == (TAKEN, 6, None, None)
    assert image.phash is not None
    assert image.thumbhash is not None
    (key,) = cache.facts()
    assert content_of(key) == first.source.sha256
    cache.calls = 0
    second = again(manual, first.source.etag)
    assert second.image == image
    assert (second.cache.tags, manual.reads, manual.tagger.batches) == ("hit", ["a"], [1])
    assert cache.calls == 1, "facts and tags in one"


def test_missing_facts_of_known_results_are_fetched_and_decoded_without_the_device() -> None:
    manual, cache, first = begun()
    cache.forget(list(cache.facts()))
    second = again(manual, first.source.etag)
    assert (second.image, second.tags, second.cache.tags) == (first.image, first.tags, "hit")
    assert (manual.reads, manual.tagger.batches) == (["a", "a"], [1])
    assert second.timings_ms.keys() & {"decode", "wait-device", "annotate"} == {"decode"}
    assert len(cache.facts()) == 1
    again(manual, first.source.etag)
    assert manual.reads == ["a", "a"]


def test_the_removal_of_an_object_drops_its_facts_where_it_drops_results() -> None:
    cache = Counting()
    manual = ManualPipeline(cache=cache, facts="on", forget_on_remove=True)
    first = seen(manual)
    assert [content_of(key) for key in cache.facts()] == [first.source.sha256]
    manual.remove("a")
    assert cache.facts() == {}


def test_known_facts_of_a_picture_that_another_model_computes_again_are_kept() -> None:
    class Another(ColourTagger):
        digest = "d" * 64

    _, cache, first = begun()
    before = cache.facts()
    manual = ManualPipeline(cache=cache, tagger=Another(), facts="on")
    assert seen(manual).image == first.image
    assert manual.tagger.batches == [1]
    assert cache.facts() == before


def test_equal_images_in_flight_share_their_facts() -> None:
    manual = ManualPipeline(partitions=2, facts="on")
    for partition, key in enumerate("ab"):
        manual.store.put(BUCKET, key, photo())
        manual.events(key, partition=partition)
    manual.turn()
    documents = [outcome for (outcome,) in manual.done.values() if isinstance(outcome, Document)]
    images = [orjson.loads(document.value)["image"] for document in documents]
    assert manual.tagger.batches == [1]
    assert images[0] == images[1]
    assert images[0]["taken_at"] == TAKEN


def test_facts_that_are_off_are_neither_told_nor_read_nor_kept() -> None:
    _, cache, first = begun("off")
    assert first.image.model_dump().keys() == {"format", "width", "height", "bytes"}
    assert cache.facts() == {}
    _, cache, _ = begun("on")
    assert seen(ManualPipeline(cache=cache, facts="off")).image == first.image


def test_a_place_is_told_only_where_it_is_wanted_and_has_entries_of_its_own() -> None:
    _, cache, first = begun("place")
    assert first.image.place is not None
    assert (first.image.place.latitude, first.image.place.longitude) == PARIS
    manual = ManualPipeline(cache=cache, facts="on")
    assert seen(manual).image.place is None
    assert (manual.reads, manual.tagger.batches, len(cache.facts())) == (["a"], [], 2)
    (value, _) = sorted(cache.facts().values(), key=len, reverse=True)
    cache.remember(dict.fromkeys(cache.facts(), value), {})
    assert again(manual, first.source.etag).image.place is None, "the cache can't make it tell one"


def test_a_broken_exif_costs_facts_and_never_the_tags() -> None:
    manual, _, _ = begun("place")
    told = seen(manual, photo(broken=True))
    assert (told.status, told.image.taken_at, told.image.facts_missing) == ("complete", None, "exif-broken")
    assert told.image.thumbhash is not None
    assert told.tags


@pytest.mark.parametrize(
    "wrong",
    [
        {"taken_at": "2026-05-03T17:04:05<b>"},
        {"taken_at": 5},
        {"orientation": 9},
        {"orientation": "6"},
        {"phash": "0123456789ABCDEF"},
        {"thumbhash": "A" * 44},
        {"thumbhash": None},
        {"place": [52.0]},
        {"place": [52.0, 181.0]},
        {"place": {"latitude": 1.0, "longitude": 1.0}},
        {"missing": "because"},
        {"more": 1},
        {"taken_at": "2026-05-03T17:04:05" + " " * 400},
    ],
    ids=str,
)
def test_a_value_that_no_event_could_tell_is_a_miss(wrong: dict[str, Any]) -> None:
    value = orjson.loads(pack_facts(FULL))
    assert unpack_facts(orjson.dumps(value), "place") == FULL
    assert unpack_facts(orjson.dumps(value | wrong), "place") is None
    for cut in (b"", b"[]", b"null", pack_facts(FULL)[:-1], None):
        assert unpack_facts(cut, "place") is None


def test_a_wrong_value_in_the_cache_is_replaced() -> None:
    manual, cache, first = begun()
    (key,), (right,) = cache.facts(), cache.facts().values()
    cache.remember({key: right.replace(b'"orientation":6', b'"orientation":66')}, {})
    assert again(manual, first.source.etag).image == first.image
    assert cache.facts() == {key: right}


def test_facts_in_all_their_forms_are_an_events_facts() -> None:
    for facts in (FULL, replace(FULL, taken_at="2026-05-03T17:04:05", place=None, missing="exif-too-large")):
        ImageFacts.model_validate({"format": "jpeg", "width": 1, "height": 1, "bytes": 1, **fields_of(facts)})
