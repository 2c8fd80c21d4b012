"""Events for a folder or a bucket, and the place to go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.image_event import ImageEvent, parse_message
from tests.unit.cli.conftest import Ran
from workers.cli.emit import Emission, ResumePoint, batches
from workers.cli.events import Dialect, StoredImage, event_for
from workers.errors import Misconfigured
from workers.settings import Settings


@pytest.mark.parametrize("dialect", ["own", "s3"])
@pytest.mark.parametrize("key", ["a.jpg", "with space/plus+percent%/ünï#?.png", "a//b"])
def test_an_event_reads_back_as_the_image_it_asks_for(dialect: Dialect, key: str) -> None:
    message = event_for(StoredImage("photos", key, 123, "abc"), "images", dialect)
    assert message.key == f"photos/{key}".encode()
    (event,) = parse_message(message.value, message.headers, topic="images", partition=0, offset=5)
    assert isinstance(event, ImageEvent)
    assert (event.dialect, event.action) == (dialect, "enrich")
    assert (event.bucket, event.key, event.etag, event.size) == ("photos", key, "abc", 123)
    assert event.sequencer is None


def test_batches_keep_order_and_lose_nothing() -> None:
    assert list(batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batches([], 3)) == []


def test_a_place_is_kept_for_its_command_alone(tmp_path: Path) -> None:
    place = ResumePoint(tmp_path, ["folder", "bucket"])
    assert place.last() == ""
    place.note("k/1")
    assert ResumePoint(tmp_path, ["folder", "bucket"]).last() == "k/1"
    assert ResumePoint(tmp_path, ["folder", "other"]).last() == ""
    place.forget()
    place.forget()
    assert place.last() == ""


@pytest.mark.parametrize("content", ["{", "{}", "[]", "[" * 100_000, "9" * 100_000])
def test_a_ruined_place_is_told_with_the_way_out(tmp_path: Path, content: str) -> None:
    place = ResumePoint(tmp_path, ["x"])
    place.note("k")
    (path,) = (tmp_path / "emit").iterdir()
    path.write_text(content)
    with pytest.raises(Misconfigured, match="--again"):
        place.last()


@pytest.mark.parametrize("more", [[], ["--again"]])
def test_a_state_folder_that_can_not_be_written_is_told_before_anything_is_sent(
    more: list[str], tagstream: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TAGSTREAM_STATE_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("TAGSTREAM_KAFKA_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("TAGSTREAM_S3_ENDPOINT", "http://127.0.0.1:1")
    ran = tagstream("emit", "--bucket", "photos", *more)
    assert ran.code == 2
    assert "TAGSTREAM_STATE_DIR: " in ran.err
    assert "can't be written: Not a directory. Name a folder that this user may write." in ran.err


def emission(folder: Path, tmp_path: Path) -> Emission:
    settings = Settings(kafka_servers=("a:1",), s3_endpoint="http://s:1", state_dir=tmp_path / "state")
    return Emission(settings, folder, "photos", "in/", "images", "own")


def test_a_folders_images_come_in_key_order_and_go_on_behind_the_place(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "b").mkdir(parents=True)
    for name in ("b/2.PNG", "b/1.jpg", "a.webp", "notes.txt", "b.gif"):
        (folder / name).write_bytes(b"x")
    found = [key for key, _ in emission(folder, tmp_path)._files("")]
    assert found == ["in/a.webp", "in/b.gif", "in/b/1.jpg", "in/b/2.PNG"]
    assert [key for key, _ in emission(folder, tmp_path)._files("in/b.gif")] == ["in/b/1.jpg", "in/b/2.PNG"]


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Misconfigured, match="holds no images"):
        emission(tmp_path / "empty", tmp_path)._files("")


@pytest.mark.parametrize(
    ("arguments", "buckets", "says"),
    [
        (["--bucket", "b", "--dialect", "sns"], "b", "it is own or s3"),
        (["--bucket", "other"], "b", "add it to TAGSTREAM_BUCKETS"),
        ([], "a,b", "Name it with --bucket"),
        ([], "", "Name it with --bucket"),
    ],
)
def test_what_cannot_be_meant_is_told(
    arguments: list[str], buckets: str, says: str, tagstream: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGSTREAM_KAFKA_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("TAGSTREAM_S3_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("TAGSTREAM_BUCKETS", buckets)
    ran = tagstream("emit", *arguments)
    assert ran.code == 2
    assert says in ran.err
