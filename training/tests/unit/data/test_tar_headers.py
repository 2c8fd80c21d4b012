"""Headers of tar files: hostile ones cost little and hide no file before them."""

from __future__ import annotations

import io
import resource
import tarfile
import time
import tracemalloc

import pytest

from tagstream_train.data.shards import MAX_HEADER_BYTES, plain_files

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
ABOUT = MAX_HEADER_BYTES - 3 * 512
"""The most that may stand before a member."""
OVERLAPPING = b"2 " * (ABOUT // 2 - 2) + b"=a"
"""Each two bytes announce a record whose key is all that follows."""


DECLARED = b"".join(b"%d path%05d=\n" % (len("13 path00000=\n"), number) for number in range(ABOUT // 14))


@pytest.mark.parametrize(
    "hostile",
    [
        header("x", b"x", 3_000_000_000),
        header("x", b"L", 3_000_000_000),
        header("x", b"g", 3_000_000_000),
        changed(ONE, slice(124, 157), b"\xff" * 10 + b"\0\0" + ONE[136:156] + b"L"),
        changed(ONE, slice(124, 157), b"\xff" * 10 + b"\0\0" + ONE[136:156] + b"0"),
        about(b"x" * 5000, b"L"),
        about(b"x", b"L") * 20_000,
        about(b"17 path=last.jpg\n") * 20_000,
        about(b"12 size=-51\n"),
        changed(ONE, SIZE, b"-0000000777\0"),
        about(b"13 path=abcd\n" + b"22 GNU.sparse.major=1\n" + b"22 GNU.sparse.minor=0\n"),
        header("x", b"S", 512),
    ],
)
def test_a_hostile_header_costs_nothing_and_ends_the_reading(hostile: bytes) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    files = plain_files(io.BytesIO(ONE + hostile + ONE + bytes(1024)))
    assert next(files).name == "one.jpg"
    with pytest.raises(ValueError):  # noqa: PT011 - tarfile's own words
        list(files)
    assert time.monotonic() - began < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize(
    "damaged",
    [
        (about(OVERLAPPING) + ONE) * 10,
        (about(b"1" * ABOUT) + ONE) * 10,
        (about(DECLARED, b"g") + ONE) * 200,
        about(b"0 path=a\n"),
        about(b"-5 path=a\n"),
        about(b"99999 path=a\n"),
        about(b"13 path=a.jpg"),
        about(b"path"),
        changed(ONE, SIZE, b"0_0_0_0_777\0"),
        changed(ONE, SIZE, b"many bytes \0"),
        ONE[:-1],
        b"\1" * 512,
    ],
)
def test_a_damaged_header_costs_little_and_hides_no_file_before_it(damaged: bytes) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    found = list(plain_files(io.BytesIO(ONE + damaged + ONE + bytes(1024))))
    assert found[0].name == "one.jpg"
    assert len(found) <= 2 + len(damaged) / 512
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_shard_of_many_files_is_read_in_little_memory() -> None:
    content = (about(b"17 path=last.jpg\n") + ONE) * 5_000
    tracemalloc.start()
    assert sum(1 for _ in plain_files(io.BytesIO(content))) == 5_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_an_empty_file_is_none() -> None:
    with pytest.raises(ValueError, match="empty"):
        list(plain_files(io.BytesIO()))
