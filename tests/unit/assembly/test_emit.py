"""Events for a folder or a bucket, and the images that are left out."""

import os
import re
from pathlib import Path

import pytest

from schemas.image_event import ImageEvent, parse_message
from tests.support.command import Tagstream
from workers.assembly.image_sources import FolderSource, StoredImage, batches, event_for
from workers.assembly.progress import Pace
from workers.cli.terminal import counting
from workers.errors import Misconfigured


@pytest.mark.parametrize("key", ["a.jpg", "with space/plus+percent%/ünï#?.png", "a//b"])
@pytest.mark.parametrize("date", ["2026-11-25T01:02:03Z", None])
def test_an_event_reads_back_as_the_image_it_asks_for(key: str, date: str | None) -> None:
    message = event_for(StoredImage("photos", key, 123, "abc", date), "images")
    assert message.key == f"photos/{key}".encode()
    (event,) = parse_message(message.value, message.headers, topic="images", partition=0, offset=5)
    assert isinstance(event, ImageEvent)
    assert (event.dialect, event.action) == ("own", "enrich")
    assert (event.bucket, event.key, event.etag, event.size) == ("photos", key, "abc", 123)
    assert event.sequencer is None
    assert event.event_time == date, "when the store said so, not when it is sent"


def test_batches_keep_order_and_lose_nothing() -> None:
    assert list(batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batches([], 3)) == []


def source(folder: Path, *, max_bytes: int = 100) -> FolderSource:
    return FolderSource(folder, "photos", "in/", max_bytes=max_bytes, overwrite=False)


def test_a_folders_images_come_in_key_order_and_continue_behind_the_place(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "b").mkdir(parents=True)
    for name in ("b/2.PNG", "b/1.jpg", "a.webp", "notes.txt", "b.gif"):
        (folder / name).write_bytes(b"x")
    found = [key for key, _ in source(folder).behind("")]
    assert found == ["in/a.webp", "in/b.gif", "in/b/1.jpg", "in/b/2.PNG"]
    assert [key for key, _ in source(folder).behind("in/b.gif")] == ["in/b/1.jpg", "in/b/2.PNG"]


def test_a_folder_without_images_is_reported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Misconfigured, match="holds no images"):
        source(tmp_path / "empty")


def test_files_that_are_left_out_are_counted_by_reason_with_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "behind a link.jpg").write_bytes(b"x")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "good.jpg").write_bytes(b"x" * 100)
    (folder / "large.jpg").write_bytes(b"x" * 101)
    (folder / "empty.jpg").touch()
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "notes\x1b[2J.txt").touch()
    os.mkfifo(folder / "pipe.jpg")
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    deep = folder / ("d" * 250) / ("e" * 250) / ("f" * 250) / ("g" * 250)
    deep.mkdir(parents=True)
    (deep / f"{'h' * 40}.jpg").write_bytes(b"x")
    found = source(folder)
    assert [key for key, _ in found.behind("")] == ["in/good.jpg"]
    said = [re.fullmatch(r"left out 1: (.*); the first is (.*)", line) for line in found.left_out.lines()]
    assert {line.group(1): Path(line.group(2)).name for line in said if line} == {
        "can't be read: Too many levels of symbolic links": "loop.jpg",
        "empty": "empty.jpg",
        "its key has more than 1,024 bytes": f"{'h' * 40}.jpg",
        "its name is no UTF-8": "\ufffd.jpg",
        "larger than the 100 bytes that TAGSTREAM_MAX_OBJECT_BYTES allows": "large.jpg",
        "not a regular file": "pipe.jpg",
        "not an image by its ending": "notes\ufffd[2J.txt",
    }


def test_a_bar_on_a_terminal_alone_shows_how_many_are_done(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with counting("events sent", 7) as advance:
        advance(2)
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with counting("events sent", 7) as advance:
        advance(2)
    assert "2/7" in capfd.readouterr().err


def test_a_pace_lets_events_pass_evenly_and_catches_up_for_no_more_than_a_second() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(4.0, lambda: now[0], sleep)
    for _ in range(9):
        pace.wait()
    assert now[0] == pytest.approx(2.0)
    now[0] += 60
    slept.clear()
    for _ in range(9):
        pace.wait()
    assert sum(slept) == pytest.approx(1.0), "a pause of a minute is not made up for"
    assert [Pace(rate).batch(100) for rate in (None, 0.1, 7.5, 1e9)] == [100, 1, 7, 100]


@pytest.mark.parametrize(
    ("arguments", "buckets", "says"),
    [
        (["--bucket", "other"], "b", "add it to TAGSTREAM_BUCKETS"),
        (["--bucket", "b", "--rate", "0"], "b", "--rate"),
        (["--bucket", "b", "--rate", "nan"], "b", "--rate"),
        (["--bucket", "b", "--rate", "1e-300"], "b", "at least 0.001"),
        ([], "a,b", "Name it with --bucket"),
        ([], "", "Name it with --bucket"),
    ],
)
def test_a_meaningless_argument_is_reported(
    arguments: list[str], buckets: str, says: str, tagstream: Tagstream
) -> None:
    given = {"KAFKA_SERVERS": "127.0.0.1:1", "S3_ENDPOINT": "http://127.0.0.1:1", "BUCKETS": buckets}
    assert says in tagstream("emit", *arguments, **given).fails()
