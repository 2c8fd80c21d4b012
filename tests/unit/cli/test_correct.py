"""`tagstream correct`, where it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Ran
from workers.cli.correct import _records
from workers.errors import Misconfigured

LINE = b'{"schema":"image-correction/1","bucket":"photos","key":"a.jpg","added":["dog"]}\n'


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name one image"),
        (["photos/a.jpg", "--file", "x"], "name one image"),
        (["--file", "x", "--add", "dog"], "--file says everything itself"),
        (["photos", "--add", "dog"], "'photos' is no BUCKET/KEY"),
        (["photos/a.jpg"], "--add TAG for one that it has, --remove TAG, or --withdraw"),
        (["photos/a.jpg", "--add", "dog", "--remove", "dog"], "both added and removed"),
        (["photos/a.jpg", "--add", "dog", "--withdraw"], "--withdraw takes everything back"),
        (["photos/a.jpg", "--add", "dog", "--sha256", "abc"], "sha256"),
        (["photos/a.jpg", "--add", "dog"], "TAGSTREAM_KAFKA_SERVERS"),
    ],
)
def test_what_can_not_be_meant_is_refused(tagstream: Callable[..., Ran], arguments: list[str], says: str) -> None:
    ran = tagstream("correct", *arguments)
    assert ran.code == 2
    assert says in ran.err


def test_a_file_is_read_line_by_line_and_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "corrections.jsonl"
    file.write_bytes(LINE + b"\n" + LINE.replace(b"a.jpg", b"b.jpg") + b'{"schema":"x"}\n')
    read = _records(file)
    assert [next(read).key, next(read).key] == [b"photos/a.jpg", b"photos/b.jpg"]
    with pytest.raises(Misconfigured, match=r"corrections\.jsonl, line 4: .*The lines before it are sent"):
        next(read)


def test_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "corrections.jsonl"
    file.write_bytes(b"x" * 10_000_000)
    with pytest.raises(Misconfigured, match=r"line 1: 262,146 bytes"):
        next(_records(file))
    with pytest.raises(Misconfigured, match="can't be read: No such file"):
        next(_records(tmp_path / "none"))
