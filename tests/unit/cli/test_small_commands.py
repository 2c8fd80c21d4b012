"""What single commands say, and where they refuse."""

from pathlib import Path

import pytest

from tests.support.command import Tagstream
from workers.cli.correct import _records
from workers.errors import Misconfigured

LINE = b'{"schema":"image-correction/1","bucket":"photos","key":"a.jpg","added":["dog"]}\n'


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("correct", "BUCKET/KEY"),
        ("correct photos/a.jpg --file x", "BUCKET/KEY"),
        ("correct --file x --add dog", "--file"),
        ("correct --file x --apply", "--apply is for one image"),
        ("correct photos --add dog", "'photos' is no BUCKET/KEY"),
        ("correct photos/a.jpg", "--add TAG, --remove TAG and --withdraw"),
        ("correct photos/a.jpg --add dog --remove dog", "both added and removed"),
        ("correct photos/a.jpg --add dog --withdraw", "--withdraw"),
        ("correct photos/a.jpg --add dog --sha256 abc", "sha256"),
        ("correct photos/a.jpg --add dog", "TAGSTREAM_KAFKA_SERVERS"),
        ("retag plan", "--output"),
        ("retag plan -o plan --reason below-flor", "below-floor"),
        ("retag plan -o plan --reason caption-unavailable", "TAGSTREAM_KAFKA_SERVERS"),
        ("retag plan -o plan --since noon", "noon"),
        ("retag plan -o plan", "TAGSTREAM_KAFKA_SERVERS"),
        ("capacity 0", "images_a_day"),
        ("capacity 10 --known 1", "--known"),
        ("capacity 10 --profile none", "compact, ram-bf16"),
    ],
)
def test_a_meaningless_argument_is_refused_before_anything_is_read(
    tagstream: Tagstream, command: str, says: str
) -> None:
    assert says in tagstream(*command.split()).fails()


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
