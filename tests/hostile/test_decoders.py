"""A decoder that an image took over lies about those after it, as if nothing was: what the cache keeps of that."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from schemas.enriched_image import EnrichedImage
from tests.chaos.broken_codec import FOLDER, png_that
from tests.fixtures import Stack
from tests.support.images import encoded, ramp
from tests.support.waiting import eventually
from tests.support.worker_process import Site, worker

pytestmark = pytest.mark.timeout(300)


def test_what_a_decoder_that_was_taken_over_said_is_not_kept_once_it_dies(stack: Stack, tmp_path: Path) -> None:
    """Guard: the cache's entries of its last minute become misses; else each copy of an image gets its false tags."""
    site = Site(stack, f"hostile-{uuid.uuid4().hex[:8]}")
    (tmp_path / "profiles.json").write_text('{"default": {"all": 0.02}}')  # so that any image has tags
    settings = {
        "PYTHONPATH": str(FOLDER),
        "TAGSTREAM_DECODER": "processes",
        "TAGSTREAM_DECODE_THREADS": "1",
        "TAGSTREAM_PROFILES": str(tmp_path / "profiles.json"),
    }
    victim = encoded(ramp(90, 70), "png")
    with worker(site, "w", tmp_path, **settings) as process:

        def outcome_of(key: str, body: bytes) -> EnrichedImage:
            site.upload(key, body)
            site.send([(site.own(key), ())])
            found: list[EnrichedImage] = []

            def came() -> bool:
                outputs = [each for each in site.outputs() if isinstance(each, EnrichedImage)]
                found[:] = [each for each in outputs if each.source.key == key]
                return bool(found)

            eventually(came, 60, process.said)
            return found[0]

        eventually(lambda: len(process.decoders()) == 1, 60, process.said)
        (before,) = process.decoders()
        outcome_of("takes-over.png", png_that("blackens"))
        lied, again = outcome_of("victim.png", victim), outcome_of("copy.png", victim)
        assert (lied.cache.tags, again.cache.tags) == ("miss", "hit")
        assert process.decoders() == [before]
        outcome_of("dies.png", png_that("dies", "once"))
        assert process.decoders() != [before]
        true = outcome_of("another-copy.png", victim)
        assert true.cache.tags == "miss", "the lie was kept"
        assert true.tags != lied.tags, "the decoder was not taken over"
