"""Headers of tar files: what Python's tarfile finds, without what it can be made to do."""

from __future__ import annotations

import io
import resource
import tarfile
import time
from pathlib import Path

import pytest

from tagstream_train.data.tar_headers import MAX_ABOUT_BYTES, plain_files

LONG = "folder/" * 40 + "photo.jpg"
NAMES = ("a.jpg", "./b.jpg", "ümläut.jpg", "p/" * 70 + "c.jpg", LONG, f"{LONG}é", "empty.txt")


def archive(form: int, names: tuple[str, ...] = NAMES) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for number, name in enumerate(names):
            content = bytes([number]) * (number * 300 if name != "empty.txt" else 0)
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1.5
            tar.addfile(member, io.BytesIO(content))
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            other = tarfile.TarInfo(f"other {kind!r}")
            other.type, other.linkname = kind, LONG if form != tarfile.USTAR_FORMAT else "a.jpg"
            tar.addfile(other)
        tar.addfile(tarfile.TarInfo("last.jpg"))
    return out.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_plain_files_of_every_format_are_found(form: int) -> None:
    names = NAMES if form != tarfile.USTAR_FORMAT else tuple(name for name in NAMES if LONG not in name)
    content = archive(form, names)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(each.name, each.offset_data, each.size) for each in tar if each.isreg()]
    assert [tuple(each) for each in plain_files(io.BytesIO(content))] == expected
    assert len(expected) == len(names) + 1


def header(name: str, kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def about(content: bytes, kind: bytes = b"x") -> bytes:
    return header("about", kind, len(content)) + content.ljust(-(-len(content) // 512) * 512, b"\0")


def changed(block: bytes, place: slice, field: bytes) -> bytes:
    """A header with another field, and the checksum of that."""
    written = bytearray(block)
    written[place] = field
    written[148:156] = b" " * 8
    written[148:156] = b"%06o\0 " % sum(written)
    return bytes(written)


SIZE = slice(124, 136)
ONE = header("one.jpg", b"0", 0)
OVERLAPPING = b"2 " * (MAX_ABOUT_BYTES // 2 - 2) + b"=a"
"""Each two bytes announce a record whose key is all that follows."""


@pytest.mark.parametrize(
    "hostile",
    [
        header("x", b"x", 3_000_000_000),
        header("x", b"L", 3_000_000_000),
        header("x", b"g", 3_000_000_000),
        about(OVERLAPPING) * 100,
        about(b"0 path=a\n"),
        about(b"-5 path=a\n"),
        about(b"99999 path=a\n"),
        about(b"13 path=a.jpg"),
        about(b"path"),
        about(b"12 size=-51\n") + ONE,
        about(b"13 path=abcd\n" + b"22 GNU.sparse.major=1\n") + ONE,
        changed(ONE, SIZE, b"-0000000777\0"),
        changed(ONE, SIZE, b"0_0_0_0_777\0"),
        changed(ONE, SIZE, b"many bytes \0"),
        header("x", b"S", 512),
        about(b"x" * 5000, b"L") + ONE,
        ONE[:-1],
        b"\1" * 512,
    ],
)
def test_a_hostile_header_costs_nothing_and_ends_the_reading(hostile: bytes) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    files = plain_files(io.BytesIO(ONE + hostile + ONE + bytes(1024)))
    assert next(files).name == "one.jpg"
    with pytest.raises(ValueError, match=r"member|number|length|record|name|header"):
        list(files)
    assert time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_an_empty_file_is_none() -> None:
    with pytest.raises(ValueError, match="empty"):
        list(plain_files(io.BytesIO()))


def test_names_before_names_are_read_one_after_the_other() -> None:
    named = about(b"first.jpg", b"L") * 5_000 + about(b"17 path=last.jpg\n") * 5_000 + ONE
    assert [each.name for each in plain_files(io.BytesIO(named))] == ["last.jpg"]


def test_a_size_larger_than_octal_digits_hold_is_read(tmp_path: Path) -> None:
    large = changed(ONE, SIZE, b"\x80" + (10 * 1024**3).to_bytes(11, "big"))
    path = tmp_path / "sparse.tar"
    with path.open("wb") as file:
        file.write(large)
        file.seek(512 + 10 * 1024**3)
        file.write(changed(ONE, slice(0, 7), b"two.jpg"))
    with path.open("rb") as file:
        assert [(each.name, each.size) for each in plain_files(file)] == [("one.jpg", 10 * 1024**3), ("two.jpg", 0)]
