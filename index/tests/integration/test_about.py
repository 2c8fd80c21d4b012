"""`tagstream search --about`: a sentence's embedding by a real text tower, against embeddings in PostgreSQL."""

import json
import os
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from index.tests.support import enriched, vector_of, written
from tagstream_index.database import Connection
from tagstream_index.page import process as page_process
from tagstream_index.sentences import embedding_of, open_text
from tagstream_testing.local.demo_search import PageProcess
from tagstream_testing.local.postgresql import PostgreSQL
from tests.support.command import Tagstream
from tests.unit.models import small_dual
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.ram.config import CLIP_SPACE

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SENTENCE = "a dog on a beach"


def test_a_sentence_finds_images_of_rams_space_alone_and_with_words(
    tables: Connection, clip: Bundle, tagstream: Tagstream
) -> None:
    meant = embedding_of(open_text(clip), SENTENCE)
    assert (meant.space, meant.vector.shape) == (CLIP_SPACE, (48,))
    assert meant.vector.dtype == np.float16

    def at(key: str, vector: np.ndarray, caption: str) -> None:
        written(tables, enriched(key, vector=vector.astype("<f2").tobytes(), caption=caption, tags=[]))

    at("same.jpg", meant.vector, "")
    at("opposite.jpg", -meant.vector, "a red car")
    line = ["search", "--about", SENTENCE, "--text", str(clip.folder), "--json"]

    def found(*more: str) -> list[str]:
        return [json.loads(each)["key"] for each in tagstream(*line, *more).done.splitlines()]

    assert found() == ["same.jpg"]
    assert sorted(found("red", "car")) == ["opposite.jpg", "same.jpg"]
    assert found("red", "car", "--prefix", "opp") == ["opposite.jpg"]
    assert found("--prefix", "opp") == [], "nothing within the distance is an answer"


def test_a_sentence_of_another_space_is_refused_by_both_names(
    tables: Connection, tmp_path: Path, tagstream: Tagstream
) -> None:
    written(tables, enriched("a.jpg", vector=vector_of(1, 48)))
    other = small_dual.small_dual("siglip", tmp_path / "siglip")
    said = tagstream("search", "--about", SENTENCE, "--text", other.folder).fails()
    assert "small-siglip" in said
    assert CLIP_SPACE in said


def test_the_pages_command_reads_sentences_by_the_bundle_that_it_names(
    tables: Connection, clip: Bundle, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    vector = embedding_of(open_text(clip), SENTENCE).vector
    written(tables, enriched("a.jpg", vector=vector.astype("<f2").tobytes(), caption="", tags=[]))
    stores = {"TAGSTREAM_S3_ENDPOINT": "http://127.0.0.1:9", "TAGSTREAM_BUCKETS": "photos"}
    schema = os.environ["TAGSTREAM_INDEX_SCHEMA"]
    index = {"TAGSTREAM_INDEX_DSN": postgresql.dsn, "TAGSTREAM_INDEX_SCHEMA": schema}
    process = PageProcess(tmp_path / "page", stores | index, ["--text", str(clip.folder)])
    process.start()
    try:
        with urllib.request.urlopen(f"{process.url}/?{urlencode({'q': SENTENCE})}", timeout=60) as answer:
            assert "photos/a.jpg" in answer.read().decode()
        process.stop()
        process.must_have_ended_well()
    finally:
        process.kill()


def test_the_pages_command_refuses_an_invalid_bundle(
    tables: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream
) -> None:
    monkeypatch.setattr(page_process, "start_logging", lambda *_, **__: None)  # to a stream that ends with this test
    words = ("index", "serve", "--port", "0", "--text", tmp_path)
    assert str(tmp_path) in tagstream(*words, S3_ENDPOINT="http://127.0.0.1:9", BUCKETS="photos").fails()


@pytest.mark.parametrize("sentence", ["", " "])
def test_no_sentence_is_refused(clip: Bundle, sentence: str) -> None:
    with pytest.raises(Misconfigured, match="empty"):
        embedding_of(open_text(clip), sentence)
