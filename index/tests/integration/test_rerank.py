"""`tagstream search --about … --rerank`: images of a real store, ordered by an alignment part's matching."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from PIL import Image

from index.tests.support import enriched, written
from tagstream_index import likeness
from tagstream_index.database import Connection
from tagstream_index.sentences import embedding_of, open_text
from tagstream_testing.local.seaweedfs import SeaweedFS
from tests.fixtures import Unique
from tests.support.command import Tagstream
from tests.support.images import encoded
from tests.unit.models.small import small_bundle
from tests.unit.models.test_alignment import aligned_bundle
from workers.backends.s3.store import MinioObjectStore
from workers.models.bundle import Bundle
from workers.models.ram.alignment import load_alignment
from workers.models.tagger import sample_image

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SENTENCE = "a dog on a beach"
KEYS = [f"{number} %2F ü.png" for number in range(6)]
GONE, BROKEN = KEYS[1], KEYS[3]


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return aligned_bundle(tmp_path_factory.mktemp("bundles") / "aligned")


@pytest.fixture
def store(s3: SeaweedFS, unique: Unique, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MinioObjectStore]:
    """Its bucket is `photos`, as outcomes of these tests say."""
    settings = {
        "S3_ENDPOINT": s3.endpoint_url,
        "S3_REGION": s3.region,
        "S3_ACCESS_KEY": s3.access_key,
        "S3_SECRET_KEY": s3.secret_key,
        "BUCKETS": "photos",
        "DEVICE": "cpu",
        "STATE_DIR": str(tmp_path / "state"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"TAGSTREAM_{name}", value)
    with closing(MinioObjectStore(s3.endpoint_url, s3.access_key, s3.secret_key, s3.region)) as made:
        made.make_bucket("photos")
        yield made


def picture(number: int) -> bytes:
    return encoded(Image.fromarray(sample_image(64, number)), "png")


def scores(aligned: Bundle) -> dict[str, float]:
    """Each image's matching logit plus similarity."""
    alignment = load_alignment(aligned)
    parts = alignment.images([sample_image(64, number) for number in range(len(KEYS))])
    pairs = torch.tensor([(number, 0) for number in range(len(KEYS))])
    found = alignment.match(parts, [SENTENCE], pairs) + parts.units @ alignment.sentences([SENTENCE])[0]
    return dict(zip(KEYS, found.tolist(), strict=True))


def test_the_best_of_a_sentence_are_ordered_by_matching_and_unreadable_images_keep_their_places(
    tables: Connection,
    clip: Bundle,
    aligned: Bundle,
    store: MinioObjectStore,
    tagstream: Tagstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vector = embedding_of(open_text(clip), SENTENCE).vector.astype("<f2").tobytes()
    for number, key in enumerate(KEYS):
        written(tables, enriched(key, vector=vector, caption="", tags=[]))
        if key != GONE:
            store.put("photos", key, b"no image" if key == BROKEN else picture(number))
    line = ["search", "--about", SENTENCE, "--text", str(clip.folder), "--json"]

    def found(*more: str) -> list[str]:
        return [json.loads(each)["key"] for each in tagstream(*line, *more).done.splitlines()]

    assert found() == KEYS, "as near as each other: by name"
    wanted = sorted({*KEYS} - {GONE, BROKEN}, key=lambda key: -scores(aligned)[key])
    assert wanted != sorted(wanted)
    wanted[1:1], wanted[3:3] = [GONE], [BROKEN]
    again = ("--rerank", str(aligned.folder))
    shown = tagstream(*line, *again)
    assert [json.loads(each)["key"] for each in shown.done.splitlines()] == wanted
    for key in (GONE, BROKEN):
        assert f"photos/{key} keeps its place: " in shown.err
    assert shown.err.count("keeps its place") == 2

    monkeypatch.setattr(likeness, "MOST", 1)
    assert found(*again) == KEYS, "what stands behind the limit is not read"
    monkeypatch.setattr(likeness, "MOST", 100)
    monkeypatch.setenv("TAGSTREAM_BUCKETS", "other")
    assert found(*again) == KEYS, "no bucket is read but those of the settings"


def test_a_model_that_cant_rerank_is_an_error_of_one_sentence(
    tables: Connection, clip: Bundle, store: MinioObjectStore, tmp_path: Path, tagstream: Tagstream
) -> None:
    vector = embedding_of(open_text(clip), SENTENCE).vector.astype("<f2").tobytes()
    written(tables, enriched("a.png", vector=vector))
    plain = str(small_bundle("tag2text", tmp_path / "plain").folder)
    about = ["--about", SENTENCE, "--text", str(clip.folder)]
    for words, complaint in ((about, "has no alignment part"), ([], "give --about SENTENCE too")):
        assert complaint in tagstream("search", *words, "--rerank", plain).fails()
