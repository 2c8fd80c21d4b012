"""Shards of others: import, few reads, invalid tar files and hostile headers."""

import io
import resource
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest

from tagstream_testing.memory import MemoryObjectStore
from tagstream_train.data.formats import Request, open_source
from tagstream_train.data.images import BadImage, Images
from tagstream_train.data.importer import import_dataset
from tagstream_train.data.shards import MAX_HEADER_BYTES, place_of, plain_files
from tests.support.command import Tagstream
from training.tests.unit.pictures import png
from workers.errors import Misconfigured


def tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            out.addfile(member, io.BytesIO(body))
    return path


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "no tar file"), (b"no tar file at all" * 100, "no tar file"), (None, "can't be read: No such file")],
)
def test_a_file_that_is_no_shard_is_named_with_each_image_of_it(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(BadImage, match=rf"a\.tar/1\.png: the shard .*{complaint}"):
        Images(tmp_path).read("a.tar/1.png")


def test_only_plain_members_inside_the_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(1))
    path = tar(tmp_path / "set/a.tar", {"1.png": png(1), "./2.png": png(2)})
    with tarfile.open(path, "a") as out:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../secret.png"
        out.addfile(link)
    images = Images(tmp_path / "set")
    assert images.read("a.tar/2.png") == png(2)
    for name in ("a.tar/link.png", "a.tar/3.png", "../a.tar/1.png"):
        with pytest.raises(BadImage):
            images.read(name)


def test_a_shard_that_is_cut_short_gives_the_images_that_are_whole(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"1.png": png(1), "2.png": png(2)})
    path.write_bytes(path.read_bytes()[: 1024 + 512 + 30])
    images = Images(tmp_path)
    assert images.load("a.tar/1.png").size == (20, 12)
    with pytest.raises(BadImage):
        images.load("a.tar/2.png")


def test_a_member_is_bounded_like_any_image(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"1.png": bytes(21 * 1024**2)})
    with pytest.raises(BadImage, match="more than"):
        Images(tmp_path).read("a.tar/1.png")


def test_names_lead_through_a_shard_by_its_ending() -> None:
    assert place_of("shards/1.tar/a/b.jpg") == ("shards/1.tar", "a/b.jpg")
    assert place_of("images/1.tar") is None
    assert place_of("images/a.jpg") is None


def test_shards_of_others_are_imported(tmp_path: Path) -> None:
    files = {
        "a/1.jpg": png(1),
        "a/1.json": b'{"tags": ["dog", "ball"], "caption": "a dog"}',
        "a/2.seg.png": png(2),
        "a/2.cls": b"7\n",
        "a/2.txt": b" a cat ",
        "readme.txt": b"hello",
    }
    tar(tmp_path / "shards/0.tar", files)
    source = open_source(Request(tmp_path / "shards"))
    assert (source.format, source.labels) == ("webdataset", ("7", "ball", "dog"))
    dataset = import_dataset([source], tmp_path / "set").dataset
    found = {sample.image: (sample.tags, sample.captions) for sample in dataset}
    assert found == {"images/0/a/1.jpg": ((1, 2), ("a dog",)), "images/0/a/2.seg.png": ((0,), ("a cat",))}
    assert Images(dataset.folder).read("images/0/a/1.jpg") == png(1)


def test_a_document_in_a_shard_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for number, body in enumerate((b"{", b"[]", b'{"tags": [1]}', b"\xff", b" " * 1_000_001)):
        path = tar(tmp_path / f"{number}.tar", {"1.jpg": png(1), "1.json": body})
        with pytest.raises(Misconfigured, match=rf"{number}\.tar, 1: "):
            open_source(Request(path))


def test_a_set_reads_from_no_bucket_that_is_not_named(
    tmp_path: Path, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image of a bucket that the credentials can read and the operator did not mean."""
    store = MemoryObjectStore()
    for number, bucket in enumerate(("photos", "secret")):
        store.put(bucket, "a.png", png(number))
    monkeypatch.setattr("workers.assembly.clients.object_store", lambda settings: store)
    given = {"S3_ENDPOINT": "http://127.0.0.1:9", "BUCKETS": "photos"}
    (tmp_path / "t.csv").write_text("image,tags\ns3://photos/a.png,dog\ns3://secret/a.png,dog\n")
    command = ("train", "import", tmp_path / "t.csv", "-o")
    assert list(tagstream(*command, tmp_path / "set", "--json", **given).json["skipped"]) == ["s3://secret/a.png"]
    assert "secret" not in [bucket for bucket, _ in store.reads]
    assert tagstream(*command, tmp_path / "both", "--bucket", "secret", **given).code == 0
    assert ("secret", "a.png") in store.reads


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
    written = bytearray(block)
    written[place] = field
    written[148:156] = b" " * 8
    written[148:156] = b"%06o\0 " % sum(written)
    return bytes(written)


SIZE = slice(124, 136)
ONE = header("one.jpg", b"0", 0)
ABOUT = MAX_HEADER_BYTES - 3 * 512
"""The most bytes before a member."""
OVERLAPPING = b"2 " * (ABOUT // 2 - 2) + b"=a"
"""Each two bytes announce a record with the rest as its key."""


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_shard_of_many_files_is_read_in_little_memory() -> None:
    content = (about(b"17 path=last.jpg\n") + ONE) * 5_000
    tracemalloc.start()
    assert sum(1 for _ in plain_files(io.BytesIO(content))) == 5_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_an_empty_file_is_no_set() -> None:
    with pytest.raises(ValueError, match="empty"):
        list(plain_files(io.BytesIO()))
