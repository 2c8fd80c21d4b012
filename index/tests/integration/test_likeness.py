"""`tagstream search --like`: a photo's embedding by a real model, against embeddings in PostgreSQL."""

import json
from pathlib import Path

import pytest

from index.tests.support import enriched
from tagstream_index.database import Connection
from tagstream_index.likeness import embedding_of
from tagstream_index.merge import Spaces, merge
from tests.support.command import Tagstream
from tests.support.images import encoded, ramp
from tests.unit.models.small import small_bundle
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.ram.config import CLIP_SPACE

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _processor_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAGSTREAM_DEVICE", "cpu")
    monkeypatch.setenv("TAGSTREAM_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(ramp(), "jpeg"))
    return path


def test_a_photo_finds_itself(tables: Connection, photo: Path, ram: Bundle, tagstream: Tagstream) -> None:
    like = embedding_of(photo, str(ram.folder), str)
    assert like.space == CLIP_SPACE
    same = enriched("same.jpg", vector=like.vector.astype("<f2").tobytes(), space=like.space)
    opposite = enriched("opposite.jpg", vector=(-like.vector).astype("<f2").tobytes(), space=like.space)
    rows = [same.row(), opposite.row()]
    spaces = Spaces(tables)
    spaces.meet(rows)
    with tables.transaction():
        merge(tables, rows, spaces.known)
    (found,) = map(json.loads, tagstream("search", "--like", photo, "--bundle", ram.folder, "--json").done.splitlines())
    assert found["key"] == "same.jpg"
    assert found["distance"] == pytest.approx(0, abs=1e-3)


def test_a_tagger_without_embeddings_is_refused(
    tables: Connection, photo: Path, tmp_path: Path, tagstream: Tagstream
) -> None:
    bundle = small_bundle("tag2text", tmp_path / "tag2text")
    assert "embeddings" in tagstream("search", "--like", photo, "--bundle", bundle.folder).fails()


@pytest.mark.parametrize("body", [b"", b"no image", encoded(ramp(400, 300), "jpeg")[:700]])
def test_a_file_that_is_no_photo_is_refused_by_name(body: bytes, ram: Bundle, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(body)
    with pytest.raises(Misconfigured, match=r"broken\.jpg: "):
        embedding_of(broken, str(ram.folder), str)
