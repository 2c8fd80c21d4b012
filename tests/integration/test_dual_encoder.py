"""A worker process with a dual encoder: vectors of images without its text tower, and tags once it has labels."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from schemas.enriched_image import EnrichedImage
from tests.fixtures import Stack, Unique
from tests.integration.test_ram_and_tag2text import enriched
from tests.support.worker_process import Site
from tests.unit.models.small_dual import labelled, small_dual
from workers.models.bundle import BESIDE, Bundle
from workers.models.device import choose_device
from workers.models.dual.adapters import build_tagger
from workers.models.tagger import sample_image

pytestmark = pytest.mark.timeout(240)

IMAGES = {f"{seed}.png": sample_image(64, seed) for seed in range(3)}


@pytest.fixture
def site(stack: Stack, unique: Unique) -> Site:
    site = Site(stack, unique("dual"))
    for key, pixels in IMAGES.items():
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        site.upload(key, out.getvalue())
    return site


def test_an_events_vector_is_the_towers_and_its_tags_are_the_labels(site: Site, tmp_path: Path) -> None:
    plain = small_dual("siglip", tmp_path / "siglip")
    named = labelled(plain, tmp_path / "named")
    for name in BESIDE:
        (plain.folder / name).unlink(missing_ok=True)  # as where workers run
    directly = build_tagger(plain, choose_device("cpu"), "fp32")
    wanted = {key: directly.embed([each])[0] for key, each in IMAGES.items()}
    for bundle, want in ((plain, "embedding"), (named, "tags,embedding")):
        found = enriched(
            site,
            tmp_path,
            [site.own(key, id=f"{want} {key}") for key in IMAGES],
            TAGSTREAM_TAGGER=str(bundle.folder),
            TAGSTREAM_WANT=want,
        )
        mine = [image for event, image in found.items() if event.startswith(f"{want} ")]
        assert len(mine) == len(IMAGES)
        for image in mine:
            assert image.embedding is not None
            assert image.embedding.model == directly.embedding_model  # the same tower's, with labels and without
            _check(image, bundle, wanted[image.source.key])


def _check(image: EnrichedImage, bundle: Bundle, vector: NDArray[np.float32]) -> None:
    assert image.embedding is not None
    assert (image.status, image.embedding.space) == ("complete", "small-siglip")
    found = np.frombuffer(base64.b64decode(image.embedding.data), "<f2").astype(np.float32)
    assert float(found @ vector) == pytest.approx(1, abs=1e-3)
    assert {tag.name for tag in image.tags} <= set(bundle.labels)
    assert bool(image.tags) == bool(bundle.labels)
