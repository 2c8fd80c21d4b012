"""The facts of a picture from the photo to its outcomes, on real servers with a real worker."""

import uuid
from pathlib import Path

import pytest
import redis

from schemas.enriched_image import EnrichedImage
from tests.fixtures import Stack
from tests.support.exif import PARIS, TAKEN
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, worker
from tests.unit.pipeline.test_facts import photo

pytestmark = pytest.mark.servers


def test_facts_go_from_the_photo_to_its_outcome_and_from_the_cache_to_the_next(stack: Stack, tmp_path: Path) -> None:
    site = Site(stack, f"facts-{uuid.uuid4().hex[:8]}")
    site.upload("broken.jpg", photo(broken=True, note=site.name))
    etag = site.upload("a.jpg", photo(note=site.name))

    def outcomes(process: WorkerProcess, *keys: str) -> list[EnrichedImage]:
        """The outcomes of one more event for each key, in this order."""
        before = len(site.read(site.enriched))
        site.send([(site.own(key, etag=etag if key == "a.jpg" else None), ()) for key in keys])
        eventually(lambda: len(site.read(site.enriched)) == before + len(keys), 90, process.said)
        found = sorted(site.enriched_images(), key=_made)
        return sorted(found[before:], key=lambda each: keys.index(each.source.key))

    with worker(site, "w", tmp_path, TAGSTREAM_FACTS="place") as process:
        first, broken = outcomes(process, "a.jpg", "broken.jpg")
        image = first.image
        assert (image.taken_at, image.orientation, image.facts_missing) == (TAKEN, 6, None)
        assert image.place is not None
        assert (image.place.latitude, image.place.longitude) == PARIS
        assert image.phash is not None
        assert (broken.status, broken.image.facts_missing) == ("complete", "exif-broken")
        assert broken.image.thumbhash == image.thumbhash
        (again,) = outcomes(process, "a.jpg")
        assert again.image == image
        assert "decode" not in again.timings_ms
        with redis.Redis.from_url(stack.valkey.url) as client:
            assert client.delete(*client.scan_iter(f"*:facts:{first.source.sha256}:*")) == 1
        (late,) = outcomes(process, "a.jpg")
        assert (late.image, late.cache.tags) == (image, "hit")
        assert "decode" in late.timings_ms
        assert "annotate" not in late.timings_ms
        assert process.terminate() == 0
    with worker(site, "v", tmp_path) as process:
        (on,) = outcomes(process, "a.jpg")
        assert on.image == image.model_copy(update={"place": None})
        assert process.terminate() == 0
    assert site.letters() == []


def _made(outcome: EnrichedImage) -> str:
    return outcome.produced_at
